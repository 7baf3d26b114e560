"""Waits for child processes: they end with the scope, and so does the child and what it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocked import LONG, Blocked
from conditions import until_ended

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, move_on_after

SLEEPS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
pytestmark = pytest.mark.usefixtures("installed", "no_leaked_descriptors")


def gone(pid: int) -> bool:
    """Whether the process has ended (perhaps not yet reaped by init)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


# --- subprocess


def process_calls():
    return {
        "run": lambda: subprocess.run(SLEEPS, check=False, stdout=subprocess.DEVNULL),
        "run, captured": lambda: subprocess.run(SLEEPS, check=True, capture_output=True, text=True),
        "run, timeout": lambda: subprocess.run(SLEEPS, check=False, capture_output=True, timeout=LONG),
        "run, input": lambda: subprocess.run(SLEEPS, check=False, input=b"x" * 300_000, stdout=subprocess.DEVNULL),
        "call": lambda: subprocess.call(SLEEPS, stdout=subprocess.DEVNULL),
        "check_call": lambda: subprocess.check_call(SLEEPS, stdout=subprocess.DEVNULL, timeout=LONG),
        "check_output": lambda: subprocess.check_output(SLEEPS),
        "getoutput": lambda: subprocess.getoutput("sleep 60 | sleep 60"),
    }


@pytest.fixture
def children(monkeypatch) -> Iterator[list[subprocess.Popen]]:
    """Every child the test starts."""
    started: list[subprocess.Popen] = []
    original = subprocess.Popen.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        started.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", init)
    yield started
    for child in started:
        child.kill()
        child.wait()


def assert_ended(child):
    assert child.returncode == -signal.SIGKILL
    assert gone(child.pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)  # no zombie is left
    assert all(pipe is None or pipe.closed for pipe in (child.stdin, child.stdout, child.stderr))


@pytest.mark.parametrize("name", process_calls())
def test_a_child_ends_with_the_scope(name, children):
    call = process_calls()[name]
    blocked = Blocked(call).cancel()
    assert blocked.scope.cancelled_caught
    scope = deadline(LONG)

    def bring_forward():  # to a moment after there is a child
        until = time.monotonic() + LONG
        while len(children) < 2 and time.monotonic() < until:
            time.sleep(0.001)
        scope.deadline = time.monotonic() + 0.1

    helper = threading.Thread(target=bring_forward)
    helper.start()
    with pytest.raises(DeadlineExceeded), scope:
        call()
    helper.join()
    assert len(children) == 2
    for child in children:
        assert_ended(child)
    with CancelScope() as scope:
        scope.cancel()
        call()
    assert scope.cancelled_caught
    assert len(children) == 2, "nothing is started in a cancelled scope"


@pytest.mark.parametrize("timeout", [None, LONG])
def test_popen_wait_kills_what_it_waited_for(timeout, children):
    child = subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL)
    assert Blocked(lambda: child.wait(timeout)).cancel().scope.cancelled_caught
    assert_ended(child)
    with CancelScope() as scope:
        scope.cancel()
        assert child.wait() == child.returncode  # nothing to wait for
    assert not scope.cancelled_caught


def test_popen_wait_for_what_has_ended_does_not_raise(children):
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.returncode is None
    with CancelScope() as scope:
        scope.cancel()
        assert child.wait() == 0
    assert not scope.cancelled_caught


def test_without_descriptors_for_processes_it_is_the_same(children, monkeypatch):
    monkeypatch.setattr(subprocess, "_CAN_USE_PIDFD_OPEN", False, raising=False)  # since 3.15; asked at import
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    test_popen_wait_kills_what_it_waited_for(None, children)
    test_popen_wait_kills_what_it_waited_for(LONG, children)
    with move_on_after(LONG):
        quick = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        assert quick.wait() == 3
        slow = subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            slow.wait(0.01)
    assert expired.value.timeout == 0.01
    assert slow.poll() is None


def test_an_ended_wait_with_time_left_leaves_the_child_alone(children):
    with move_on_after(LONG) as scope:
        child = subprocess.Popen(SLEEPS, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            child.wait(0.01)
        assert expired.value.timeout == 0.01
        while not expired.value.output:  # until it is up
            with pytest.raises(subprocess.TimeoutExpired) as expired:
                child.communicate(timeout=0.2)
            assert expired.value.timeout == 0.2
        assert child.poll() is None
        child.terminate()
        assert child.wait(LONG) == -signal.SIGTERM
        output, _ = child.communicate()
        assert output == b"up\n"
    assert not scope.cancel_called


@pytest.mark.parametrize("in_scope", [False, True])
def test_processes_that_end_in_time_do_what_they_did(in_scope, children):
    with move_on_after(LONG) if in_scope else contextlib.nullcontext():
        done = subprocess.run(["cat"], input="é" * 200_000, capture_output=True, text=True, check=True, encoding="utf-8")
        assert done.stdout == "é" * 200_000
        assert subprocess.check_output(["echo", "x"], text=True) == "x\n"
        assert subprocess.call(["false"]) == 1
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.check_call(["false"])
        with pytest.raises(FileNotFoundError):
            subprocess.run(["/no/such/program"], check=False)
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(SLEEPS, timeout=0.05, capture_output=True, check=False)
        child = subprocess.Popen([sys.executable, "-c", "print(1); print(2)"], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "1\n"
        assert child.communicate() == ("2\n", None), "what was read ahead is not lost"
        assert child.wait() == 0


GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=%r)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("new_session", [False, True], ids=["in our group", "group of its own"])
@pytest.mark.parametrize("grandchild_session", [False, True], ids=["grandchild in the group", "grandchild left it"])
def test_descendants_end_too(new_session, grandchild_session, children, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD % grandchild_session], stdout=subprocess.PIPE, start_new_session=new_session
    )
    grandchild = int(child.stdout.readline())
    assert Blocked(child.communicate).cancel().scope.cancelled_caught
    assert_ended(child)
    until_ended(grandchild)


def test_an_orphan_in_the_childs_group_ends_too(children):
    script = "sleep 60 & echo $!; exec sleep 60"
    child = subprocess.Popen(["sh", "-c", f"(({script}) & wait)"], stdout=subprocess.PIPE, process_group=0)
    orphan = int(child.stdout.readline())
    assert Blocked(child.wait).cancel().scope.cancelled_caught
    until_ended(orphan)
    child.stdout.close()


def test_our_own_group_is_never_killed(children):
    bystander = subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL)
    child = subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL)
    assert os.getpgid(child.pid) == os.getpgrp()
    Blocked(child.wait).cancel()
    assert bystander.poll() is None
