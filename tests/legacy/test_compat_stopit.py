"""stopit's API on our scopes; the contract also against the real stopit."""

import sys
import threading
import time
import types

import pytest
from blocked import LONG
from threadsafe_timeout_legacy import stopit as ours

from threadsafe_timeout import check_cancelled, sleep
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout.testing import MockClock

# Without interruption a loop that meets no cooperative point runs to its end, and is late.
interrupts = pytest.mark.skipif(_pursuit.support().mechanism is None, reason="a Python loop is not interrupted here")

spins = []  # a mark for each loop that has begun


def real_stopit():
    """The real one needs pkg_resources only to read its version: a stand-in does."""
    added = "pkg_resources" not in sys.modules
    if added:
        sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
    try:
        import stopit
        return stopit
    finally:
        if added:
            del sys.modules["pkg_resources"]


@pytest.fixture(params=["ours", "real"])
def stopit(request, monkeypatch):
    """The real one stops nothing before a loop has begun: what it stops on the way into the block may be struck
    anywhere."""
    if request.param == "ours":
        return ours
    spins.clear()
    real = real_stopit()
    stop = real.ThreadingTimeout.stop

    def stop_a_loop(self):
        while not spins:
            time.sleep(0.001)
        stop(self)

    monkeypatch.setattr(real.ThreadingTimeout, "stop", stop_a_loop)
    return real


def spin(seconds=LONG):
    until = time.perf_counter() + seconds
    spins.append(1)
    while time.perf_counter() < until:
        pass


def test_a_block_in_time(stopit):
    with stopit.ThreadingTimeout(30) as to_ctx_mgr:
        assert to_ctx_mgr.state == to_ctx_mgr.EXECUTING
    assert to_ctx_mgr
    assert to_ctx_mgr.state == to_ctx_mgr.EXECUTED


@interrupts
def test_a_block_that_is_stopped(stopit):
    with stopit.ThreadingTimeout(0.05) as to_ctx_mgr:
        spin()
    assert not to_ctx_mgr
    assert to_ctx_mgr.state == to_ctx_mgr.TIMED_OUT


@interrupts
def test_not_swallowed(stopit):
    with pytest.raises(stopit.TimeoutException):
        with stopit.ThreadingTimeout(0.05, swallow_exc=False):
            spin()


def test_cancelled_limit(stopit):
    with stopit.ThreadingTimeout(LONG) as to_ctx_mgr:
        to_ctx_mgr.cancel()
        assert to_ctx_mgr.state == to_ctx_mgr.CANCELED
    assert to_ctx_mgr


def test_ours_a_cancelled_limit_does_not_end_the_block():
    with MockClock() as clock, ours.ThreadingTimeout(10) as limit:
        limit.cancel()
        clock.jump(100)
        check_cancelled()
    assert limit


@interrupts
def test_decorator(stopit):
    @stopit.threading_timeoutable(default="late", timeout_param="limit")
    def work(seconds):
        spin(seconds)
        return "done"

    assert work(0) == "done"
    assert work(0, limit=30) == "done"
    spins.clear()
    assert work(LONG, limit=0.05) == "late"


def test_other_exceptions_pass(stopit):
    with pytest.raises(KeyError):
        with stopit.ThreadingTimeout(30):
            raise KeyError


def test_async_raise_without_such_a_thread(stopit):
    with pytest.raises(ValueError, match="thread"):
        stopit.async_raise(1, KeyError)


def test_ours_waits_cooperatively():
    with ours.ThreadingTimeout(0.05) as limit:
        while True:
            try:
                sleep(LONG)
            except Exception:
                pass
    assert limit.state == limit.TIMED_OUT


@interrupts
def test_ours_nested_takes_the_shorter():
    with ours.ThreadingTimeout(0.05) as outer, ours.ThreadingTimeout(LONG / 2) as inner:
        spin()
    assert not outer
    assert inner.state != inner.TIMED_OUT


@interrupts
def test_ours_is_not_eaten_by_except_exception():
    with ours.ThreadingTimeout(0.05) as limit:
        while True:
            try:
                spin()
            except Exception:
                pass
    assert not limit


@interrupts
def test_ours_signal_timeout_works_off_the_main_thread():
    states = []

    def run():
        with ours.SignalTimeout(1) as limit:
            spin()
        states.append(limit.state)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(120)
    assert states == [ours.SignalTimeout.TIMED_OUT]
    with ours.SignalTimeout(0.5) as limit:  # a fraction of a second is no limit, as with an alarm
        pass
    assert limit


def test_module_for_module():
    from threadsafe_timeout_legacy.stopit.signalstop import SignalTimeout
    from threadsafe_timeout_legacy.stopit.threadstop import ThreadingTimeout
    from threadsafe_timeout_legacy.stopit.utils import TimeoutException

    assert (SignalTimeout, ThreadingTimeout, TimeoutException) == (
        ours.SignalTimeout, ours.ThreadingTimeout, ours.TimeoutException,
    )  # fmt: skip
    assert issubclass(TimeoutException, TimeoutError)
