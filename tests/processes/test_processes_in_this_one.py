"""What becomes of the processes that a pool's task has started, seen from the process that has the pool."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock  # noqa: F401  # it minds threads that fork at the same time
import process_scripts
import pytest
from bounds import BOUND

from threadsafe_timeout import Cancelled, DeadlineExceeded, ThreadPoolExecutor, keep_process, patched, shield
from threadsafe_timeout._processes import children as _children
from threadsafe_timeout._processes import started as _started
from threadsafe_timeout._processes import tree as _process_tree
from threadsafe_timeout._processes.tree import HAS_PROC, is_running, kill_tree, status

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="looks at /proc")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with patched(checkpoint="off"), ThreadPoolExecutor(1, grace=0.1) as pool:
        yield pool


@pytest.fixture
def patient() -> Iterator[ThreadPoolExecutor]:
    """One that gives a thread the time to come back, on a busy machine."""
    with patched(checkpoint="off"), ThreadPoolExecutor(1, grace=3) as pool:
        yield pool


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "300"])
    yield child
    child.kill()
    child.wait()


def cancelled(pool: ThreadPoolExecutor, function: Callable[[threading.Event], object]) -> BaseException | None:
    """Submit it, cancel it once it has set its event, and say what it failed with."""
    reached = threading.Event()
    future = pool.submit(function, reached)
    assert reached.wait(BOUND)
    process_scripts.wait_until_stuck(function.__code__, time.monotonic() + BOUND)
    future.cancel()
    return future.exception(BOUND)


def test_the_exit_status_is_there_for_who_waits_and_no_zombie_is_left(pool):
    held = []

    def task(reached):
        held.append(subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE))
        reached.set()
        held[0].stdout.read()

    assert isinstance(cancelled(pool, task), DeadlineExceeded)
    until = time.monotonic() + BOUND
    while status(held[0].pid) is not None or held[0].returncode is None:  # the thread that reaps it writes that down next
        assert time.monotonic() < until, "it was not reaped"
        time.sleep(0.001)
    assert held[0].returncode == held[0].wait() == -signal.SIGKILL
    held[0].stdout.close()


def test_what_a_task_made_of_the_broken_pipe_is_the_cause(pool):
    def task(reached):
        with subprocess.Popen("echo '['; exec sleep 300", shell=True, stdout=subprocess.PIPE) as child:
            reached.set()
            return json.load(child.stdout)

    error = cancelled(pool, task)
    assert isinstance(error, DeadlineExceeded)
    assert error.__cause__ is None or isinstance(error.__cause__, (json.JSONDecodeError, Cancelled))


def test_a_task_that_ends_in_time_leaves_its_processes_alone(pool, child):
    def task():
        return subprocess.Popen(["sleep", "300"])

    def fails():
        task_child.append(subprocess.Popen(["sleep", "300"]))
        raise LookupError

    task_child = [pool.submit(task).result()]
    assert isinstance(pool.submit(fails).exception(), LookupError)
    assert isinstance(cancelled(pool, lambda reached: (reached.set(), threading.Event().wait())), DeadlineExceeded)
    for one in task_child:
        assert one.poll() is None
        one.kill()
        one.wait()


def test_events_name_the_processes(patient):
    events = []
    with patient.on_event(events.append):

        def task(reached):
            with subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE) as child:
                pids.append(child.pid)
                reached.set()
                child.stdout.read()

        pids = []
        cancelled(patient, task)
        patient.shutdown()
        assert patient._crew.events.flush(BOUND)
    kinds = [event.kind for event in events]
    assert kinds == ["overdue", "interrupting", "processes"]
    assert events[-1].pids == tuple(pids)
    assert "task" in events[-1].task


STARTS = {
    "Popen": lambda: subprocess.Popen(["sleep", "300"]),
    "posix_spawn": lambda: os.posix_spawnp("sleep", ["sleep", "300"], os.environ),
    "Process": multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,)).start,
    "fork": lambda: os.fork() or os._exit(0),
    "system": lambda: os.system("sleep 300"),
}


@pytest.mark.parametrize("shielded", [False, True], ids=["", "shielded"])
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_thread_that_was_given_up_starts_no_process(pool, start, shielded):
    gate, late, started = threading.Lock(), queue.SimpleQueue(), []
    gate.acquire()

    def task(reached):
        with shield(BOUND) if shielded else contextlib.nullcontext():
            reached.set()
            # In one line: an interrupt comes between lines.
            started.append((gate.acquire(), start()))

    before = set(_process_tree._children(os.getpid()))
    with pool.on_event(lambda event: late.put(event) if event.kind == "late" else None):
        assert isinstance(cancelled(pool, task), DeadlineExceeded)
        gate.release()
        assert isinstance(late.get(timeout=BOUND).outcome.error, DeadlineExceeded)
    assert not started
    assert set(_process_tree._children(os.getpid())) <= before


def test_one_that_is_started_as_the_task_is_given_up_ends_too(pool, monkeypatch):
    original, started = subprocess.Popen._execute_child, []
    reached, gate = threading.Event(), threading.Lock()
    gate.acquire()

    def execute(self, *args):
        original(self, *args)
        started.append(self)
        reached.set()
        gate.acquire()  # until it was given up

    monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    future = pool.submit(lambda: subprocess.Popen(["sleep", "300"]))
    assert reached.wait(BOUND)
    future.cancel()
    assert isinstance(future.exception(BOUND), DeadlineExceeded)
    assert pool.stats()["abandoned"] == 1
    assert started[0].poll() is None
    gate.release()
    assert started[0].wait(BOUND) == -signal.SIGKILL


def test_os_system_ends_with_its_scope(patient, tmp_path):
    commands = ["exit 3", b"kill -9 $$", Path("true"), "exit 0"]
    outside = [os.system(command) for command in commands]
    assert patient.submit(lambda: [os.system(command) for command in commands]).result() == outside
    assert isinstance(patient.submit(os.system, "a\0b").exception(), ValueError)
    assert isinstance(patient.submit(os.system, 1).exception(), TypeError)
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    future = patient.submit(os.system, f"echo $$ > {fifo}; exec sleep 300")
    pid = int(fifo.read_text())
    began = status(pid).started
    future.cancel()
    assert isinstance(future.exception(BOUND), DeadlineExceeded)
    assert patient.stats()["abandoned"] == 0
    assert not is_running(pid, began)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("fork", ["fork", "forkpty"])
def test_threads_may_fork_at_the_same_time(fork):
    """Although filelock is there, which has that fail."""
    assert "filelock" in sys.modules

    def start(_):
        result = getattr(os, fork)()
        pid, terminal = result if fork == "forkpty" else (result, None)
        if not pid:
            os._exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if terminal is not None:
            os.close(terminal)
        return code

    with patched(checkpoint="off"), ThreadPoolExecutor(4) as pool:
        assert {*pool.map(start, range(100))} == {7}


def test_everything_is_the_original_again_afterwards():
    import concurrent.futures.process
    import multiprocessing.pool
    import multiprocessing.queues

    owners = [os, subprocess.Popen, multiprocessing.Process, multiprocessing.process.BaseProcess]
    owners += [multiprocessing.pool.Pool, multiprocessing.queues.Queue, concurrent.futures.process.ProcessPoolExecutor]
    before = [dict(vars(owner)) for owner in owners]
    with patched(checkpoint="off"):
        assert [dict(vars(owner)) for owner in owners] != before
    assert [dict(vars(owner)) for owner in owners] == before


def test_another_process_with_the_same_number_is_not_killed(child):
    began = status(child.pid).started
    assert not kill_tree(child.pid, started=began + 1)
    assert is_running(child.pid, began)
    assert kill_tree(child.pid, started=began)
    assert child.wait(BOUND) == -signal.SIGKILL
    assert not kill_tree(child.pid, started=began)


def test_without_descriptors_for_processes_it_is_the_same(child, monkeypatch):
    without = {name: value for name, value in vars(os).items() if name != "pidfd_open"}
    monkeypatch.setattr(_process_tree, "os", types.SimpleNamespace(**without))  # others use it as well
    test_another_process_with_the_same_number_is_not_killed(child)


def test_without_proc_what_has_an_object_ends(patient, mocker):
    """As on macOS."""
    for module in (_children, _process_tree, _started):
        mocker.patch.object(module, "status", return_value=None)
    mocker.patch.object(_children, "HAS_PROC", new=False)
    mocker.patch.object(_process_tree, "_children", return_value=[])

    def task(reached):
        with subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE) as child:
            reached.set()
            child.stdout.read()

    assert isinstance(cancelled(patient, task), DeadlineExceeded)
    assert patient.stats()["abandoned"] == 0


@pytest.mark.parametrize(
    ("process", "error", "words"),
    [
        ("12", TypeError, "must be a Popen, a Process"),
        (True, TypeError, "must be a Popen, a Process"),
        (0, ValueError, "> 0"),
        (-1, ValueError, "> 0"),
        (multiprocessing.Process(), ValueError, "after its start"),
    ],
)
def test_keep_process_names_what_it_cannot_keep(process, error, words):
    with pytest.raises(error, match=words):
        keep_process(process)


def test_a_task_that_returns_when_its_first_process_ends_has_lost_the_others_too(patient, monkeypatch):
    """Else they would live on if the program exits at once."""
    original, children, returned, slow = _children.kill_tree, [], threading.Event(), []

    def kill(pid, **more):
        if children and pid == children[-1].pid:
            slow.append(returned.wait(0.5))  # the first has ended, and with it the task's read
        return original(pid, **more)

    def task(reached):
        for _ in range(2):
            children.append(subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE))
        reached.set()
        children[0].stdout.read()

    monkeypatch.setattr(_children, "kill_tree", kill)
    error = cancelled(patient, task)
    returned.set()
    assert isinstance(error, DeadlineExceeded)
    assert slow
    assert not any(slow), "the future was done before the second process was ended"
    for child in children:
        child.wait(BOUND)
        child.stdout.close()
