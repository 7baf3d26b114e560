"""Waits for processes and messages of `multiprocessing`: they end with the scope, and what they waited for is in order."""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Pipe, wait
from multiprocessing.managers import SyncManager

import pytest
from blocked import LONG, Blocked, expire
from child_ends import SELECTORS, forks
from threadsafe_timeout_patches import multiprocessing as patch

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, install, move_on_after, shield, uninstall
from threadsafe_timeout._scopes import around as _around

pytestmark = pytest.mark.usefixtures("installed", "no_leaked_descriptors")


@pytest.fixture
def process() -> Iterator[multiprocessing.Process]:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=time.sleep, args=(60,))
    process.start()
    yield process
    process.kill()
    process.join()
    process.close()


def test_process_join_ends_with_the_scope_and_leaves_the_process(process):
    with pytest.raises(DeadlineExceeded), deadline(0.02):
        process.join()
    assert Blocked(process.join).cancel().scope.cancelled_caught
    assert Blocked(lambda: process.join(LONG)).cancel().scope.cancelled_caught
    with move_on_after(LONG):
        process.join(0.01)
        assert process.is_alive()
        process.terminate()
        process.join()
    assert process.exitcode == -signal.SIGTERM


def test_connections_end_with_the_scope_and_stay_usable():
    left, right = Pipe()
    with left, right:
        for call in (left.recv, left.recv_bytes, lambda: left.poll(None), lambda: left.poll(LONG), lambda: wait([left])):
            assert Blocked(call).cancel().scope.cancelled_caught
            with pytest.raises(DeadlineExceeded), deadline(0.01):
                call()
        blocked = Blocked(left.recv)
        right.send({"a": 1})
        assert blocked.join().result == {"a": 1}
        with move_on_after(LONG):
            right.send(list(range(10_000)))
            assert left.poll(1)
            assert left.recv() == list(range(10_000))
            right.close()
            with pytest.raises(EOFError):
                left.recv()


def test_a_message_that_arrives_as_its_reader_is_cancelled_is_received(monkeypatch):
    waits = patch.wait_ready

    def wait_then_be_cancelled(*args):
        ready = waits(*args)
        _around.current_scope().cancel()
        return ready

    monkeypatch.setattr(patch, "wait_ready", wait_then_be_cancelled)
    left, right = Pipe()
    with left, right:
        blocked = Blocked(left.recv)
        right.send("message")
        assert blocked.join().result == "message"
        assert blocked.scope.cancel_called


def test_messages_that_cross_cancellations_are_neither_lost_nor_do_they_close_the_connection():
    left, right = Pipe()
    with left, right:
        for message in range(300):
            blocked = Blocked(left.recv)
            right.send(message)
            blocked.cancel()
            assert (blocked.result if blocked.returned else left.recv()) == message


def test_items_that_cross_cancellations_stay_in_their_queue():
    items = multiprocessing.get_context("spawn").Queue()
    for item in range(300):
        blocked = Blocked(items.get)
        items.put(item)
        while not items._reader.poll() and blocked.thread.is_alive():
            pass
        blocked.cancel()
        assert (blocked.result if blocked.returned else items.get()) == item
    items.close()
    items.join_thread()


def test_a_connection_cancelled_in_the_middle_of_a_message_is_closed():
    left, right = Pipe()
    with left, right:
        os.write(right.fileno(), b"\0\0\0\x10abc")
        blocked = Blocked(left.recv_bytes)
        while select.select([left], [], [], 0)[0]:
            time.sleep(0)
        assert blocked.cancel().scope.cancelled_caught
        assert left.closed


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_queues_of_processes_end_with_the_scope(kind):
    items = getattr(multiprocessing.get_context("spawn"), kind)(1)
    assert Blocked(items.get).cancel().scope.cancelled_caught
    with pytest.raises(DeadlineExceeded), deadline(0.02):
        items.get()
    with move_on_after(LONG):
        with pytest.raises(queue.Empty):
            items.get(timeout=0.01)
        items.put(1)
        with pytest.raises(queue.Full):
            items.put(2, timeout=0.01)
        with pytest.raises(DeadlineExceeded), deadline(0.02):
            items.put(2)
        assert items.get() == 1
    items.close()
    items.join_thread()


def test_what_needs_no_wait_does_not_raise_in_a_cancelled_scope():
    left, right = Pipe()
    items = multiprocessing.get_context("spawn").JoinableQueue(1)
    with left, right, CancelScope() as scope:
        scope.cancel()
        assert not left.poll()
        right.send("x" * 20_000)
        assert left.poll()
        assert left.poll(LONG)
        assert left.recv() == "x" * 20_000
        with pytest.raises(queue.Empty):
            items.get_nowait()
        items.put(1)
        with pytest.raises(queue.Full):
            items.put_nowait(2)
        with shield(LONG):
            while items.empty():
                time.sleep(0)
        assert items.get() == 1
        items.put(2)
        with shield(LONG):
            while items.empty():
                time.sleep(0)
        assert items.get_nowait() == 2
    assert not scope.cancelled_caught
    for call in (items.get, lambda: items.put(1) or items.put(2)):
        with CancelScope() as scope:
            scope.cancel()
            call()
            raise AssertionError(call)
        assert scope.cancelled_caught
    assert items.get() == 1
    items.close()
    items.join_thread()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@forks
def test_a_process_that_has_ended_is_joined_in_a_cancelled_scope(method):
    process = multiprocessing.get_context(method).Process(target=os._exit, args=(3,))
    try:
        process.start()
        assert wait([process.sentinel], LONG)
        if method != "forkserver":  # whose child it is
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with CancelScope() as scope:
            scope.cancel()
            process.join()
        assert not scope.cancelled_caught
        assert process.exitcode == 3
        process.close()
    finally:
        forkserver._forkserver._stop()


class Service:
    def slow(self):
        time.sleep(1)
        return "slow"

    def quick(self):
        return "quick"

    def fails(self):
        raise TimeoutError("its own")


class Services(SyncManager):
    pass


Services.register("Service", Service)


@pytest.fixture
def services() -> Iterator[Services]:
    with Services(ctx=multiprocessing.get_context("spawn")) as manager:
        yield manager
        gc.collect()  # the proxies, which close their connections
    manager._process.close()


def test_the_answer_of_a_cancelled_call_is_not_given_to_the_next_one(services):
    service, values = services.Service(), services.dict()
    for _ in range(2):
        with pytest.raises(DeadlineExceeded), deadline(0.1):
            service.slow()
        assert service.quick() == "quick"
        values["a"] = 1
        with move_on_after(LONG):
            assert values.copy() == {"a": 1}


def test_an_error_that_is_the_answer_leaves_a_managers_connection_alone(services):
    service = services.Service()
    with move_on_after(LONG):
        assert service.quick() == "quick"
        connection = service._tls.connection
        with pytest.raises(TimeoutError, match="its own"):
            service.fails()
        assert service.quick() == "quick"
    assert service._tls.connection is connection
    assert not connection.closed


def test_a_managers_lock_is_released_by_who_is_cancelled_in_a_call(services):
    service, lock = services.Service(), services.Lock()
    with pytest.raises(DeadlineExceeded), deadline(LONG), lock:
        expire(0.1)
        service.slow()
    assert lock.acquire(True, LONG)


# --- nothing stays behind


def test_everything_is_the_original_again_afterwards():
    from multiprocessing import connection, managers, popen_fork, process, queues

    uninstall()
    try:
        owners = [subprocess.Popen, subprocess, popen_fork.Popen, connection.Connection, queues.Queue, selectors, select]
        owners += [queues.JoinableQueue, managers.BaseProxy, process.BaseProcess]
        for owner in [*owners, *SELECTORS, selectors._PollLikeSelector]:
            for value in vars(owner).values():
                assert "threadsafe_timeout" not in getattr(getattr(value, "__code__", None), "co_filename", type(value).__module__)
    finally:
        install(checkpoint="off")


CHILDREN = """
import multiprocessing, sys, time, threading
import threadsafe_timeout

def child(connection):
    from threadsafe_timeout import _settings, move_on_after
    from threadsafe_timeout._patching import install as _install
    with move_on_after(0.02) as scope:
        time.sleep(60)
    values = _settings.settings()
    connection.send((_install.installed() is not None, scope.cancelled_caught, values.grace, values.checkpoint))

if __name__ == "__main__":
    threadsafe_timeout.install(checkpoint=None, grace=0.75)
    context = multiprocessing.get_context(sys.argv[1] or None)
    mine, theirs = context.Pipe()
    for _ in range(2):
        process = context.Process(target=child, args=(theirs,))
        process.start()
        assert "_threadsafe_timeout" not in vars(process)
        print(*mine.recv(), flush=True)
        process.join()
        assert process.exitcode == 0
"""


@pytest.mark.parametrize("method", ["", "fork", "forkserver"])
def test_the_children_of_a_fork_server_have_the_line_as_forked_ones_do(method, tmp_path):
    """Whatever the default is: the server, since 3.14."""
    program = tmp_path / "program.py"
    program.write_text(CHILDREN)
    ran = subprocess.run([sys.executable, program, method], capture_output=True, text=True, timeout=LONG, check=False)
    assert ran.stdout.splitlines() == ["True True 0.75 None"] * 2, ran.stderr


def test_a_child_that_cannot_be_pickled_fails_as_without(monkeypatch):
    process = multiprocessing.get_context("forkserver").Process(target=lambda: None)
    with pytest.raises(Exception, match=r"pickle|lambda"):
        process.start()
    assert "_threadsafe_timeout" not in vars(process)
