"""SIGALRM off the main thread: the handler runs in its thread, once, and what it raises is raised there."""

import functools
import logging
import os
import signal
import threading
import time

import pytest
from alarms import SOON, WAIT, Slow, in_thread, inline, interrupts, raising, time_limit
from busy import loop

from threadsafe_timeout import (
    ThreadPoolExecutor,
    check_cancelled,
)

pytestmark = [pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here"), pytest.mark.usefixtures("alarms")]


class TimeLimit:
    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        signal.signal(signal.SIGALRM, raising)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *args):
        signal.setitimer(signal.ITIMER_REAL, 0)


def allocating_loop():
    while True:
        Slow()


def sleeping():
    time.sleep(WAIT)


def a_pool_inside():
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(over.wait, WAIT).result()
        finally:
            over.set()


BUSY = [pytest.param(loop, marks=interrupts), pytest.param(allocating_loop, marks=interrupts)]
ENDED = [*BUSY, sleeping, a_pool_inside]


def with_generator(body):
    with time_limit(SOON):
        body()


def with_class(body):
    with TimeLimit(SOON):
        body()


def decorated(body):
    time_limit(SOON)(body)()


def helpers(body):
    def start():
        signal.signal(signal.SIGALRM, raising)
        signal.setitimer(signal.ITIMER_REAL, SOON)

    start()
    try:
        body()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("form", [inline, with_generator, with_class, decorated, helpers])
@pytest.mark.parametrize("body", ENDED)
def test_what_the_handler_raises_is_raised_in_its_thread(form, body):
    with pytest.raises(Slow) as caught:
        in_thread(form, body)
    signum, frame = caught.value.args
    assert signum == signal.SIGALRM
    assert type(signum) is int
    assert "threadsafe_timeout" not in frame.f_globals["__name__"]


def test_whole_seconds():
    def work():
        signal.signal(signal.SIGALRM, raising)
        assert signal.alarm(5) == 0
        assert signal.alarm(1) == 5
        try:
            time.sleep(WAIT)
        finally:
            signal.alarm(0)

    with pytest.raises(Slow):
        in_thread(work)


@pytest.mark.parametrize("body", BUSY)
def test_it_is_the_very_instance_whatever_its_class(body):
    class Odd(BaseException):
        def __init__(self, one, *, two):
            self.one, self.two = one, two

    odd = Odd(1, two=2)

    def handler(signum, frame):
        raise odd

    def work():
        with time_limit(SOON, handler):
            body()

    with pytest.raises(Odd) as caught:
        in_thread(work)
    assert caught.value is odd


class CallableHandler:
    def __call__(self, signum, frame):
        raise Slow(signum, frame)

    def method(self, signum, frame):
        raise Slow(signum, frame)


@pytest.mark.parametrize("handler", [CallableHandler(), CallableHandler().method, functools.partial(raising)])
@pytest.mark.parametrize("body", BUSY)
def test_a_handler_may_be_any_callable(body, handler):
    def work():
        with time_limit(SOON, handler):
            body()

    with pytest.raises(Slow):
        in_thread(work)


def test_a_handler_that_returns_is_run_once_in_its_thread_and_the_wait_goes_on():
    def work():
        seen = []
        with time_limit(SOON, lambda signum, frame: seen.append((threading.get_ident(), frame.f_code.co_name))):
            start = time.monotonic()
            time.sleep(4 * SOON)
            assert time.monotonic() - start >= 4 * SOON
            while not seen and time.monotonic() - start < WAIT:
                time.sleep(SOON)
        return seen, threading.get_ident()

    seen, ident = in_thread(work)
    assert seen == [(ident, "work")]


@interrupts
def test_a_handler_that_returns_is_run_in_busy_code_and_the_code_goes_on():
    def work():
        seen = []
        with time_limit(SOON, lambda signum, frame: seen.append(frame.f_code.co_name)):
            rounds = [Slow() for _ in range(10)]
            while not seen:
                rounds[0] = Slow()  # an allocation, which 3.11 needs
        return seen

    assert in_thread(work) == ["work"]


def test_an_exception_that_is_swallowed_is_not_raised_again():
    def work():
        swallowed = []
        with time_limit(SOON):
            for _ in range(3):
                try:
                    time.sleep(2 * SOON if swallowed else WAIT)
                    check_cancelled()
                except Exception as exc:
                    swallowed.append(exc)
        return swallowed

    assert len(in_thread(work)) == 1


def test_an_interval_repeats_until_it_is_turned_off():
    def work():
        seen = []
        signal.signal(signal.SIGALRM, lambda signum, frame: seen.append(signum))
        signal.setitimer(signal.ITIMER_REAL, SOON, SOON / 3)
        until = time.monotonic() + WAIT
        while len(seen) < 4 and time.monotonic() < until:
            time.sleep(0.2 * SOON)
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        assert left <= interval == pytest.approx(SOON / 3, abs=1e-6)
        count = len(seen)
        assert count >= 4
        time.sleep(2 * SOON)
        assert len(seen) == count
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

    in_thread(work)


def test_a_handler_may_set_the_alarm_again():
    def work():
        seen = []

        def handler(signum, frame):
            seen.append(signum)
            if len(seen) == 3:
                raise Slow
            signal.setitimer(signal.ITIMER_REAL, SOON / 3)

        with time_limit(SOON / 3, handler):
            time.sleep(WAIT)

    with pytest.raises(Slow):
        in_thread(work)


def test_ignored_and_default(caplog):
    def work():
        for handler in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, SOON)
            until = time.monotonic() + WAIT
            while signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0) or (handler is signal.SIG_DFL and not caplog.records):
                assert time.monotonic() < until
                time.sleep(SOON)

    in_thread(work)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "SIG_DFL" in record.message
    assert "signal.alarm(0)" in record.message


@pytest.mark.parametrize("body", ENDED)
def test_timeout_decorator(body):
    import timeout_decorator

    class Late(Exception):
        pass

    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(timeout_decorator.timeout(SOON, timeout_exception=Late, exception_message="too late")(body)),
            pool.submit(timeout_decorator.timeout(WAIT)(lambda: "in time")),
        ]
    assert str(futures[0].exception()) == "too late"
    assert type(futures[0].exception()) is Late
    assert futures[1].result() == "in time"


@pytest.mark.parametrize("body", ENDED)
def test_wrapt_timeout_decorator(body):
    import wrapt_timeout_decorator
    calls = []  # in this process

    @wrapt_timeout_decorator.timeout(SOON)
    def late():
        calls.append(os.getpid())
        body()

    with pytest.raises(TimeoutError, match="late timed out after"):
        in_thread(late)
    assert calls == [os.getpid()]
