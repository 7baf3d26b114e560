"""Wanted modules are patched however they come in, and get the identical objects back; each way in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

# The library that is patched, a patch for it, and what the programs below use to see what became of it.
SITE = {
    "wanted.py": """
        RUNS = globals().get("RUNS", 0) + 1
        def call(): return "original"
        class Client:
            def send(self): return "original"
        """,
    "wanted_patch.py": """
        MODULES = ("wanted",)
        def apply(module, patching):
            patching.replace(module, "call", lambda: "patched")
            patching.wrap(module.Client, "send", lambda original, self=None: "patched")
        """,
    "user.py": "from wanted import call\n",
    "kit.py": """
        import importlib, importlib.util, sys, types
        from importlib.machinery import PathFinder
        import threadsafe_timeout as t
        def is_patched(module=None):
            module = module or sys.modules["wanted"]
            found = {module.call(), module.Client().send()}
            assert len(found) == 1, found
            return found == {"patched"}
        originals = []
        def remember(module):
            "What is patched of a module; called while it is patched, or was never"
            import wrapt
            send = vars(module.Client)["send"]
            send = send.__wrapped__ if isinstance(send, wrapt.FunctionWrapper) else send
            originals.append((module, module.Client, send))
        def check_given_back():
            t.uninstall()
            assert originals
            for module, client, send in originals:
                assert vars(client)["send"] is send, vars(client)
                assert module.call() == "original", module
        """,
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    info = site / "somebodys-3.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 3.0\n")
    (info / "entry_points.txt").write_text("[threadsafe_timeout.patches]\nsomebodys = wanted_patch\n")
    for name, text in SITE.items():
        (site / name).write_text(textwrap.dedent(text))
    return site


def run(program: str, site: Path, name: str = "program.py") -> subprocess.CompletedProcess[str]:
    path = site.parent / name
    path.write_text(f"import sys; sys.path.insert(0, {str(site)!r})\n" + textwrap.dedent(program))
    done = subprocess.run([sys.executable, name], cwd=site.parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


# Each program has put the line in first, and has seen to it that `wanted` is in `sys.modules`.
WAYS = {
    "a finder in front that finds everything": """
        class Finder:
            def find_spec(self, name, path=None, target=None): return PathFinder.find_spec(name, path, target)
        sys.meta_path.insert(0, Finder())
        import wanted
        """,
    "a finder in front with a loader of its own": """
        import importlib.machinery
        class Loader(importlib.machinery.SourceFileLoader):
            def exec_module(self, module):
                module.loaded_by = self
                super().exec_module(module)
        class Finder:
            def find_spec(self, name, path=None, target=None):
                spec = PathFinder.find_spec(name, path, target)
                if spec is not None and name == "wanted":
                    spec.loader = Loader(spec.loader.name, spec.loader.path)
                return spec
        sys.meta_path.insert(0, Finder())
        import wanted
        assert wanted.loaded_by is wanted.__loader__ is wanted.__spec__.loader
        """,
    "meta_path is another list": """
        sys.meta_path = [finder for finder in sys.meta_path if type(finder).__module__ != "wrapt.importer"]
        import wanted
        """,
    "again, when it was taken out of sys.modules": """
        import wanted
        remember(wanted)
        first = wanted
        del sys.modules["wanted"]
        import wanted
        assert wanted is not first and is_patched(first)
        """,
    "reloaded": """
        import wanted
        remember(wanted)
        importlib.reload(wanted)
        assert wanted.RUNS == 2
        """,
    "reloaded, twice, with a finder in front": """
        class Finder:
            def find_spec(self, name, path=None, target=None): return PathFinder.find_spec(name, path, target)
        sys.meta_path.insert(0, Finder())
        import wanted
        importlib.reload(importlib.reload(wanted))
        assert wanted.RUNS == 3
        """,
    "a lazy loader, by hand": """
        spec = importlib.util.find_spec("wanted")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        wanted = sys.modules["wanted"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(wanted)
        assert type(wanted) is not types.ModuleType, "it is not loaded yet"
        """,
    "a lazy loader, from a finder in front": """
        class Finder:
            def find_spec(self, name, path=None, target=None):
                spec = PathFinder.find_spec(name, path, target)
                if spec is not None and name == "wanted":
                    spec.loader = importlib.util.LazyLoader(spec.loader)
                return spec
        sys.meta_path.insert(0, Finder())
        import wanted
        from threadsafe_timeout.doctor import report
        report()
        t.install(grace=3)
        assert type(wanted) is not types.ModuleType, "neither the import nor a report has loaded it"
        """,
    "a post-import hook of wrapt's": """
        import wrapt
        hooked = []
        wrapt.register_post_import_hook(hooked.append, "wanted")
        import wanted
        assert hooked == [wanted]
        """,
    "by hand, from a file, then a scope": """
        spec = importlib.util.spec_from_file_location("wanted", importlib.util.find_spec("wanted").origin)
        wanted = sys.modules["wanted"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(wanted)
        with t.deadline(30): pass
        """,
    "by hand, made of nothing, then a pool": """
        wanted = types.ModuleType("wanted")
        exec(open(importlib.util.find_spec("wanted").origin).read(), vars(wanted))
        sys.modules["wanted"] = wanted
        with t.ThreadPoolExecutor(1): pass
        """,
    "by hand, in the place of another, then a pool": """
        import wanted
        remember(wanted)
        another = types.ModuleType("wanted")
        exec(open(wanted.__file__).read(), vars(another))
        sys.modules["wanted"] = another
        with t.ThreadPoolExecutor(1): pass
        """,
    "by hand, from a file, then a connection": """
        import socket
        wanted = types.ModuleType("wanted")
        exec(open(importlib.util.find_spec("wanted").origin).read(), vars(wanted))
        sys.modules["wanted"] = wanted
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()): pass
        """,
    "by hand, then a report": """
        wanted = types.ModuleType("wanted")
        exec(open(importlib.util.find_spec("wanted").origin).read(), vars(wanted))
        sys.modules["wanted"] = wanted
        from threadsafe_timeout.doctor import examine
        patch, = [patch for patch in examine()["patches"] if patch["name"] == "somebodys"]
        assert patch["state"] == "applied", patch
        """,
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_patched_and_given_back(way: str, site: Path) -> None:
    run(
        "import threadsafe_timeout.auto\nfrom kit import *\n" + textwrap.dedent(WAYS[way]) + textwrap.dedent("""
        assert is_patched(), "not patched"
        import user
        assert user.call() == "patched"
        remember(sys.modules["wanted"])
        assert "threadsafe_timeout" not in type(sys.modules["wanted"].__loader__).__module__
        check_given_back()
        assert user.call() == "original"
        """),
        site,
    )  # fmt: skip


def test_from_a_zip_file(site: Path) -> None:
    with zipfile.ZipFile(site / "bundle.zip", "w") as bundle:
        bundle.write(site / "wanted.py", "wanted.py")
    (site / "wanted.py").unlink()
    run(
        """
        import threadsafe_timeout.auto
        from kit import *
        sys.path.insert(0, sys.path[0] + "/bundle.zip")
        import wanted
        assert "bundle.zip" in wanted.__file__ and is_patched()
        remember(wanted)
        check_given_back()
        """,
        site,
    )


def test_one_that_is_being_imported_when_the_line_comes(site: Path) -> None:
    """The line at the top of a module that is itself wanted: its classes are not there yet."""
    (site / "wanted.py").write_text("import threadsafe_timeout.auto\n" + textwrap.dedent(SITE["wanted.py"]))
    done = run(
        """
        import wanted
        from kit import *
        with t.ThreadPoolExecutor(1): pass
        assert is_patched()
        remember(wanted)
        check_given_back()
        """,
        site,
    )
    assert "could not be applied" not in done.stderr


def test_one_that_makes_a_pool_while_it_is_run_by_hand(site: Path) -> None:
    (site / "wanted.py").write_text(
        "import threadsafe_timeout as t\nwith t.ThreadPoolExecutor(1): pass\n" + textwrap.dedent(SITE["wanted.py"])
    )
    done = run(
        """
        import threadsafe_timeout.auto
        from kit import *
        wanted = sys.modules["wanted"] = types.ModuleType("wanted")
        exec(compile(open(sys.path[0] + "/wanted.py").read(), "wanted.py", "exec"), vars(wanted))
        with t.ThreadPoolExecutor(1): pass
        assert is_patched()
        """,
        site,
    )
    assert "could not be applied" not in done.stderr


def test_install_and_uninstall_load_no_lazy_module(site: Path) -> None:
    run(
        """
        from kit import *
        spec = importlib.util.find_spec("user")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        user = sys.modules["user"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(user)
        t.install()
        t.uninstall()
        assert type(user) is not types.ModuleType
        """,
        site,
    )


def test_uninstall_leaves_the_import_system_as_it_was(site: Path) -> None:
    run(
        """
        from kit import *
        places = importlib._bootstrap, importlib.util
        before, path = [place._find_spec for place in places], list(sys.meta_path)
        t.install()
        assert [place._find_spec for place in places] != before
        assert sys.meta_path == path
        t.uninstall()
        assert [place._find_spec for place in places] == before
        import wanted
        assert not is_patched()
        t.install()
        assert is_patched()
        """,
        site,
    )


def test_a_failing_import_fails_as_ever(site: Path) -> None:
    (site / "wanted.py").write_text("import there_is_no_such_module\n")
    run(
        """
        import threadsafe_timeout.auto
        from kit import *
        import traceback
        for name in ("wanted", "nor_is_there_this"):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as exc:
                files = [frame.filename for frame in traceback.extract_tb(exc.__traceback__)]
                assert (name == "wanted") is any("site" in file and file.endswith("wanted.py") for file in files), files
                assert not any("_finder" in file for file in files), files
                assert name not in sys.modules
            else:
                raise AssertionError(name)
        """,
        site,
    )


RUNNER = """
    from concurrent.futures import ThreadPoolExecutor
    class BatchTestRunner:
        def _run_single_test_safe(self, task): return {"success": True}
    def main():
        with ThreadPoolExecutor(1):
            return hasattr(vars(BatchTestRunner)["_run_single_test_safe"], "__wrapped__")
    PATCHED = main()
    """

RUNS = {
    "run_path": "PATCHED = runpy.run_path(path)['PATCHED']",
    "run_path, as __main__": "PATCHED = runpy.run_path(path, run_name='__main__')['PATCHED']",
    "run_module, as __main__": "PATCHED = runpy.run_module('batch_test_runner', run_name='__main__', alter_sys=True)['PATCHED']",
    "exec": "names = {'__name__': 'plugin', '__file__': path}; exec(open(path).read(), names); PATCHED = names['PATCHED']",
    "from a file, under another name": """
spec = importlib.util.spec_from_file_location("plugin_7", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
PATCHED = module.PATCHED
""",
    "a thread that runs it": """
import threading
found = []
thread = threading.Thread(target=lambda: found.append(runpy.run_path(path)["PATCHED"]))
thread.start(); thread.join()
PATCHED = found[0]
""",
}


@pytest.mark.parametrize("how", RUNS)
def test_a_runner_that_is_never_imported_under_its_name(how: str, site: Path) -> None:
    (site / "batch_test_runner.py").write_text(textwrap.dedent(RUNNER))
    run(
        "import importlib.util, runpy, threadsafe_timeout.auto\npath = sys.path[0] + '/batch_test_runner.py'\n"
        + RUNS[how] + "\nassert PATCHED\nimport builtins\nassert builtins.__build_class__.__module__ == 'builtins'\n",
        site,
    )  # fmt: skip


def test_another_file_with_such_a_class_is_left_alone(site: Path) -> None:
    (site / "my_batch_test_runner.py").write_text(textwrap.dedent(RUNNER))
    run(
        "import runpy, threadsafe_timeout.auto\n"
        "assert not runpy.run_path(sys.path[0] + '/my_batch_test_runner.py')['PATCHED']\n",
        site,
    )


def test_in_a_sub_interpreter_a_warning_says_that_nothing_is_patched(site: Path) -> None:
    done = run(
        """
        import threadsafe_timeout.auto, time
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        one = interpreters.create()
        code = "import threadsafe_timeout.auto, time; assert 'built-in' in repr(time.sleep); print('ran', flush=True)"
        interpreters.run_string(one, code)
        interpreters.destroy(one)
        assert "built-in" not in repr(time.sleep)
        """,
        site,
    )
    assert done.stdout == "ran\n"
    assert done.stderr.count("nothing is patched, and no call has a deadline: this is a sub-interpreter") == 1
