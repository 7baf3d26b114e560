"""What `doctor` says: patched, not patched and why, still in use, and the settings with their sources."""

import json
import subprocess
import sys
import textwrap

import openai
import pytest

from threadsafe_timeout import install
from threadsafe_timeout._patching.install import installed
from threadsafe_timeout._patching.versions import in_range
from threadsafe_timeout.cli import main
from threadsafe_timeout.doctor import examine, report

pytestmark = pytest.mark.usefixtures("nothing_set")


def doctor(capsys, *arguments):
    status = main(["doctor", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def states(found):
    return {patch["name"]: patch["state"] for patch in found["patches"]}


def python(code, cwd, *, status=0):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_everything_that_is_installed_is_applied_and_has_a_version(capsys):
    status, found = doctor(capsys)
    assert status == 0
    known = states(found)
    assert known["time"] == known["futures"] == known["openai"] == "applied"
    assert known["legacy_runner"] == "not installed"
    modules = {module["name"]: module for patch in found["patches"] for module in patch["modules"]}
    assert modules["time"]["version"].startswith("Python 3.")
    assert modules["openai._base_client"]["version"] == openai.__version__
    assert found["interrupt"].keys() == {"mechanism", "detail"}
    assert installed() is None, "it leaves the process as it was"


def test_what_was_left_out_by_settings_says_by_which(capsys, monkeypatch):
    monkeypatch.setenv("THREADSAFE_TIMEOUT_PATCHES", "futures")  # all of them are imported by the test above
    monkeypatch.setenv("THREADSAFE_TIMEOUT_GRACE", "4")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    status, found = doctor(capsys)
    left_out = next(patch for patch in found["patches"] if patch["name"] == "time")
    assert left_out["state"] == "left out"
    assert "THREADSAFE_TIMEOUT_PATCHES" in left_out["detail"]
    assert found["settings"]["grace"] == {"value": 4.0, "source": "environment variable THREADSAFE_TIMEOUT_GRACE"}
    assert found["settings"]["llm_timeout"]["source"] == "default"
    assert "sk-secret" not in json.dumps(found)
    assert status == 0


def test_a_wrong_setting_is_told_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("THREADSAFE_TIMEOUT_GRACE", "soon")
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_before_install_it_says_so():
    assert set(states(examine()).values()) == {"off"}
    assert "install() has not been called" in report()


def test_a_report_tells_what_the_json_does(capsys, monkeypatch):
    monkeypatch.setenv("THREADSAFE_TIMEOUT_PATCHES", "futures,time")  # else the command imports all clients
    install(grace=3)
    text = report()
    for name, state in states(examine()).items():
        assert any(line.split()[1:2] == [name] and state in line for line in text.splitlines()), (name, state)
    assert "grace = 3.0" in text
    assert "install()" in text
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == report() + "\n"
    assert installed() is not None


def test_a_module_that_is_not_imported_yet_waits(tmp_path):
    out = python(
        """
        import threadsafe_timeout.auto
        from threadsafe_timeout.doctor import examine
        states = lambda: {p["name"]: p["state"] for p in examine()["patches"]}
        print(states()["multiprocessing_pool"])
        import multiprocessing.pool
        print(states()["multiprocessing_pool"])
        """,
        tmp_path,
    ).stdout
    assert out == "waiting\napplied\n"


def test_names_that_could_not_be_rebound_and_where(tmp_path):
    (tmp_path / "runner.py").write_text(
        textwrap.dedent(
            """
            import functools, time
            from concurrent.futures import ThreadPoolExecutor
            from time import sleep
            def retry(pause=time.sleep): pass
            class Backoff:
                wait = time.sleep
            class Keeper:
                def __init__(self): self.wait = time.sleep
            class Pool(ThreadPoolExecutor): pass
            later = functools.partial(time.sleep, 3)
            table = {"a": [time.sleep]}
            def make():
                pause = time.sleep
                return lambda: pause(1)
            made, keeper = make(), Keeper()
            """
        )
    )
    out = python(
        """
        import runner, json, threadsafe_timeout.auto
        from threadsafe_timeout.doctor import examine
        print(json.dumps(examine()["not_rebound"]))
        """,
        tmp_path,
    ).stdout
    found = {(each["name"].rpartition(".")[2], each["where"].partition(",")[0]) for each in json.loads(out) if "runner." in each["where"]}
    assert found == {
        ("sleep", "runner.retry"), ("sleep", "runner.Backoff"), ("sleep", "runner.Keeper"), ("sleep", "runner.later"),
        ("sleep", "runner.table"), ("sleep", "runner.make.<locals>.<lambda>"), ("ThreadPoolExecutor", "runner.Pool"),
    }  # fmt: skip


def test_a_module_that_has_put_an_object_in_its_place(tmp_path):
    out = python(
        """
        import sys, time, types
        class Lazy: __slots__ = ()
        module = types.ModuleType("lazy")
        module.sleep = time.sleep
        sys.modules["lazy"] = Lazy()
        import threadsafe_timeout.auto
        from threadsafe_timeout.doctor import report
        print(report())
        """,
        tmp_path,
    ).stdout
    assert "threadsafe-timeout" in out


# Patches that are not for what is installed, and patches that fail


@pytest.fixture
def somebodys(tmp_path, monkeypatch):
    """A distribution with a patch of its own, for a library that is in a version it was not made for."""
    site = tmp_path / "site"
    for name, version, entry in (("oldlib", "0.9", ""), ("newlib", "1.5.1", ""), ("somebodys", "3.0", "[threadsafe_timeout.patches]\nold = old_patch\nbad = bad_patch\nmissing = missing_patch\n")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        (info / "entry_points.txt").write_text(entry)
    (site / "oldlib.py").write_text("def call(): return 'original'\n")
    (site / "newlib.py").write_text("def call(): return 'original'\ndef other(): return 'original'\n")
    (site / "old_patch.py").write_text(
        "MODULES = ('oldlib', 'newlib')\nSUPPORTED = {'oldlib': '>=1.0,<2', 'newlib': '>=1.0,<2'}\n"
        "def apply(module, patching): patching.replace(module, 'call', lambda: 'patched')\n"
    )
    (site / "bad_patch.py").write_text(
        "MODULES = ('newlib',)\n"
        "def apply(module, patching):\n    patching.replace(module, 'other', lambda: 'patched')\n    module.there_is_no_such_name\n"
    )
    return site


def test_out_of_range_and_failing_patches_are_left_out_and_the_rest_goes_on(somebodys, tmp_path):
    done = python(
        f"""
        import json, sys
        sys.path.insert(0, {str(somebodys)!r})
        import oldlib
        import threadsafe_timeout.auto
        import newlib, time
        from threadsafe_timeout.doctor import examine
        print(oldlib.call(), newlib.call(), newlib.other(), time.sleep.__module__, 'builtin' in repr(time.sleep))
        print(json.dumps(examine()))
        """,
        tmp_path,
    )
    calls, found = done.stdout.splitlines()
    assert calls == "original patched original time False"
    found = json.loads(found)
    patches = {patch["name"]: patch for patch in found["patches"]}
    assert (patches["old"]["state"], patches["bad"]["state"], patches["missing"]["state"]) == ("out of range", "failed", "failed")
    assert patches["old"]["from"] == "somebodys 3.0"
    assert [module["state"] for module in patches["old"]["modules"]] == ["out of range", "applied"]
    assert patches["old"]["modules"][0]["detail"] == "oldlib 0.9 is installed, and it is made for >=1.0,<2"
    assert not [each for each in found["not_rebound"] if "newlib.other" in each["name"]]
    assert done.stderr.count("oldlib 0.9 is installed") == 1
    assert "patches=-old" in done.stderr
    assert "bad could not be applied to newlib (AttributeError" in done.stderr
    assert "missing could not be loaded (ModuleNotFoundError" in done.stderr


def test_the_exit_status_tells_of_problems(somebodys, tmp_path, monkeypatch):
    monkeypatch.setenv("THREADSAFE_TIMEOUT_PATCHES", "old")
    done = python(f"import sys; sys.path.insert(0, {str(somebodys)!r}); from threadsafe_timeout.cli import main; sys.exit(main(['doctor']))", tmp_path, status=1)
    assert "! old " in done.stdout
    assert "oldlib: out of range: oldlib 0.9 is installed" in done.stdout


@pytest.mark.parametrize(
    ("version", "versions", "expected"),
    [
        ("1.0", ">=1.0,<2", True), ("1", ">=1.0", True), ("1.0.0", "==1", True), ("0.18.0", ">=1.0,<2", False), ("2.0", "<2", False), ("1.10", ">1.9", True),
        ("2.0rc1", "<2", False), ("2.0.post1", "<=2.0", True), ("1.5+local", ">=1.5", True), ("v1.5", "!=1.4", True), ("1.4", "!=1.4", False), ("1!1.0", ">=1.0", False),
        ("unknown", ">=0", False), ("10.2", ">=9,<11", True), ("2024.1", ">=1 , < 3000", True),
    ],
)  # fmt: skip
def test_version_ranges(version, versions, expected):
    assert in_range(version, versions) is expected


@pytest.mark.parametrize("versions", ["", "1.0", "~=1.0", ">=1.*", ">=1,"])
def test_a_bad_range_is_an_error(versions):
    with pytest.raises(ValueError, match="is not a comparison"):
        in_range("1.0", versions)
