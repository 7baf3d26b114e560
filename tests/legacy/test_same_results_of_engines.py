"""The replica's batch on each engine, by settings alone: threads, a process for each task, a Dask cluster; and asyncio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_legacy_runner import STEADY, database, environment, finished_lines, journal, prepare
from threadsafe_timeout_legacy.replica import asyncio_script

from threadsafe_timeout.testing.fake_llm import FakeLLM

pytestmark = [pytest.mark.stress, pytest.mark.timeout(580)]

TASKS = 6
PACE = 60.0  # seconds of a legacy minute: in one of them what is asked is answered, on any machine
SERVER_PACE = 0.5
# From docs/scaling.md: what makes the bound method of the runner, whose locks cannot travel, anew.
FACTORY = '''
from batch_test_runner import BatchTestRunner

def make(name):
    runner = BatchTestRunner(silent=True, enable_database_updates=False)
    return getattr(runner, name.rpartition(".")[2])
'''
ENGINES = {
    "threads": {},
    "process": {"ISOLATE": "process", "TASK_FACTORY": "legacy_tasks:make"},
    "dask": {"ENGINE": "dask", "TASK_FACTORY": "legacy_tasks:make"},
}
TIMES = {"execution_time", "total_time", "average_time", "avg_execution_time", "last_updated", "created_at", "timestamp"}


def batch(work: Path, server: FakeLLM, settings: dict[str, str], script: Path | None = None) -> dict[str, Any]:
    work.mkdir()
    own = prepare(work, "2025-08-16")
    (work / "src" / "sitecustomize.py").write_text(STEADY)
    (work / "src" / "legacy_tasks.py").write_text(FACTORY)
    env = environment(server, llm_timeout=PACE, minute=PACE)
    env |= {"PYTHONPATH": str(work / "src")} | {f"THREADSAFE_TIMEOUT_{key}": value for key, value in settings.items()}
    options = ["--num-tasks", str(TASKS), "--workers", "3", "--qps", "0", "--seed", "3"]
    command = [sys.executable, str(script or own), *options]
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert f"All done: {TASKS} results" in done.stdout
    lines = finished_lines(journal(work))
    assert len(lines) == TASKS, done.stderr
    results = sorted(json.dumps(timeless(line["result"]), sort_keys=True) for line in lines)
    return {"database": timeless(database(work)), "results": results}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if not (key in TIMES or "time" in key)}
    if isinstance(value, list):
        return [timeless(part) for part in value]
    return round(value, 9) if isinstance(value, float) else value  # sums depend on the order


def test_the_results_are_the_same(tmp_path: Path):
    with FakeLLM(mix={"good": 2, "error500": 1}, seed=5, minute=SERVER_PACE) as server:
        found = {name: batch(tmp_path / name, server, settings) for name, settings in ENGINES.items()}
        found["asyncio"] = batch(tmp_path / "asyncio", server, {}, asyncio_script())
    assert found["process"] == found["threads"]
    assert found["dask"] == found["threads"]
    # Its own journal has the errors themselves, not the records that the runner makes of them.
    good = [[one for one in found[name]["results"] if '"success": true' in one] for name in ("asyncio", "threads")]
    assert good[0] == good[1]
    assert found["asyncio"]["database"] == found["threads"]["database"]


def test_without_a_factory_the_error_names_what_cannot_travel(tmp_path: Path):
    with FakeLLM(mix={"good": 1}, minute=SERVER_PACE) as server:
        work = tmp_path / "dask"
        work.mkdir()
        script = prepare(work, "last")
        env = environment(server, minute=PACE) | {"THREADSAFE_TIMEOUT_ENGINE": "dask"}
        command = [sys.executable, str(script), "--num-tasks", "1", "--workers", "1"]
        done = subprocess.run(command, cwd=work, env={**os.environ, **env}, capture_output=True, text=True, timeout=500, check=False)
    assert "'function.__self__.checkpoint_lock' (a _thread.lock) cannot be sent to another process; a task_factory" in done.stdout
