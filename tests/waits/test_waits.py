"""Waits of the standard library inside a scope: they end with it, and nothing is lost; outside it is what it was."""

from __future__ import annotations

import concurrent.futures
import math
import queue
import threading
import time
from collections.abc import Callable

import pytest
from blocked import LONG, Blocked

from threadsafe_timeout import (
    CancelScope,
    DeadlineExceeded,
    deadline,
    install,
    move_on_after,
    shield,
    uninstall,
)
from threadsafe_timeout._scopes.time_left import current_deadline, time_remaining

pytestmark = pytest.mark.usefixtures("installed")


def locked(condition: threading.Condition, call: Callable[[], object]) -> object:
    with condition:
        return call()


class Stuck:
    """Calls that would never return, by name; each gets objects of its own."""

    @staticmethod
    def sleep():
        time.sleep(LONG)

    @staticmethod
    def sleep_whole_seconds():
        time.sleep(int(LONG))

    @staticmethod
    def condition_wait():
        condition = threading.Condition()
        locked(condition, condition.wait)

    @staticmethod
    def condition_wait_plain_lock():
        condition = threading.Condition(threading.Lock())
        locked(condition, lambda: condition.wait(LONG))

    @staticmethod
    def condition_wait_for():
        condition = threading.Condition()
        locked(condition, lambda: condition.wait_for(lambda: False))

    @staticmethod
    def event_wait():
        threading.Event().wait()

    @staticmethod
    def event_wait_timeout():
        threading.Event().wait(LONG)

    @staticmethod
    def semaphore():
        threading.Semaphore(0).acquire()

    @staticmethod
    def bounded_semaphore_timeout():
        semaphore = threading.BoundedSemaphore(1)
        semaphore.acquire()
        semaphore.acquire(timeout=LONG)

    @staticmethod
    def barrier():
        threading.Barrier(2).wait()

    @staticmethod
    def queue_get():
        queue.Queue().get()

    @staticmethod
    def queue_get_timeout():
        queue.LifoQueue().get(timeout=LONG)

    @staticmethod
    def queue_put():
        full = queue.PriorityQueue(1)
        full.put(1)
        full.put(2)

    @staticmethod
    def simple_queue_get():
        queue.SimpleQueue().get()

    @staticmethod
    def simple_queue_get_timeout():
        queue.SimpleQueue().get(timeout=LONG)

    @staticmethod
    def queue_join():
        unfinished = queue.Queue()
        unfinished.put(1)
        unfinished.join()

    @staticmethod
    def future_result():
        concurrent.futures.Future().result()

    @staticmethod
    def future_exception():
        concurrent.futures.Future().exception(LONG)

    @staticmethod
    def futures_wait():
        concurrent.futures.wait([concurrent.futures.Future(), concurrent.futures.Future()])

    @staticmethod
    def futures_as_completed():
        done = concurrent.futures.Future()
        done.set_result(1)
        for _ in concurrent.futures.as_completed([done, concurrent.futures.Future()]):
            pass


STUCK = {name: call.__func__ for name, call in vars(Stuck).items() if isinstance(call, staticmethod)}


@pytest.mark.parametrize("name", STUCK)
def test_ends_at_the_deadline(name):
    before = time.monotonic()
    with pytest.raises(DeadlineExceeded), deadline(0.02):
        STUCK[name]()
    assert 0.02 <= time.monotonic() - before < LONG / 2


@pytest.mark.parametrize("name", STUCK)
def test_cancel_from_another_thread_wakes(name):
    blocked = Blocked(STUCK[name]).cancel()
    assert blocked.scope.cancelled_caught
    assert not blocked.returned


@pytest.mark.parametrize("name", STUCK)
def test_raises_at_once_in_a_scope_that_is_cancelled(name):
    with CancelScope() as scope:
        scope.cancel()
        STUCK[name]()
    assert scope.cancelled_caught


@pytest.mark.parametrize("name", STUCK)
def test_a_shield_holds_it_off_and_then_lets_it_through(name):
    before = time.monotonic()
    with CancelScope() as scope:
        scope.cancel()
        with shield(0.02):
            STUCK[name]()
    assert scope.cancelled_caught
    assert 0.02 <= time.monotonic() - before < LONG / 2


@pytest.mark.parametrize("scope", [None, math.inf, LONG], ids=["no scope", "no deadline", "much time"])
def test_what_happens_in_time_happens_as_ever(scope, running):
    with CancelScope() if scope is None else move_on_after(scope):
        time.sleep(0)
        time.sleep(0.001)
        condition = threading.Condition()
        with condition:
            assert condition.wait(0.001) is False
            assert condition.wait(0) is False
            assert condition.wait(-1) is False
            assert condition.wait_for(lambda: False, 0.001) is False
            assert not condition._waiters
        assert threading.Event().wait(0.001) is False
        assert threading.Semaphore(0).acquire(timeout=0.001) is False
        barrier = threading.Barrier(2)
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(0.001)
        with pytest.raises(queue.Empty):
            queue.Queue().get(timeout=0.001)
        with pytest.raises(queue.Empty):
            queue.SimpleQueue().get(timeout=0.001)
        full = queue.Queue(1)
        full.put(1)
        with pytest.raises(queue.Full):
            full.put(2, timeout=0.001)
        future = concurrent.futures.Future()
        with pytest.raises(TimeoutError):
            future.result(0.001)
        assert concurrent.futures.wait([future], 0.001).not_done == {future}
        with pytest.raises(TimeoutError):
            list(concurrent.futures.as_completed([future], 0.001))
        running.join(0.001)
        running.join(0)
        running.join(-1)
        assert running.is_alive()


def test_waits_are_woken_by_what_they_wait_for_in_a_scope():
    event, items, done = threading.Event(), queue.Queue(), concurrent.futures.Future()
    waiting = [Blocked(event.wait), Blocked(items.get), Blocked(done.result), Blocked(items.get)]
    event.set()
    items.put(1)
    done.set_result(2)
    assert waiting[0].join().result is True
    assert waiting[2].join().result == 2
    items.put(1)
    assert [blocked.join().result for blocked in (waiting[1], waiting[3])] == [1, 1]


# --- nothing is lost


def test_nothing_is_held_after_a_cancelled_wait():
    semaphore, items = threading.Semaphore(0), queue.Queue()
    blocked = [Blocked(semaphore.acquire), Blocked(items.get)]
    for one in blocked:
        one.cancel()
    semaphore.release()
    items.put(1)
    assert semaphore.acquire(timeout=LONG)
    assert items.get(timeout=LONG) == 1
    with pytest.raises(queue.Empty):
        items.get_nowait()


def test_everything_is_the_original_again_afterwards():
    uninstall()
    try:
        for owner in (threading.Condition, threading.Barrier, threading.Thread, threading.Event, queue.Queue, queue):
            for value in vars(owner).values():
                assert "threadsafe_timeout" not in getattr(getattr(value, "__code__", None), "co_filename", "")
        assert type(time.sleep).__name__ == "builtin_function_or_method"
    finally:
        install(checkpoint="off")


def test_time_remaining_is_not_changed_by_waiting():
    with deadline(LONG):
        before, ends = time_remaining(), current_deadline()
        threading.Event().wait(0.001)
        assert time_remaining() < before
        assert current_deadline() == ends
