"""func_timeout's API on our scopes; the contract also against the real one."""

import contextvars
import threading
import time

import func_timeout
import pytest
from blocked import LONG
from threadsafe_timeout_legacy import func_timeout as ours

from threadsafe_timeout import CancelScope, check_cancelled, move_on_after
from threadsafe_timeout._interruption import pursuit as _pursuit

INTERRUPTS = _pursuit.support().mechanism is not None


spins = []  # the threads that are in the loop


@pytest.fixture(params=["ours", "real"])
def lib(request, monkeypatch):
    """The time of the real one begins when what it calls is in its loop, or has ended: a thread that it stops on the way
    there may be struck anywhere."""
    if request.param == "ours":
        return ours

    class Thread(func_timeout.dafunc.StoppableThread):
        def join(self, timeout=None):
            while self.is_alive() and self not in spins:
                time.sleep(0.001)
            super().join(timeout)

        def _stopThread(self, exception, raiseEvery=LONG):  # noqa: N803  # a second one may strike as it ends
            super()._stopThread(exception, raiseEvery)

    monkeypatch.setattr(func_timeout.dafunc, "StoppableThread", Thread)
    return func_timeout


def spin(seconds=LONG, **ignored):
    until = time.perf_counter() + seconds
    spins.append(threading.current_thread())
    while time.perf_counter() < until:
        if not INTERRUPTS:
            check_cancelled()  # the only way out of a Python loop there
    return "done"


def test_a_result_in_time(lib):
    assert lib.func_timeout(30, lambda a, b: a + b, args=(1,), kwargs={"b": 2}) == 3


def test_an_exception_is_passed_on(lib):
    with pytest.raises(ZeroDivisionError):
        lib.func_timeout(30, lambda: 1 / 0)


def test_timed_out(lib):
    with pytest.raises(lib.FunctionTimedOut) as caught:
        lib.func_timeout(0.05, spin, args=(LONG,))
    error = caught.value
    assert not isinstance(error, Exception)
    assert (error.timedOutAfter, error.timedOutFunction) == (0.05, spin)
    assert tuple(error.timedOutArgs) == (LONG,)
    assert "spin" in error.msg
    assert "timed out after 0.05" in str(error)


def test_retry(lib):
    def sometimes(tries=[]):  # noqa: B006  # counts its calls
        tries.append(1)
        return spin() if len(tries) == 1 else "second"

    with pytest.raises(lib.FunctionTimedOut) as caught:
        lib.func_timeout(0.05, sometimes)
    assert caught.value.retry(30) == "second"
    assert caught.value.retry(None) == "second"


def test_decorator(lib):
    @lib.func_set_timeout(30)
    def plain(a):
        return a

    @lib.func_set_timeout(0.05, allowOverride=True)
    def overridable(seconds):
        return spin(seconds)

    @lib.func_set_timeout(lambda seconds: 0.05 if seconds > 1 else 30)
    def computed(seconds):
        return spin(seconds)

    assert plain(1) == 1
    assert plain.__name__ == "plain"
    assert overridable(0.1, forceTimeout=30) == "done"
    with pytest.raises(lib.FunctionTimedOut):
        overridable(LONG)
    assert computed(0) == "done"
    with pytest.raises(lib.FunctionTimedOut):
        computed(LONG)
    with pytest.raises(ValueError, match="timeout"):
        lib.func_set_timeout("soon")


def test_ours_returns_though_the_function_is_stuck_in_c(gate):
    ended = threading.Event()

    def stuck():
        try:
            gate.wait(LONG)
        finally:
            ended.set()

    with pytest.raises(ours.FunctionTimedOut):
        ours.func_timeout(0.05, stuck)
    assert not ended.is_set()


def test_ours_sees_the_callers_context():
    variable = contextvars.ContextVar("variable")
    variable.set("mine")
    assert ours.func_timeout(30, variable.get) == "mine"


def test_ours_a_scope_around_ends_the_wait():
    with move_on_after(0.05) as scope:
        ours.func_timeout(LONG, spin)
    assert scope.cancelled_caught
    with CancelScope() as scope:
        assert ours.func_timeout(None, int) == 0


def test_ours_stoppable_thread():
    stopped = threading.Event()

    def run():
        try:
            spin()
        except KeyError:
            stopped.set()

    thread = ours.StoppableThread(target=run, daemon=True)
    thread.start()
    while thread not in spins:
        time.sleep(0.001)
    thread.stop(KeyError, raiseEvery=LONG)  # a second one may strike as it ends
    assert stopped.wait(120)
    thread.join(120)
    thread.stop(KeyError)  # has ended: nothing to do
