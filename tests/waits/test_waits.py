"""Waits of the standard library inside a scope: they end with it, and nothing is lost; outside it is what it was."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import os
import pickle
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction

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
from threadsafe_timeout._scopes.time_left import time_remaining
from threadsafe_timeout.testing import MockClock


@pytest.fixture(autouse=True, scope="module")
def uninstalled() -> Iterator[None]:
    yield
    uninstall()


@pytest.fixture(autouse=True)
def patches() -> None:
    install(checkpoint="off")  # costs nothing if the test before left it installed


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


class JoinStuck:
    """A thread that ends with the test."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.over.wait, daemon=True)
        self.thread.start()


@pytest.fixture
def running() -> Iterator[threading.Thread]:
    stuck = JoinStuck()
    yield stuck.thread
    stuck.over.set()
    stuck.thread.join()


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


# --- time.sleep


@pytest.mark.parametrize("in_scope", [False, True])
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-1, ValueError, "sleep length must be non-negative"),
        (-0.5, ValueError, "sleep length must be non-negative"),
        (math.nan, ValueError, "Invalid value NaN"),
        (1e300, OverflowError, "timestamp"),
        (2**70, OverflowError, "timestamp"),
        ("1", TypeError, "'str' object cannot be interpreted as an integer|must be real number, not str"),
        (None, TypeError, "'NoneType' object cannot be interpreted as an integer|must be real number, not NoneType"),
        pytest.param(
            Fraction(1, 2), TypeError, "cannot be interpreted as an integer",
            marks=pytest.mark.skipif(sys.version_info >= (3, 15), reason="any real number will do"),
        ),
    ],
)
def test_sleep_refuses_what_the_original_refuses_with_its_words(in_scope, value, error, words):
    with CancelScope() if not in_scope else move_on_after(LONG), pytest.raises(error, match=words):
        time.sleep(value)


@pytest.mark.skipif(sys.version_info < (3, 15), reason="only a float or an integer will do")
@pytest.mark.parametrize("kind", [Fraction, Decimal])
def test_any_real_number_is_a_time_to_wait_and_is_capped(kind):
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    condition, event = threading.Condition(), threading.Event()
    reader, writer = os.pipe()
    calls = [
        time.sleep, event.wait, lambda long: items.get(timeout=long), lambda long: select.select([reader], [], [], long),
    ]
    try:
        for call in calls:
            with move_on_after(0.01) as scope:
                call(kind(1000))
            assert scope.cancelled_caught, call
            with move_on_after(LONG) as scope, contextlib.suppress(queue.Empty):
                call(kind("0.001"))
            assert not scope.cancel_called, call
        with condition, move_on_after(LONG):
            assert not condition.wait(kind("0.001"))
    finally:
        os.close(reader), os.close(writer)


def test_sleep_takes_no_keyword_and_what_has_an_index():
    class Zero:
        def __index__(self):
            return 0

    for scope in (CancelScope(), move_on_after(LONG)):
        with scope:
            time.sleep(Zero())
            time.sleep(False)
            with pytest.raises(TypeError):
                time.sleep(seconds=1)
            with pytest.raises(TypeError):
                time.sleep()


def test_sleep_follows_a_clock_for_tests():
    with MockClock(autojump=0.01) as clock, move_on_after(7200) as scope:
        start = clock.monotonic()
        time.sleep(3600)
        assert clock.monotonic() - start == pytest.approx(3600)
        time.sleep(1e8)
    assert scope.cancelled_caught


def test_moving_the_clock_in_a_scope_is_not_a_wait():
    with MockClock() as clock, move_on_after(60) as scope:
        clock.jump(120)
        reached = True
    assert reached
    assert scope.cancel_called


# --- Condition


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
    for owner in (threading.Condition, threading.Barrier, threading.Thread, threading.Event, queue.Queue, queue):
        for value in vars(owner).values():
            assert "threadsafe_timeout" not in getattr(getattr(value, "__code__", None), "co_filename", "")
    assert type(time.sleep).__name__ == "builtin_function_or_method"


def test_time_remaining_is_not_changed_by_waiting():
    with deadline(LONG):
        before = time_remaining()
        threading.Event().wait(0.001)
        assert before - 5 < time_remaining() < before
