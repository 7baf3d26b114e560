"""`stacks` from outside: a run that answers, one whose interpreter a call of C holds, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_runs import make_run
from terminals import COMMAND

PROGRAM = """
import ctypes, sys, threading
import threadsafe_timeout
from concurrent.futures import ThreadPoolExecutor

threadsafe_timeout.install(status_dir=".threadsafe_timeout")
gate, entered = threading.Event(), threading.Event()

def waits_for_the_gate(password):
    entered.set()
    gate.wait()

def holds_the_interpreter():
    while True:  # a signal ends the call of C early
        ctypes.PyDLL(None).sleep(300)

if __name__ == "__main__":
    pool = ThreadPoolExecutor(2)
    pool.submit(waits_for_the_gate, "planted-secret")
    from pathlib import Path
    import time
    while not list(Path(".threadsafe_timeout/runs").glob("*/status.json")):
        time.sleep(0.01)
    entered.wait()
    if sys.argv[1] == "held":
        sys.setswitchinterval(1000)  # nobody asks for the interpreter on the way there
    print("ready", flush=True)
    if sys.argv[1] == "held":
        holds_the_interpreter()
    gate.wait()
"""


@contextmanager
def program(tmp_path: Path, how: str) -> Iterator[int]:
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, "program.py", how], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait(120)
        assert process.stdout is not None
        process.stdout.close()


def stacks(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "stacks", *arguments], cwd=cwd, text=True, capture_output=True, timeout=120,
                          check=False)  # fmt: skip


def test_a_run_answers_by_itself(tmp_path: Path) -> None:
    with program(tmp_path, "free") as pid:
        done = stacks(tmp_path, str(pid))
    assert done.returncode == 0, done.stderr
    assert "waits_for_the_gate" in done.stdout
    assert "planted-secret" not in done.stdout + done.stderr


def test_a_run_whose_interpreter_is_held_is_seen_too(tmp_path: Path) -> None:
    with program(tmp_path, "held") as pid:
        done = stacks(tmp_path, str(pid))
    assert done.returncode == 0, done.stderr
    assert "holds_the_interpreter" in done.stdout
    assert "waits_for_the_gate" in done.stdout
    assert "a call of C may hold its interpreter" in done.stderr
    assert "planted-secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [("999999999", "there is no process 999999999"), ("nowhere", "there is no folder"), ("self", "has no files of a run")],
)
def test_it_names_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no py-spy, which could look into the process without files
    done = stacks(tmp_path, str(os.getpid()) if target == "self" else target)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_of_a_dead_run_it_prints_what_that_wrote_last(tmp_path: Path) -> None:
    make_run(tmp_path / ".threadsafe_timeout", pid=2**22 + 1)
    done = stacks(tmp_path)
    assert done.returncode == 0
    assert "dead since" in done.stdout
    assert "case-1" in done.stdout
