"""Processes that die at random, and a program that dies: every future ends, and no process is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import isolated_tasks as tasks
import pytest
from asleep import ON_PATH
from conditions import until, until_ended

from threadsafe_timeout import DeadlineExceeded, TaskProcessDied, ThreadPoolExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

LONG = tasks.LONG
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import isolated_tasks as tasks
from threadsafe_timeout import ThreadPoolExecutor

if __name__ == "__main__":
    with ThreadPoolExecutor(2, isolate="process") as pool:
        pool.submit(tasks.hold_the_gil, Path(sys.argv[1]) / "holds")
        pool.submit(tasks.start_child_and_sleep, Path(sys.argv[1]) / "child")
"""


def test_a_program_that_is_killed_leaves_no_process(tmp_path: Path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(tests=os.path.dirname(__file__)))

    def begun() -> bool:
        return all((tmp_path / name).exists() for name in ("holds", "child"))

    program = subprocess.Popen([sys.executable, script, tmp_path], env={**os.environ, **ON_PATH})
    try:
        until(lambda: program.poll() is not None or begun())
        assert begun()
    finally:
        program.kill()
        program.wait()
    for name in ("holds", "child"):
        until_ended(int((tmp_path / name).read_text()))


@pytest.mark.stress
@pytest.mark.timeout(580)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_kills(seed: int, tmp_path: Path):
    """200 tasks, of which 40 are stuck; the processes of about a quarter are killed. No process is left."""
    chance, pids, over = random.Random(seed), tmp_path / "pids", threading.Event()
    pids.mkdir()
    stuck, killed = set(chance.sample(range(200), 40)), set[int]()

    def kill_some() -> None:
        seen: set[str] = set()
        while not over.wait(0.02):
            for name in set(os.listdir(pids)) - seen:
                seen.add(name)
                if chance.random() < 0.25:
                    killed.add(int(name))
                    with_suppressed_kill(int(name))

    killer = threading.Thread(target=kill_some)
    killer.start()
    try:
        with ThreadPoolExecutor(8, isolate="process", grace=0.5) as pool:
            futures = [
                pool.with_options(timeout=3 if number in stuck else LONG).submit(
                    tasks.hold_or_double, pids, number, number in stuck
                )
                for number in range(200)
            ]
    finally:
        over.set()
        killer.join()
    for number, future in enumerate(futures):
        assert future.done()
        error = future.exception(0)
        if isinstance(error, TaskProcessDied):
            assert error.pid in killed
        elif number in stuck:
            assert isinstance(error, DeadlineExceeded)
        else:
            assert future.result(0) == 2 * number
    for name in os.listdir(pids):
        until_ended(int(name))


def with_suppressed_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
