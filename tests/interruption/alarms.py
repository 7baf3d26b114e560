"""What the tests of SIGALRM off the main thread share: time limits written by hand, and what is stuck."""

import contextlib
import signal
import threading

import pytest

from threadsafe_timeout._interruption import pursuit as _pursuit

interrupts = pytest.mark.skipif(_pursuit.support().mechanism is None, reason=_pursuit.support().detail)
SOON = 0.03
WAIT = 240  # seconds no test comes near


def in_thread(function, *args):
    """What `function` returns or raises in a thread of its own."""
    outcome = []

    def target():
        try:
            outcome.append((function(*args), None))
        except BaseException as exc:
            outcome.append((None, exc))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert outcome, "the thread is stuck"
    value, exc = outcome[0]
    if exc is not None:
        raise exc
    return value


def in_waits_only(function):
    """Have an alarm come to `function` in its waits only, and not between two lines of it: as in each of that name."""
    function.__code__ = function.__code__.replace(co_name="acquire")
    return function


class Slow(Exception):
    pass


def raising(signum, frame):
    raise Slow(signum, frame)


@contextlib.contextmanager
def time_limit(seconds, handler=raising):
    """Hand-written, as in countless runners."""
    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def inline(body):
    signal.signal(signal.SIGALRM, raising)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    try:
        body()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
