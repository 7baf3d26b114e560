"""The first and the last line of whole programs: where they stand in what the program says, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from runs import environment, said_on_terminal

START = "threadsafe-timeout: pool patched"
UNSAVED = "results are not saved (run --save, or save=tasks)"
UNBOUNDED = "no task deadline set: only LLM calls (120 s) are bounded; set THREADSAFE_TIMEOUT_TASK_TIMEOUT or task_timeout"
BEGIN = """
import logging, os, signal, sys, threading, time
import threadsafe_timeout
threadsafe_timeout.install(checkpoint=None, **{settings})
from concurrent.futures import ThreadPoolExecutor
"""
FIVE = "with ThreadPoolExecutor(3) as pool: list(pool.map(abs, range(5)))\n"
DONE = "threadsafe-timeout: 5 done, 0 failed, 0 timed out"


def written(folder: Path, program: str, **settings: object) -> list[str]:
    file = folder / "program.py"
    file.write_text(BEGIN.format(settings={"status_dir": None, **settings}) + textwrap.dedent(program))
    return [sys.executable, str(file)]


def piped(folder: Path, program: str, status: int = 0, **settings: object) -> list[str]:
    """What a program says on an stderr that is no terminal."""
    done = subprocess.run(
        written(folder, program, **settings), cwd=folder, capture_output=True, text=True, timeout=110, check=False,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stderr.splitlines()


def on_terminal(folder: Path, program: str, status: int = 0, **settings: object) -> list[str]:
    """What a program says on a terminal, which all its streams are."""
    return said_on_terminal(written(folder, program, **settings), folder, status).splitlines()


def test_the_last_line_comes_last(tmp_path: Path) -> None:
    lines = on_terminal(tmp_path, f"print('mine')\n{FIVE}print('the last of mine')\n")
    assert sorted(lines) == sorted(["mine", f"{START}, {UNSAVED}; {UNBOUNDED}", "the last of mine", DONE])
    assert (lines[0], lines[-1]) == ("mine", DONE)


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        pytest.param("raise ValueError", 1, marks=pytest.mark.stress),
        pytest.param("sys.exit(3)", 3, marks=pytest.mark.stress),
        ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
    ],
)
def test_also_of_a_program_that_ends_in_another_way(tmp_path: Path, ending: str, status: int) -> None:
    lines = on_terminal(tmp_path, FIVE + ending, status)
    assert lines[-1] == DONE
    assert lines.count(DONE) == 1


def test_a_process_that_its_pool_ends_says_it_too(tmp_path: Path) -> None:
    program = """
    logging.basicConfig(level=logging.INFO, filename="log", filemode="w")
    from threadsafe_timeout._pool.task import current_task
    lock = threading.Lock()
    lock.acquire()
    def acquire():  # no interrupt strikes in what is called so: it gets where it is to be stuck
        current_task()._scope.deadline = time.monotonic()
        lock.acquire()
    pool = ThreadPoolExecutor(1, grace=0, max_abandoned=0, on_exhausted="exit")
    pool.submit(acquire)
    time.sleep(100)
    """
    lines = piped(tmp_path, program, 75, summary="on")
    last = "threadsafe-timeout: 0 done, 0 failed, 1 timed out (1 abandoned)"
    assert [line for line in lines if line.startswith(("threadsafe-timeout: pool", last))][1:] == [last]
    assert f"INFO:threadsafe_timeout:{last}" in (tmp_path / "log").read_text().splitlines()


def test_a_forked_child_says_nothing(tmp_path: Path) -> None:
    program = """
    def work():
        with ThreadPoolExecutor(1) as pool: pool.submit(abs, 1).result()
    work()
    child = os.fork()
    if child == 0:
        work()
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    """
    lines = piped(tmp_path, program, summary="on")
    assert lines == [f"{START}, {UNSAVED}; {UNBOUNDED}", "threadsafe-timeout: 1 done, 0 failed, 0 timed out"]


@pytest.mark.stress
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_nor_does_one_of_multiprocessing(tmp_path: Path, start: str) -> None:
    program = """
    import multiprocessing
    def work():
        with ThreadPoolExecutor(1) as pool: pool.submit(abs, 1).result()
    if __name__ == "__main__":
        work()
        other = multiprocessing.get_context("START").Process(target=work)
        other.start()
        other.join()
        assert other.exitcode == 0
    """
    lines = piped(tmp_path, program.replace("START", start), summary="on")
    assert lines == [f"{START}, {UNSAVED}; {UNBOUNDED}", "threadsafe-timeout: 1 done, 0 failed, 0 timed out"]


@pytest.mark.stress
def test_a_task_in_a_process_of_its_own_counts_once(tmp_path: Path) -> None:
    program = """
    def work():
        with ThreadPoolExecutor(1) as pool: return pool.submit(abs, -1).result()
    if __name__ == "__main__":
        with ThreadPoolExecutor(1) as pool: assert pool.submit(work).result() == 1
    """
    lines = piped(tmp_path, program, summary="on", isolate="process")
    assert lines == [f"{START}, {UNSAVED}; {UNBOUNDED}", "threadsafe-timeout: 1 done, 0 failed, 0 timed out"]


@pytest.mark.stress
def test_a_descriptor_that_is_closed_does_not_matter(tmp_path: Path) -> None:
    assert piped(tmp_path, FIVE + "\nos.close(2)\n", summary="on")[1:] == []
