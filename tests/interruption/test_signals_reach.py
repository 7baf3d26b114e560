"""SIGALRM off the main thread: the handler runs only while it is set, and never where it does not belong."""

import contextvars
import logging
import signal
import threading
import time

import pytest
from alarms import SOON, WAIT, Slow, in_thread, interrupts, raising, time_limit
from busy import loop

from threadsafe_timeout import (
    DeadlineExceeded,
    ThreadPoolExecutor,
    check_cancelled,
    deadline,
    move_on_after,
    shield,
)
from threadsafe_timeout._interruption import alarm as _alarm

pytestmark = [pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here"), pytest.mark.usefixtures("alarms")]


def test_threads_have_alarms_of_their_own():
    started = threading.Barrier(4)

    def work(seconds):
        started.wait(WAIT)
        with time_limit(seconds):
            time.sleep(6 * SOON if seconds == WAIT else WAIT)
        return "done"

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, seconds) for seconds in (SOON, WAIT, 2 * SOON, WAIT)]
    assert [future.exception().__class__ for future in futures] == [Slow, type(None), Slow, type(None)]


def test_a_child_that_inherits_the_context_is_not_hit():
    def work():
        with ThreadPoolExecutor(2) as pool:
            with time_limit(SOON, lambda signum, frame: None):
                submitted = pool.submit(child)
                context = contextvars.copy_context()
                own = in_thread(context.run, child)
            return submitted.result(), own

    def child():
        start = time.monotonic()
        time.sleep(3 * SOON)
        with move_on_after(3 * SOON) as scope:
            check_cancelled()
            time.sleep(WAIT)
        return time.monotonic() - start >= 6 * SOON, scope.cancelled_caught

    assert in_thread(work) == ((True, True), (True, True))


def test_an_alarm_left_set_does_not_hit_the_next_task(caplog):
    def careless():
        signal.signal(signal.SIGALRM, raising)
        signal.setitimer(signal.ITIMER_REAL, SOON)
        return threading.get_ident()

    def next_one():
        time.sleep(3 * SOON)
        return threading.get_ident()

    def next_until_it_is_told():
        while "no longer running" not in caplog.text:
            time.sleep(0.01)
        return threading.get_ident()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(careless).result() == pool.submit(next_one).result()
    from threadsafe_timeout._pool.executor import StandardThreadPoolExecutor

    with StandardThreadPoolExecutor(1) as pool:
        assert pool.submit(careless).result() == pool.submit(next_until_it_is_told).result()


def test_an_alarm_ends_with_its_thread():
    def careless():
        signal.signal(signal.SIGALRM, raising)
        signal.alarm(1000)
        assert len(_alarm._set) == 1

    in_thread(careless)
    assert not _alarm._set


def test_an_alarm_ends_with_the_scope_it_was_set_in():
    def work():
        with move_on_after(WAIT):
            signal.signal(signal.SIGALRM, raising)
            signal.setitimer(signal.ITIMER_REAL, SOON)
        time.sleep(3 * SOON)
        assert signal.alarm(0) == 0

    in_thread(work)


def test_scopes_and_alarms_may_overlap():
    def work():
        with move_on_after(WAIT):
            signal.signal(signal.SIGALRM, raising)
            signal.alarm(1000)
            with move_on_after(WAIT):
                assert signal.alarm(0) == 1000
                assert signal.alarm(500) == 0
                assert signal.alarm(600) == 500
            assert signal.alarm(1) == 0
            signal.alarm(0)
        with pytest.raises(DeadlineExceeded):
            with deadline(SOON), time_limit(WAIT):
                time.sleep(WAIT)
        with deadline(WAIT), pytest.raises(Slow), time_limit(SOON), deadline(WAIT):
            time.sleep(WAIT)

    in_thread(work)


def test_a_shield_holds_it_up():
    def work():
        with time_limit(SOON):
            with shield(WAIT):
                time.sleep(2 * SOON)
                reached.append("shielded")
            time.sleep(WAIT)

    reached = []
    with pytest.raises(Slow):
        in_thread(work)
    assert reached == ["shielded"]


@interrupts
def test_it_is_not_raised_in_a_finally_body_nor_after_it_was_turned_off():
    def work():
        done = []
        for _ in range(20):
            try:
                try:
                    signal.signal(signal.SIGALRM, raising)
                    signal.setitimer(signal.ITIMER_REAL, 0.001)
                    loop()
                finally:
                    until = time.monotonic() + 0.005
                    while time.monotonic() < until:
                        pass
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    done.append("cleaned up")
            except Slow:
                pass
            until = time.monotonic() + 0.003
            while time.monotonic() < until:
                pass
        return done

    assert in_thread(work) == ["cleaned up"] * 20


@interrupts
def test_it_is_held_up_while_a_protected_module_runs():
    class Busy(logging.Handler):
        def emit(self, record):
            until = time.monotonic() + 3 * SOON
            while time.monotonic() < until:
                pass
            record.reached = True

    logger = logging.Logger("busy")
    logger.addHandler(Busy())
    record = logger.makeRecord("busy", logging.INFO, __file__, 1, "x", (), None)

    def work():
        with time_limit(SOON):
            logger.handle(record)
            loop()

    with pytest.raises(Slow):
        in_thread(work)
    assert record.reached
