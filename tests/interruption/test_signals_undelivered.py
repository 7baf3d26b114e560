"""An alarm that cannot be delivered: it is the deadline of the task that it belongs to."""

import contextlib
import contextvars
import functools
import signal
import threading
import time

import pytest
from alarms import SOON, WAIT, Slow, in_waits_only, raising, time_limit

from threadsafe_timeout import (
    DeadlineExceeded,
    ThreadPoolExecutor,
    check_cancelled,
    install,
    shield,
)
from threadsafe_timeout._interruption import alarm as _alarm

pytestmark = [pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here"), pytest.mark.usefixtures("alarms")]


class StuckInC:
    """A lock that is taken, and what waits for it; it is let go at the end of a test."""

    def __init__(self):
        self.lock = threading.Lock()
        self.lock.acquire()
        self.waiting = threading.Event()

    @in_waits_only
    def wait(self, handler=raising, seconds=SOON, interval=0.0):
        old = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds, interval)
        try:
            self.waiting.set()
            self.lock.acquire(timeout=WAIT)
            check_cancelled()
            return "returned"
        except Slow:
            return "its handler ended it"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)


@pytest.fixture
def stuck_in_c():
    one = StuckInC()
    yield one
    with contextlib.suppress(RuntimeError):
        one.lock.release()


def test_an_alarm_that_cannot_reach_a_pools_task_is_its_deadline(stuck_in_c):
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        future = pool.submit(stuck_in_c.wait)
        behind = pool.submit(int)
        with pytest.raises(DeadlineExceeded, match="an alarm of its own went off and cannot reach it"):
            future.result(WAIT)
        assert behind.result(WAIT) == 0
        thread = next(iter(pool._crew.abandoned)).thread
    stuck_in_c.lock.release()
    thread.join(WAIT)


@pytest.mark.parametrize("options", [{"interval": SOON}, {"handler": lambda *_: raising(0, None)}])
def test_so_is_one_that_repeats_and_one_whose_handler_raises_further_down(stuck_in_c, options):
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        with pytest.raises(DeadlineExceeded, match="alarm"):
            pool.submit(functools.partial(stuck_in_c.wait, **options)).result(WAIT)
        thread = next(iter(pool._crew.abandoned)).thread
    stuck_in_c.lock.release()
    thread.join(WAIT)


def test_also_in_a_context_that_knows_no_scope_of_the_task(stuck_in_c):
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        with pytest.raises(DeadlineExceeded, match="alarm"):
            pool.submit(contextvars.copy_context().run, stuck_in_c.wait).result(WAIT)
        thread = next(iter(pool._crew.abandoned)).thread
    stuck_in_c.lock.release()
    thread.join(WAIT)


def test_also_in_a_pool_of_multiprocessing(stuck_in_c):
    from multiprocessing.pool import ThreadPool

    install(checkpoint="off", grace=0.05)
    try:
        with ThreadPool(1) as pool:
            with pytest.raises(DeadlineExceeded, match="alarm"):
                pool.apply_async(stuck_in_c.wait).get(WAIT)
            thread = next(iter(pool._inqueue._executor._crew.abandoned)).thread
        stuck_in_c.lock.release()
        thread.join(WAIT)
    finally:
        install(checkpoint="off")


def test_timeout_decorator_in_a_pool_ends_although_it_is_stuck(stuck_in_c):
    import timeout_decorator
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        with pytest.raises(DeadlineExceeded, match="alarm"):
            pool.submit(timeout_decorator.timeout(SOON)(stuck_in_c.lock.acquire)).result(WAIT)
        thread = next(iter(pool._crew.abandoned)).thread
    stuck_in_c.lock.release()
    thread.join(WAIT)


def test_an_alarm_that_is_late_but_comes_is_an_alarm(stuck_in_c):
    """The call returns after the alarm was due, and before the grace is over."""
    with ThreadPoolExecutor(1, grace=WAIT) as pool:
        future = pool.submit(stuck_in_c.wait)
        while not any(alarm._due for alarm in list(_alarm._set)):
            time.sleep(0.001)
        stuck_in_c.lock.release()
        assert future.result(WAIT) == "its handler ended it"
    assert pool.stats()["abandoned"] == 0


def test_a_handler_that_does_not_raise_ends_no_task(stuck_in_c):
    seen = []
    with ThreadPoolExecutor(1, grace=0.02) as pool:
        future = pool.submit(stuck_in_c.wait, lambda *_: seen.append(1), SOON)
        while not any(alarm._due for alarm in list(_alarm._set)):
            time.sleep(0.001)
        time.sleep(0.2)  # ten graces
        assert not future.done()
        stuck_in_c.lock.release()
        assert future.result(WAIT) == "returned"
    assert seen == [1]


def test_a_task_that_moves_is_not_taken_for_stuck():
    """It is in code in which an alarm is held up, on a different line most times that somebody looks."""

    def busy():
        with time_limit(SOON):
            try:
                with shield(WAIT):
                    until = time.monotonic() + 0.6  # six graces
                    total = 0
                    while time.monotonic() < until:
                        total += sum(range(50))
                        total -= len(str(total))
                        total ^= hash(str(total))
                        total = abs(total) % 1000
                        total += max([total, 5, 6])
                        total = int(total / 2)
                check_cancelled()
            except Slow:
                return "its handler ended it"
        return "not ended"

    with ThreadPoolExecutor(1, grace=0.1) as pool:
        assert pool.submit(busy).result(WAIT) == "its handler ended it"


def test_without_a_pool_it_is_delivered_when_the_call_returns(stuck_in_c):
    install(checkpoint="off", grace=0.02)
    try:
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(stuck_in_c.wait()))
        thread.start()
        while not any(alarm._due for alarm in list(_alarm._set)):
            time.sleep(0.001)
        time.sleep(0.1)
        stuck_in_c.lock.release()
        thread.join(WAIT)
        assert outcome == ["its handler ended it"]
    finally:
        install(checkpoint="off")
