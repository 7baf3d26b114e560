"""func_timeout's API on our scopes; the contract also against the real one."""

import contextvars
import threading
import time

import func_timeout
import pytest
from threadsafe_timeout_legacy import func_timeout as ours

from threadsafe_timeout import CancelScope, check_cancelled, move_on_after
from threadsafe_timeout._interruption import pursuit as _pursuit

INTERRUPTS = _pursuit.support().mechanism is not None


@pytest.fixture(params=["ours", "real"])
def lib(request):
    return ours if request.param == "ours" else func_timeout


def spin(seconds=5, **ignored):
    until = time.perf_counter() + seconds
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
        lib.func_timeout(0.05, spin, args=(5,))
    error = caught.value
    assert not isinstance(error, Exception)
    assert (error.timedOutAfter, error.timedOutFunction) == (0.05, spin)
    assert tuple(error.timedOutArgs) == (5,)
    assert "spin" in error.msg
    assert "timed out after 0.05" in str(error)


def test_retry(lib):
    def sometimes(tries=[]):  # noqa: B006  # counts its calls
        tries.append(1)
        return spin(5) if len(tries) == 1 else "second"

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
        overridable(5)
    assert computed(0) == "done"
    with pytest.raises(lib.FunctionTimedOut):
        computed(5)
    with pytest.raises(ValueError, match="timeout"):
        lib.func_set_timeout("soon")


def test_ours_returns_on_time_though_the_function_is_stuck_in_c():
    gate = threading.Event()
    began = time.perf_counter()
    with pytest.raises(ours.FunctionTimedOut):
        ours.func_timeout(0.05, gate.wait, args=(20,))
    assert time.perf_counter() - began < 10
    gate.set()


def test_ours_sees_the_callers_context():
    variable = contextvars.ContextVar("variable")
    variable.set("mine")
    assert ours.func_timeout(30, variable.get) == "mine"


def test_ours_a_scope_around_ends_the_wait():
    with move_on_after(0.05) as scope:
        ours.func_timeout(30, spin, args=(20,))
    assert scope.cancelled_caught
    with CancelScope() as scope:
        assert ours.func_timeout(None, int) == 0


def test_ours_stoppable_thread():
    stopped = threading.Event()

    def run():
        try:
            spin(20)
        except KeyError:
            stopped.set()

    thread = ours.StoppableThread(target=run, daemon=True)
    thread.start()
    thread.stop(KeyError)
    assert stopped.wait(120)
    thread.join(120)
    thread.stop(KeyError)  # has ended: nothing to do
