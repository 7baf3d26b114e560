"""Scopes behave as trio's and anyio's do: nesting, shielding, reasons, level-triggering, moved deadlines."""

import contextlib
import math
import pickle

import pytest

from threadsafe_timeout import (
    Cancelled,
    CancelScope,
    DeadlineExceeded,
    check_cancelled,
    current_deadline,
    deadline,
    fail_at,
    move_on_after,
    move_on_at,
    shield,
    sleep,
    time_remaining,
)
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock


def test_deadline_raises_at_the_edge_and_tells_what_happened(clock):
    with pytest.raises(DeadlineExceeded) as caught:
        with deadline(5, name="fetch"):
            clock.jump(6)
            check_cancelled()
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.name, error.budget, error.reason) == ("fetch", 5.0, "deadline")
    assert error.elapsed == pytest.approx(6, abs=0.5)
    file, line, function = error.where
    assert file == __file__
    assert function == "test_deadline_raises_at_the_edge_and_tells_what_happened"
    assert str(error).endswith(f", at {file}:{line}, in {function}")
    assert isinstance(error.__cause__, Cancelled)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert copy.where == error.where
    cause = pickle.loads(pickle.dumps(error.__cause__))  # as tblib, which Dask uses, sends it along
    assert (str(cause), cause.scope) == (str(error.__cause__), None)


def test_work_that_ends_in_time_is_left_alone(clock):
    with deadline(5) as scope:
        clock.jump(4)
        check_cancelled()
    assert not scope.cancel_called
    clock.jump(10)
    assert not scope.cancel_called  # left: its deadline is nobody's
    check_cancelled()


def test_move_on_after_swallows_and_tells(clock):
    with move_on_after(5) as scope:
        clock.jump(5)
        sleep(1)
        pytest.fail("went on")
    assert scope.cancelled_caught
    assert scope.reason == "deadline"


def test_level_triggered_a_bare_except_meets_it_again(clock):
    met = 0
    with move_on_after(1) as scope:
        clock.jump(1)
        while met < 3:
            try:
                check_cancelled()
            except BaseException:
                met += 1
        check_cancelled()
    assert met == 3
    assert scope.cancelled_caught


def test_deadline_raises_even_if_its_cancellation_was_swallowed(clock):
    with pytest.raises(DeadlineExceeded):
        with deadline(1):
            clock.jump(1)
            with contextlib.suppress(BaseException):
                check_cancelled()


def test_work_that_never_met_its_deadline_stands(clock):
    with deadline(1) as scope:
        clock.jump(2)
    assert scope.cancel_called
    assert not scope.cancelled_caught


def test_except_exception_does_not_swallow(clock):
    with pytest.raises(DeadlineExceeded):
        with deadline(1):
            clock.jump(1)
            try:
                check_cancelled()
            except Exception:
                pytest.fail("swallowed")


def test_nested_takes_the_minimum(clock):
    with move_on_after(10):
        outer = current_deadline()
        with move_on_after(5):
            assert current_deadline() == pytest.approx(outer - 5)
            assert time_remaining() == pytest.approx(5)
            with move_on_after(100):
                assert time_remaining() == pytest.approx(5)
        assert current_deadline() == outer


def test_the_outer_deadline_passes_through_the_inner_scope(clock):
    with move_on_after(1) as outer:
        with move_on_after(10) as inner:
            clock.jump(1)
            check_cancelled()
        pytest.fail("went on")
    assert outer.cancelled_caught
    assert not inner.cancelled_caught


def test_the_inner_deadline_stays_inside(clock):
    with move_on_after(10) as outer:
        with move_on_after(1) as inner:
            clock.jump(1)
            check_cancelled()
        check_cancelled()
    assert inner.cancelled_caught
    assert not outer.cancelled_caught


def test_of_several_cancelled_scopes_the_outermost_is_raised(clock):
    with move_on_after(2) as outer:
        with move_on_after(1) as inner:
            clock.jump(3)
            check_cancelled()
        pytest.fail("went on")
    assert outer.cancelled_caught
    assert not inner.cancelled_caught


def test_the_first_reason_wins():
    with CancelScope() as scope:
        assert scope.cancel("first")
        assert not scope.cancel("second")
    assert scope.reason == "first"


def test_cancelling_the_own_scope_takes_effect_at_the_next_cooperative_point():
    reached = False
    with CancelScope() as scope:
        scope.cancel()
        reached = True
        check_cancelled()
        pytest.fail("went on")
    assert reached
    assert scope.cancelled_caught


def test_a_scope_cancelled_before_it_is_entered():
    scope = CancelScope()
    scope.cancel("early")
    with scope:
        check_cancelled()
        pytest.fail("went on")
    assert scope.cancelled_caught


def test_a_scope_is_single_use():
    scope = CancelScope()
    with scope:
        pass
    with pytest.raises(RuntimeError, match="single-use"):
        scope.__enter__()
    with scope_entered() as scope, pytest.raises(RuntimeError, match="single-use"):
        scope.__enter__()


def scope_entered():
    return CancelScope()


def test_misnesting_is_an_error():
    outer, inner = CancelScope(name="outer"), CancelScope(name="inner")
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="reverse order"):
        outer.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="reverse order"):
        inner.__exit__(None, None, None)
    _around.current.set(None)


def test_a_shield_holds_the_outside_up_for_a_while(clock):
    with move_on_after(1) as outer:
        with shield(5):
            clock.jump(2)
            check_cancelled()
            sleep(0)
            clock.jump(4)
            with pytest.raises(Cancelled):
                check_cancelled()
        check_cancelled()
        pytest.fail("went on")
    assert outer.cancelled_caught


def test_a_shield_does_not_hold_up_what_is_inside_it(clock):
    with move_on_after(1), shield(10):
        with move_on_after(2) as inner:
            clock.jump(3)
            check_cancelled()
        assert inner.cancelled_caught
        assert time_remaining() == pytest.approx(7, abs=0.1)


def test_a_sleep_under_a_shield_ends_when_it_is_lowered(clock):
    with move_on_after(1) as outer, shield(5):
        began = _clock.monotonic()
        clock.autojump = 0.01
        sleep(1000)
    assert outer.cancelled_caught
    assert _clock.monotonic() - began == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("seconds", [-1, math.nan, -math.inf])
@pytest.mark.parametrize("make", [deadline, move_on_after, sleep])
def test_bad_durations_are_refused_by_name(make, seconds):
    with pytest.raises(ValueError, match="seconds must be"):
        make(seconds)
    with pytest.raises(TypeError, match="seconds must be"):
        make("soon")
    with pytest.raises(ValueError, match="grace"):
        shield(-1)


def test_no_limit_and_no_time():
    with deadline(None), move_on_after(math.inf):
        assert time_remaining() == math.inf
    with move_on_after(0) as scope:
        check_cancelled()
    assert scope.cancelled_caught


def test_absolute_deadlines(clock):
    now = _clock.monotonic()
    with move_on_at(now + 1) as scope:
        clock.jump(1)
        check_cancelled()
    assert scope.cancelled_caught
    with pytest.raises(DeadlineExceeded):
        with fail_at(_clock.monotonic() - 1):
            check_cancelled()
    with pytest.raises(ValueError, match="deadline must be"):
        fail_at(math.nan)


def test_a_deadline_can_be_moved_while_it_runs(clock):
    with move_on_after(1) as scope:
        scope.deadline += 9
        clock.jump(5)
        check_cancelled()
        assert time_remaining() == pytest.approx(5)
        scope.deadline = _clock.monotonic() + 1
        clock.jump(1)
        assert scope.cancel_called
        check_cancelled()
    assert scope.cancelled_caught
    with move_on_after(1) as scope:
        scope.deadline = math.inf
        clock.jump(5)
        check_cancelled()
        assert time_remaining() == math.inf
    with CancelScope() as scope:
        scope.deadline = _clock.monotonic() + 1
        clock.jump(2)
        assert scope.cancel_called


def test_current_deadline_of_a_cancelled_scope():
    with CancelScope() as scope:
        scope.cancel()
        assert current_deadline() == -math.inf
        assert time_remaining() == 0


def test_cancelled_cannot_be_made():
    with pytest.raises(TypeError, match="cancel"):
        Cancelled()


def test_another_exception_passes_a_cancelled_scope():
    with pytest.raises(KeyError):
        with CancelScope() as scope:
            scope.cancel()
            raise KeyError
    assert not scope.cancelled_caught


def test_decorator(clock):
    @deadline(5)
    def work(seconds, *, result):
        clock.jump(seconds)
        check_cancelled()
        return result

    assert work(1, result="a") == "a"
    assert work(1, result="b") == "b"
    with pytest.raises(DeadlineExceeded, match="work"):
        work(5, result="c")
    assert work.__name__ == "work"


def test_decorator_refuses_generators():
    with pytest.raises(TypeError, match="generator"):

        @deadline(1)
        def generator():
            yield

    with pytest.raises(TypeError, match="generator"):

        @deadline(1)
        async def agenerator():
            yield

    with pytest.raises(TypeError, match="callable"):
        deadline(1)(3)


def test_repr_tells_the_state():
    scope = deadline(3, name="load")
    assert "'load' new" in repr(scope)
    with scope:
        assert "active" in repr(scope)
        assert "s left" in repr(scope)
        scope.cancel("stop")
        assert "cancelled: stop" in repr(scope)
    assert "left" in repr(scope)
