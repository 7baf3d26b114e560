"""`isolate="process"`: whatever a task does there, it ends, and nothing of it is left."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import isolated_tasks as tasks
import pytest
from conditions import said_in, until_ended

import threadsafe_timeout
from threadsafe_timeout import CannotBeSent, DeadlineExceeded, MissingExtraError, TaskProcessDied, ThreadPoolExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

LONG = tasks.LONG


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2, isolate="process", grace=0.2) as pool:
        yield pool


def test_a_task_runs_in_another_process_that_a_fork_server_started(pool: ThreadPoolExecutor):
    total, pid = pool.submit(tasks.add, 1, 2).result(LONG)
    assert total == 3
    assert pid != os.getpid()
    left, _, server = pool.with_options(timeout=500).submit(tasks.look_around).result(LONG)
    assert "forkserver" in server
    assert 0 < left <= 500
    number = 5
    assert pool.submit(lambda: number).result(LONG) == number


def test_the_patches_are_in_force_there():
    with threadsafe_timeout.patched(checkpoint="off", isolate="process"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(tasks.look_around).result(LONG)[1]


def test_one_task_alone():
    with ThreadPoolExecutor(1) as pool:
        assert pool.with_options(isolate="process").submit(os.getpid).result(LONG) != os.getpid()
        assert pool.submit(os.getpid).result(LONG) == os.getpid()


def test_an_error_has_its_type_and_its_traceback_as_text(pool: ThreadPoolExecutor):
    with pytest.raises(tasks.Refused) as caught:
        pool.submit(tasks.refuse, 3).result(LONG)
    assert type(caught.value) is tasks.Refused
    assert "in refuse" in str(caught.value.__cause__)


@pytest.mark.parametrize("stick", [tasks.hold_the_gil, tasks.backtrack, tasks.ignore_sigterm, tasks.start_child_and_hang])
def test_a_stuck_task_is_killed_with_its_children_and_its_slot_is_free(stick, tmp_path: Path):
    with ThreadPoolExecutor(1, isolate="process", grace=0.2) as pool:
        future = pool.submit(stick, tmp_path / "begun")
        pid = int(said_in(tmp_path / "begun"))
        future.cancel()
        with pytest.raises(DeadlineExceeded, match=stick.__name__):
            future.result(LONG)
        until_ended(pid)
        assert pool.submit(tasks.add, 1, 2).result(LONG)[0] == 3


def test_a_deadline_ends_it():
    with ThreadPoolExecutor(1, isolate="process", grace=0.2) as pool:
        error = pool.with_options(timeout=0.3).submit(time.sleep, 600).exception(LONG)
    assert isinstance(error, DeadlineExceeded)
    assert error.budget == 0.3


def test_a_cancelled_task_may_clean_up(tmp_path: Path):
    with threadsafe_timeout.patched(checkpoint="off"), ThreadPoolExecutor(1, isolate="process", grace=LONG) as pool:
        future = pool.submit(tasks.clean_up, tmp_path / "begun")
        said_in(tmp_path / "begun")
        future.cancel()
        assert isinstance(future.exception(LONG), DeadlineExceeded)
        assert (tmp_path / "begun.cleaned").exists()


def test_a_process_that_dies_says_of_what(pool: ThreadPoolExecutor, tmp_path: Path):
    crashed, left = pool.submit(tasks.crash), pool.submit(tasks.leave)
    error = crashed.exception(LONG)
    assert isinstance(error, TaskProcessDied)
    assert (error.signal, error.exitcode) == (signal.SIGSEGV, None)
    assert "SIGSEGV (signal 11)" in str(error)
    error = left.exception(LONG)
    assert isinstance(error, TaskProcessDied)
    assert (error.signal, error.exitcode) == (None, 7)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.exitcode, copy.pid) == (str(error), 7, error.pid)
    dead = pool.submit(tasks.start_child_and_die, tmp_path / "begun")
    assert isinstance(dead.exception(LONG), TaskProcessDied)
    until_ended(int((tmp_path / "begun").read_text()))


def test_memory_has_a_limit():
    with threadsafe_timeout.patched(checkpoint="off", task_memory=4 << 30):
        with ThreadPoolExecutor(1, isolate="process") as pool:
            assert isinstance(pool.submit(tasks.allocate).exception(LONG), MemoryError)


def test_what_cannot_travel_is_named(pool: ThreadPoolExecutor):
    agent = tasks.Agent()
    agent.client = tasks.Agent()
    agent.client._lock = threading.Lock()
    with pytest.raises(CannotBeSent) as caught:
        pool.submit(tasks.take, agent).result(LONG)
    assert str(caught.value) == "task argument 'agent.client._lock' (a _thread.lock) cannot be sent to another process"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(CannotBeSent, match=r"the result \(a _thread.lock\)"):
        pool.submit(threading.Lock).result(LONG)


def test_a_bad_word_and_a_missing_extra_are_refused_at_once(monkeypatch):
    with pytest.raises(ValueError, match="isolate must be 'thread' or 'process', got 'fork'"):
        ThreadPoolExecutor(1, isolate="fork")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pebble", None)
    with pytest.raises(MissingExtraError, match=r"threadsafe-timeout\[process\]"):
        ThreadPoolExecutor(1, isolate="process")
