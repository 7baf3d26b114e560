"""install() and uninstall(): before and after imports, identical objects afterwards, settings that name their source."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from threadsafe_timeout import SettingError, _settings, install, patched
from threadsafe_timeout._patching import install as _install

pytestmark = pytest.mark.usefixtures("nothing_set")


def run_python(code: str, *, cwd: Path, name: str = "program.py", env=None) -> str:
    (cwd / name).write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, name], cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ORDERS = {
    "import, install": ("import concurrent.futures as cf; from concurrent.futures import ThreadPoolExecutor as T", "t.install()"),
    "install, import": ("t.install()", "import concurrent.futures as cf; from concurrent.futures import ThreadPoolExecutor as T"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_pool_is_replaced_in_every_order_and_given_back(order, tmp_path):
    first, second = ORDERS[order]
    out = run_python(
        f"""
        import time, threadsafe_timeout as t
        kept = [time.sleep]  # not under a name of its own, which would be patched too
        {first}
        {second}
        from threadsafe_timeout import ThreadPoolExecutor as Ours
        assert cf.ThreadPoolExecutor is T and cf.thread.ThreadPoolExecutor is T and issubclass(T, Ours)
        assert time.sleep is not kept[0]
        t.install()
        assert issubclass(T, Ours)
        t.uninstall()
        from threadsafe_timeout._pool.executor import StandardThreadPoolExecutor as Standard
        assert cf.ThreadPoolExecutor is Standard and T is Standard and cf.thread.ThreadPoolExecutor is Standard
        assert time.sleep is kept[0]
        t.install()
        assert issubclass(T, Ours)
        t.uninstall()
        assert T is Standard
        assert Ours is t.ThreadPoolExecutor is not Standard, "a program's own use of ours is left alone"
        print("ok")
        """,
        cwd=tmp_path,
    )
    assert out == "ok\n"


def test_openai_imported_after_install_is_patched(tmp_path):
    out = run_python(
        """
        import threadsafe_timeout.auto
        import openai._base_client as base, wrapt
        print(isinstance(vars(base.SyncAPIClient)["request"], wrapt.FunctionWrapper))
        """,
        cwd=tmp_path,
    )
    assert out == "True\n"


def test_patched_is_both_as_a_block():
    assert _install.installed() is None
    with patched(grace=3):
        assert _install.installed() is not None
        assert _settings.settings().grace == 3
    assert _install.installed() is None
    assert _settings.settings().grace == 2


def test_precedence_and_sources(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.threadsafe-timeout]\ngrace = 5\nllm_timeout = 50\nmax_abandoned = 7\n")
    monkeypatch.setenv("THREADSAFE_TIMEOUT_GRACE", "4")
    monkeypatch.setenv("THREADSAFE_TIMEOUT_LLM_TIMEOUT", "40")
    install(grace=3)
    chosen, sources = _settings.settings(), _settings.sources()
    assert (chosen.grace, chosen.llm_timeout, chosen.max_abandoned) == (3, 40, 7)
    assert sources["grace"] == "install()"
    assert "THREADSAFE_TIMEOUT_LLM_TIMEOUT" in sources["llm_timeout"]
    assert "pyproject.toml" in sources["max_abandoned"]
    assert sources["loop_guard"] == "default"


@pytest.mark.parametrize(
    ("name", "value"),
    [("GRACE", "soon"), ("GRACE", "-1"), ("GRACE", "nan"), ("LOOP_GUARD", "maybe"), ("MAX_ABANDONED", "1.5"), ("GRCE", "1"), ("RESUME", "yes"), ("RETRY", "done"), ("PATCHES", "htpcore")],
)
def test_a_bad_setting_is_an_error_that_names_its_source_and_nothing_is_patched(monkeypatch, name, value):
    monkeypatch.setenv(f"THREADSAFE_TIMEOUT_{name}", value)
    with pytest.raises(SettingError, match=f"THREADSAFE_TIMEOUT_{name}"):
        install()
    assert _install.installed() is None


@pytest.mark.parametrize("content", [b"# caf\xe9\n[project]\nname = 'x'\n", b"\xff\xfet\x00", b"x = [broken", b"tool = 5", b"[tool]\nother = 5\n", b"\0"])
def test_a_pyproject_that_does_not_mention_the_library_is_none_of_its_business(tmp_path, content):
    (tmp_path / "pyproject.toml").write_bytes(content)
    install()
    assert set(_settings.sources().values()) == {"default"}


@pytest.mark.parametrize(
    "content",
    [
        b"[tool]\nthreadsafe-timeout = 5\n", b"tool = 5  # threadsafe-timeout\n", b"[tool]\nthreadsafe-timeout = [5]\n", b"[[tool.threadsafe-timeout]]\ngrace = 5\n",
        b"# caf\xe9\n[tool.threadsafe-timeout]\ngrace = 5\n", b"[tool.threadsafe-timeout\ngrace = 5\n", b"[tool.threadsafe-timeout]\ngrace = [5]\n",
        b"[tool.threadsafe-timeout]\npatches = 5\n", b"[tool.threadsafe-timeout]\ncheckpoint = 5\n", b"[tool.threadsafe-timeout]\npatches = [5]\n",
    ],
)  # fmt: skip
def test_a_pyproject_that_is_wrong_is_named(tmp_path, content):
    (tmp_path / "pyproject.toml").write_bytes(content)
    with pytest.raises(SettingError, match=r"pyproject\.toml"):
        install()
    assert _install.installed() is None


def test_a_directory_of_that_name_is_no_pyproject(tmp_path):
    (tmp_path / "pyproject.toml").mkdir()
    install()


def test_off_means_none(monkeypatch):
    monkeypatch.setenv("THREADSAFE_TIMEOUT_LLM_TIMEOUT", "off")
    monkeypatch.setenv("THREADSAFE_TIMEOUT_CHECKPOINT", "off")
    install()
    assert _settings.settings().llm_timeout is None
    assert _settings.settings().checkpoint is None


def test_patches_can_be_left_out():
    import time

    real = time.sleep
    with patched(patches="-time"):
        assert time.sleep is real
    with patched(patches="time"):
        assert time.sleep is not real
        assert _install.installed().patches.keys() == {"time"}


def test_the_core_imports_light(tmp_path):
    out = run_python(
        """
        import sys
        import threadsafe_timeout
        heavy = {"wrapt", "filelock", "concurrent.futures", "asyncio", "openai", "rich", "json", "ssl"}
        print(sorted(heavy & sys.modules.keys()))
        """,
        cwd=tmp_path,
    )
    assert out == "[]\n"


def test_run_command_is_the_one_line(tmp_path):
    (tmp_path / "helper.py").write_text("VALUE = 7\n")
    (tmp_path / "program.py").write_text(
        "import sys, helper\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "print(ThreadPoolExecutor.__module__, sys.argv[1:], helper.VALUE, __name__)\nsys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "threadsafe_timeout.cli", "run", "program.py", "--a", "b"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout == "threadsafe_timeout_patches.futures ['--a', 'b'] 7 __main__\n"


def test_every_public_name_is_there():
    import threadsafe_timeout

    assert all(getattr(threadsafe_timeout, name) is not None for name in threadsafe_timeout.__all__)
    assert set(threadsafe_timeout.__all__) <= set(dir(threadsafe_timeout))
