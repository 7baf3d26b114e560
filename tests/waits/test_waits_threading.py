"""Conditions, barriers, threads and simple queues: what waits for them may be cancelled, and nobody else notices."""

from __future__ import annotations

import concurrent.futures
import math
import pickle
import queue
import threading

import pytest
from blocked import LONG, Blocked

from threadsafe_timeout import (
    CancelScope,
    install,
    move_on_after,
    shield,
    uninstall,
)

pytestmark = pytest.mark.usefixtures("installed")


@pytest.mark.parametrize("in_scope", [False, True])
def test_condition_refuses_what_the_original_refuses(in_scope):
    condition = threading.Condition()
    with CancelScope() if not in_scope else move_on_after(LONG):
        with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
            condition.wait()
        with condition:
            for bad, error in (("x", TypeError), (1e300, OverflowError)):
                with pytest.raises(error):
                    condition.wait(bad)
                assert not condition._waiters
                assert condition._is_owned()


def test_a_cancelled_waiter_holds_the_lock_as_often_as_before():
    lock = threading.RLock()
    condition = threading.Condition(lock)

    def wait() -> None:
        with condition, condition:
            try:
                condition.wait()
            finally:
                assert condition._is_owned()
                lock.release()
                assert condition._is_owned()
                lock.acquire()

    Blocked(wait).cancel()
    assert lock.acquire(timeout=LONG)
    lock.release()
    assert not condition._waiters


def test_a_notification_that_meets_a_cancelled_waiter_goes_to_the_next():
    condition = threading.Condition()
    woken: list[int] = []

    def wait(number: int) -> None:
        with condition:
            condition.wait()
            woken.append(number)

    first, second = Blocked(lambda: wait(1)), Blocked(lambda: wait(2))
    with condition:
        first.scope.cancel()
        condition.notify()  # the first is still on the list: it cannot go on before this block is left
    second.join()
    first.join()
    assert woken == [2]


def test_a_cancelled_waiter_at_an_event_makes_no_other_return():
    event = threading.Event()
    first, second = Blocked(event.wait), Blocked(event.wait)
    with event._cond:
        event._cond.notify(1)
        first.scope.cancel()
    first.join()
    assert second.thread.is_alive()
    event.set()
    assert second.join().result is True


def test_a_barrier_with_a_cancelled_party_is_broken_for_the_others():
    barrier = threading.Barrier(3)
    others = []

    def other() -> None:
        try:
            barrier.wait(LONG)
        except threading.BrokenBarrierError as exc:
            others.append(exc)

    blocked, waiting = Blocked(barrier.wait), Blocked(other)
    blocked.cancel()
    assert blocked.scope.cancelled_caught
    waiting.join()
    assert len(others) == 1
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken


def test_a_barrier_that_was_passed_is_not_broken_by_a_late_cancellation():
    barrier = threading.Barrier(2)
    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(threading.BrokenBarrierError):
            try:
                barrier.wait()  # broken: the party left while it was filling
            finally:
                with shield(LONG):
                    assert barrier.broken
                    barrier.wait()
    barrier.reset()
    passing = Blocked(barrier.wait)
    assert barrier.wait() in {0, 1}
    passing.join()
    passing.scope.cancel()
    assert not barrier.broken


# --- Thread


def test_join_ends_with_the_scope(running):
    with move_on_after(0.02) as scope:
        running.join()
    assert scope.cancelled_caught
    assert Blocked(running.join).cancel().scope.cancelled_caught
    assert Blocked(lambda: running.join(LONG)).cancel().scope.cancelled_caught
    assert running.is_alive()
    assert not running.__dict__.get("_threadsafe_timeout_joiners")


@pytest.mark.parametrize("started", ["before install", "after"])
def test_join_returns_when_the_thread_ends(started):
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    if started == "before install":
        uninstall()
        thread.start()
        install(checkpoint="off")
    else:
        thread.start()
    joining = [Blocked(thread.join), Blocked(lambda: thread.join(LONG))]
    over.set()
    for blocked in joining:
        assert blocked.join().returned
    assert not thread.is_alive()
    with CancelScope() as scope:
        scope.cancel()
        thread.join()  # nothing to wait for
        returned = True
    assert returned


@pytest.mark.parametrize("in_scope", [False, True])
def test_join_refuses_what_the_original_refuses(in_scope, running):
    with CancelScope() if not in_scope else move_on_after(LONG):
        with pytest.raises(RuntimeError, match="before it is started"):
            threading.Thread().join()
        with pytest.raises(RuntimeError, match="current thread"):
            threading.current_thread().join()
        with pytest.raises(TypeError):
            running.join("1")
        with pytest.raises(ValueError, match="NaN"):
            running.join(math.nan)


def test_joining_the_main_thread_is_capped():
    with_scope: list[bool] = []

    def join_main() -> None:
        with move_on_after(0.02) as scope:
            threading.main_thread().join()
        with_scope.append(scope.cancelled_caught)

    thread = threading.Thread(target=join_main)
    thread.start()
    thread.join(LONG)
    assert with_scope == [True]


def test_a_thread_can_be_started_in_a_cancelled_scope():
    ran = threading.Event()
    with CancelScope() as scope:
        scope.cancel()
        thread = threading.Thread(target=ran.set)
        thread.start()
        started = True
    assert started
    thread.join()
    assert ran.is_set()


# --- SimpleQueue


def test_simple_queue_is_what_it_was():
    uninstall()
    before = queue.SimpleQueue()
    install(checkpoint="off")
    items = queue.SimpleQueue()
    assert isinstance(before, queue.SimpleQueue)
    assert isinstance(items, type(before))
    assert issubclass(type(before), queue.SimpleQueue)
    assert type(items) is queue.SimpleQueue
    assert not isinstance([], queue.SimpleQueue)
    assert type(concurrent.futures.thread.queue.SimpleQueue()) is queue.SimpleQueue
    assert not hasattr(items, "__dict__")
    with pytest.raises(TypeError, match=r"cannot pickle '_queue.SimpleQueue' object"):
        pickle.dumps(items)

    class Own(queue.SimpleQueue):
        pass

    own = Own()
    own.put_nowait(1)
    own.put(2, False, -1)
    assert (own.qsize(), own.empty(), own.get(), own.get_nowait()) == (2, False, 1, 2)
    assert isinstance(own, Own)
    assert not isinstance(items, Own)


def test_the_standard_library_gets_the_original_simple_queue():
    import multiprocessing.pool

    kept = type(queue.SimpleQueue()).__mro__[1]
    with multiprocessing.pool.ThreadPool(1) as pool:
        assert type(pool._taskqueue) is kept
        assert pool.apply(len, ("abc",)) == 3


@pytest.mark.parametrize("in_scope", [False, True])
@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (math.nan, ValueError), ("x", TypeError), (1e300, OverflowError)]
)
def test_simple_queue_refuses_what_the_original_refuses(in_scope, value, error):
    items = queue.SimpleQueue()
    with CancelScope() if not in_scope else move_on_after(LONG), pytest.raises(error):
        items.get(timeout=value)
    with pytest.raises(queue.Empty):
        items.get(False, -1)


def test_simple_queue_wakes_those_in_scopes_and_those_outside():
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    got: list[int] = []
    outside = threading.Thread(target=lambda: got.append(items.get()))
    outside.start()
    inside = [Blocked(items.get), Blocked(lambda: items.get(timeout=LONG)), Blocked(items.get)]
    inside[0].cancel()
    for item in range(3):
        items.put(item)
    outside.join(LONG)
    got += [blocked.join().result for blocked in inside[1:]]  # type: ignore[misc]
    assert sorted(got) == [0, 1, 2]
    assert items.empty()
