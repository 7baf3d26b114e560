"""The settings `engine`, `engine_address` and `task_factory`: an unmodified program's pools, on a Dask cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conditions import until, until_ended

import threadsafe_timeout
from threadsafe_timeout import SettingError, _settings
from threadsafe_timeout.engines import ClusterLost

PROGRAM = '''
import os, threading
from concurrent.futures import ThreadPoolExecutor

class Agent:
    def __init__(self):
        self.lock = threading.Lock()

    def ask(self, number):
        return number * number, os.getpid()

def main():
    agent = Agent()
    with ThreadPoolExecutor(2) as pool:
        answers = [future.result() for future in [pool.submit(agent.ask, number) for number in range(4)]]
        with ThreadPoolExecutor(1) as inner:
            answers.append(inner.submit(agent.ask, 9).result())
    print([answer for answer, _ in answers], os.getpid() in [pid for _, pid in answers])

if __name__ == "__main__":
    main()
'''
FACTORY = '''
import sys

def make(name):
    from __main__ import Agent
    return getattr(Agent(), name.rpartition(".")[2])
'''


@pytest.mark.parametrize("name", ["dask", "process"])
def test_an_unmodified_program_runs_elsewhere_by_a_setting(name: str, tmp_path: Path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "factories.py").write_text(FACTORY)
    chosen = {"ENGINE": "dask"} if name == "dask" else {"ISOLATE": "process"}
    settings = {**chosen, "TASK_FACTORY": "factories:make", "STATUS_DIR": ".threadsafe_timeout"}
    env = {**os.environ, **{f"THREADSAFE_TIMEOUT_{key}": value for key, value in settings.items()}}
    command = [sys.executable, "-m", "threadsafe_timeout", "run", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "[0, 1, 4, 9, 81] False\n", done.stderr
    report = [sys.executable, "-m", "threadsafe_timeout", "watch", "--once"]
    seen = subprocess.run(report, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert "done 5 · failed 0" in seen.stdout, seen.stdout + seen.stderr
    assert "done Agent.ask(9)" in seen.stdout
    assert len(list((tmp_path / ".threadsafe_timeout" / "runs").iterdir())) == 1  # the workers of the cluster have none


SAVED = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

def ask(number):
    (Path("begun") / f"{number}-{os.getpid()}").touch()
    while number > 2 and not Path("go").exists():
        pass
    return number * number

if __name__ == "__main__":
    with ThreadPoolExecutor(2) as pool:
        print(list(pool.map(ask, range(6))))
"""


@pytest.mark.stress
def test_a_program_that_is_killed_goes_on_from_its_journal(tmp_path: Path):
    (tmp_path / "program.py").write_text(SAVED)
    (tmp_path / "begun").mkdir()
    env = {**os.environ, "THREADSAFE_TIMEOUT_ENGINE": "dask"}
    command = [sys.executable, "-m", "threadsafe_timeout", "run", "--save", "program.py"]

    def both_begun() -> bool:
        # Both of them: each has the place of one that was before it, and is saved.
        return all([*(tmp_path / "begun").glob(f"{number}-*")] for number in (3, 4))

    first = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    try:
        until(lambda: first.poll() is not None or both_begun())
        assert both_begun()
    finally:
        first.kill()
        first.wait()
    for file in (tmp_path / "begun").iterdir():
        until_ended(int(file.name.split("-")[1]))
    (tmp_path / "go").touch()
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "[0, 1, 4, 9, 16, 25]\n", done.stderr
    begun = [file.name.split("-")[0] for file in (tmp_path / "begun").iterdir()]
    assert begun.count("0") == begun.count("1") == begun.count("2") == 1


@pytest.mark.usefixtures("nothing_set")
def test_bad_values_are_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    cases = {
        ("engine", "ray"): "must be one of threads, dask",
        ("engine_address", "10.0.0.1"): "must be the address of a scheduler",
        ("engine_address", "tcp://10.0.0.1:8786"): "the engine is threads; set engine to dask",
        ("task_factory", "my_runner.make"): "must be the name of a function, as in my_runner:make_task",
        ("task_factory", "my runner:make"): "must be the name of a function",
    }
    for (name, value), problem in cases.items():
        with pytest.raises(SettingError, match=rf"install.*{name}.*{problem}"):
            threadsafe_timeout.install(**{name: value})
        monkeypatch.setenv(f"THREADSAFE_TIMEOUT_{name.upper()}", value)
        with pytest.raises(SettingError, match=rf"environment variable THREADSAFE_TIMEOUT_{name.upper()}: {name}"):
            _settings.load()
        monkeypatch.delenv(f"THREADSAFE_TIMEOUT_{name.upper()}")
    good = _settings.load({"engine": "Dask", "engine_address": "tcp://[::1]:8786", "task_factory": "a.b:c"})[0]
    assert (good.engine, good.engine_address, good.task_factory) == ("dask", "tcp://[::1]:8786", "a.b:c")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingError, match=r"engine: dask needs the package 'distributed'.*threadsafe-timeout\[cluster\]"):
        threadsafe_timeout.install(engine="dask")


def test_a_scheduler_that_is_not_there_is_named():
    with threadsafe_timeout.patched(checkpoint="off", engine="dask", engine_address="tcp://127.0.0.1:9"):
        with pytest.raises(ClusterLost, match=r"the Dask cluster at tcp://127.0.0.1:9 could not be reached"):
            ThreadPoolExecutor(1)


def test_importing_an_engine_imports_no_dask():
    code = (
        "import sys, threadsafe_timeout, threadsafe_timeout.engines, threadsafe_timeout.engines.cluster\n"
        "threadsafe_timeout.install(checkpoint='off', engine='dask')\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'dask', 'distributed', 'tornado', 'pebble'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "set()\n", done.stderr
