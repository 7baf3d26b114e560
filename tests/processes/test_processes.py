"""What becomes of the processes that a pool's task has started: programs in which tasks are stuck."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process_scripts
import pytest
from bounds import BOUND

from threadsafe_timeout._processes.tree import HAS_PROC, is_running

SCRIPT = process_scripts.__file__
pytestmark = pytest.mark.skipif(not HAS_PROC, reason="looks at /proc")


class Run:
    """What a script told, and what runs of what it had started."""

    def __init__(self, code: int, out: str, err: str) -> None:
        assert code == 0, err
        self.err = err
        told = json.loads(out)
        self.error: str = told["error"]
        self.kept: bool = told["kept"]
        self.after: dict[str, bool] = told["after"]
        self.started: dict[str, tuple[int, int]] = told["started"]

    def left(self) -> list[str]:
        return [name for name, one in self.started.items() if is_running(*one)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Any], Run]]:
    runs: list[Run] = []

    def run(function: Any) -> Run:
        environment = {**os.environ, "FOLDER": str(tmp_path / "workers")}
        (tmp_path / "workers").mkdir()
        # Files, not pipes: what is left alone would hold those.
        with open(tmp_path / "out", "w+") as out, open(tmp_path / "err", "w+") as err:
            child = subprocess.Popen(
                [sys.executable, SCRIPT, function.__name__],
                env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
            try:
                child.wait(BOUND)
                ended = True
            except subprocess.TimeoutExpired:
                ended = False
                child.kill()
                child.wait()
        said = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
        assert ended, f"the program did not exit; it said: {said}"
        runs.append(Run(child.returncode, *said))
        return runs[-1]

    yield run
    for one in runs:
        for pid, began in one.started.values():
            if is_running(pid, began):
                os.kill(pid, signal.SIGKILL)


def until_gone(one: Run, *names: str) -> list[str]:
    """Wait for what was killed (all, if none is named) to have ended: that may take a moment."""
    until = time.monotonic() + BOUND
    while (left := one.left()) and (not names or set(names) & set(left)) and time.monotonic() < until:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("task", process_scripts.UNBLOCKED, ids=lambda task: task.__name__)
def test_a_task_that_is_stuck_in_its_process_ends_with_it_and_keeps_its_thread(task, run):
    one = run(task)
    assert one.error == "DeadlineExceeded", one.err
    assert one.kept, one.err
    assert not until_gone(one)
    assert "processes that it had started were ended: " in one.err


@pytest.mark.parametrize("task", process_scripts.ABANDONED, ids=lambda task: task.__name__)
def test_a_task_that_is_given_up_takes_its_processes_with_it_but_not_what_is_to_outlive_it(task, run):
    one = run(task)
    assert one.error == "DeadlineExceeded", one.err
    assert not one.kept
    until_gone(one, "child")
    assert set(one.left()) == set(one.started) - {"child"}


@pytest.mark.parametrize(
    "task", process_scripts.OVER_AT_ONCE + process_scripts.GIVEN_UP_WITH_WORKERS, ids=lambda task: task.__name__
)
def test_processes_of_multiprocessing_end_and_the_program_exits(task, run):
    one = run(task)
    assert one.error == "DeadlineExceeded", one.err
    assert one.kept == (task in process_scripts.OVER_AT_ONCE)
    assert not until_gone(one), one.err
    assert "Traceback" not in one.err


@pytest.mark.parametrize("task", process_scripts.SHARED, ids=lambda task: task.__name__)
def test_a_pool_of_processes_that_others_use_too_goes_on(task, run):
    one = run(task)
    assert one.error == "DeadlineExceeded", one.err
    assert one.after == {"shared": True}
    assert "were ended" not in one.err
