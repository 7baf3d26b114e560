"""Scopes behave as trio's and anyio's do: nesting, shielding, reasons, level-triggering, moved deadlines."""

import asyncio
import contextlib
import contextvars
import gc
import math
import pickle
import threading

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
from threadsafe_timeout._scopes.tokens import CancelSource, CancelToken
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.testing import MockClock


@pytest.fixture
def clock():
    with MockClock() as clock:
        yield clock


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
    clock.autojump = 0.01
    with move_on_after(1) as outer, shield(5):
        began = _clock.monotonic()
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


def test_a_sleep_is_woken_by_another_thread():
    with CancelScope() as scope:
        waker = threading.Thread(target=scope.cancel, args=("enough",))
        waker.start()
        sleep(50)
        pytest.fail("slept on")
    waker.join()
    assert scope.reason == "enough"


def test_copied_contexts_carry_the_scope_to_a_thread():
    seen = []

    def child():
        try:
            sleep(50)
        except Cancelled as exc:
            seen.append(exc.scope)

    with CancelScope() as scope:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(child,))
        thread.start()
        scope.cancel()
        thread.join(120)
    assert seen == [scope]


def test_a_left_scope_binds_nobody_who_inherited_it(clock):
    with move_on_after(1):
        context = contextvars.copy_context()
    clock.jump(5)
    assert context.run(time_remaining) == math.inf
    context.run(check_cancelled)


def test_a_cancelled_scope_stays_cancelled_for_who_inherited_it():
    with CancelScope() as scope:
        context = contextvars.copy_context()
        scope.cancel()
    with pytest.raises(Cancelled):
        context.run(check_cancelled)


def held_by_a_generator(source):
    with CancelScope(token=source.token):
        yield


def test_a_generator_closed_in_another_context_leaves_its_scope():
    """As when the last reference to it is dropped elsewhere."""
    source = CancelSource()
    generator = held_by_a_generator(source)
    context = contextvars.copy_context()
    context.run(next, generator)
    generator.close()
    assert not source.token._registrations
    source.cancel("too late for it")
    context.run(check_cancelled)


def test_a_generator_that_outlives_the_scope_around_it_does_not_bring_it_back():
    """As when the collector comes by it: nothing that runs then has to do with that scope any more."""
    generator = held_by_a_generator(CancelSource())
    with pytest.raises(RuntimeError, match="a generator that yields"), CancelScope() as scope:
        next(generator)
        scope.cancel()
    assert _around.current_scope() is None
    with CancelScope() as later:
        generator.close()
        assert _around.current_scope() is later
        check_cancelled()
    assert _around.current_scope() is None


def test_what_is_around_the_caller_of_a_generator_stays_in_force_when_that_ends():
    source = CancelSource()
    generator = held_by_a_generator(source)
    with CancelScope() as outermost:
        next(generator)
        with CancelScope() as around:
            generator.close()
            source.cancel("too late for it")
            assert _around.current_scope() is around
            check_cancelled()
        assert _around.current_scope() is outermost
    assert _around.current_scope() is None


def test_a_scope_that_is_never_left_ends_with_the_one_around():
    with pytest.raises(RuntimeError, match="reverse order"), CancelScope():
        CancelScope().__enter__()
    assert _around.current_scope() is None


def test_a_generator_that_ends_in_another_context_is_told_so():
    source = CancelSource()
    generator = held_by_a_generator(source)
    context = contextvars.copy_context()
    context.run(next, generator)
    with pytest.raises(RuntimeError, match="in the same context"):
        next(generator)
    assert not source.token._registrations
    # In a copy of it, it is the innermost one.
    generator, context = held_by_a_generator(source), contextvars.copy_context()
    context.run(next, generator)
    copy = context.copy()
    assert copy.run(next, generator, "ended") == "ended"
    assert not source.token._registrations
    assert copy.run(_around.current_scope) is None


def test_who_asks_for_the_scope_while_it_is_left_does_not_keep_it_current():
    """A finaliser, or a callback of the collector, that comes to a cooperative point."""

    def ask(phase, info):
        _around.current_scope()

    def enter_and_leave():
        others = [contextvars.ContextVar(f"other {n}") for n in range(4)]
        for other in others:
            other.set(None)
            with CancelScope() as scope:
                scope.cancel()
            assert _around.current_scope() is None

    gc.callbacks.append(ask)
    threshold = gc.get_threshold()
    gc.set_threshold(1)  # at every allocation, almost
    try:
        for _ in range(100):
            contextvars.Context().run(enter_and_leave)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(ask)


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


# Tokens


def test_a_token_cancels_scopes_and_calls_back():
    source, heard = CancelSource(), []
    handle = source.token.register(lambda: heard.append(1))
    forgotten = source.token.register(lambda: heard.append(2))
    forgotten.unregister()
    with CancelScope(token=source.token) as scope:
        assert not source.token.cancelled
        assert source.cancel("shutdown")
        assert not source.cancel("again")
        check_cancelled()
    assert scope.cancelled_caught
    assert scope.reason == source.token.reason == "shutdown"
    assert heard == [1]
    handle.unregister()
    assert "shutdown" in repr(source.token)


def test_registering_on_a_cancelled_token_calls_at_once():
    source, heard = CancelSource(), []
    source.cancel()
    source.token.register(lambda: heard.append(1))
    assert heard == [1]
    with CancelScope(token=source.token) as scope:
        check_cancelled()
    assert scope.cancelled_caught


def test_a_left_scope_no_longer_listens():
    source = CancelSource()
    with CancelScope(token=source.token) as scope:
        pass
    source.cancel()
    assert not scope.cancel_called
    assert not source.token._registrations


def test_a_failing_callback_does_not_stop_the_others(caplog):
    source, heard = CancelSource(), []
    source.token.register(lambda: 1 / 0)
    source.token.register(lambda: heard.append(1))
    source.cancel()
    assert heard == [1]
    assert "callback failed" in caplog.text


def test_linked_tokens():
    one, two = CancelSource(), CancelSource()
    linked = CancelToken.linked(one.token, two.token)
    assert not linked.cancelled
    two.cancel("second")
    one.cancel("first")
    assert linked.reason == "second"
    gone = CancelToken.linked(CancelSource().token, one.token)
    assert gone.reason == "first"


def test_token_wait(clock):
    clock.autojump = 0.01
    source = CancelSource()
    assert not source.token.wait(120)
    waker = threading.Thread(target=source.cancel)
    waker.start()
    assert source.token.wait(1000)
    waker.join()
    assert source.token.wait()
    with move_on_after(1) as scope:
        CancelSource().token.wait()
    assert scope.cancelled_caught
    with pytest.raises(ValueError, match="timeout"):
        source.token.wait(-1)


# asyncio


def test_async_deadline_cancels_an_await():
    async def main(enter_async):
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlineExceeded) as caught:
            if enter_async:
                async with deadline(0.02, name="wait"):
                    await asyncio.sleep(50)
            else:
                with deadline(0.02, name="wait"):
                    await asyncio.sleep(50)
        assert caught.value.name == "wait"
        assert loop.time() - began < 20
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    for enter_async in (True, False):
        asyncio.run(main(enter_async))


def test_async_a_context_manager_written_as_a_generator():
    @contextlib.contextmanager
    def limited():
        with deadline(0.02, name="wait"):
            yield

    async def main():
        with pytest.raises(DeadlineExceeded), limited():
            await asyncio.sleep(50)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(main())


def test_async_move_on_and_nesting():
    async def main():
        async with move_on_after(50) as outer, move_on_after(0.02) as inner:
            await asyncio.sleep(50)
        assert inner.cancelled_caught
        assert not outer.cancel_called
        async with move_on_after(0.02) as outer:
            async with move_on_after(50) as inner:
                await asyncio.sleep(50)
            pytest.fail("went on")
        assert outer.cancelled_caught
        assert not inner.cancelled_caught

    asyncio.run(main())


def test_async_work_in_time_and_foreign_cancellation():
    async def quick():
        async with deadline(50) as scope:
            await asyncio.sleep(0)
        return scope.cancel_called

    async def slow():
        async with deadline(50):
            await asyncio.sleep(50)

    async def main():
        assert await quick() is False
        task = asyncio.ensure_future(slow())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_async_decorator():
    @deadline(0.02)
    async def slow():
        await asyncio.sleep(50)

    @deadline(50)
    async def quick(value):
        await asyncio.sleep(0)
        return value

    with pytest.raises(DeadlineExceeded, match="slow"):
        asyncio.run(slow())
    assert asyncio.run(quick(3)) == 3


def test_async_cancel_from_another_thread():
    async def main():
        async with CancelScope() as scope:
            thread = threading.Thread(target=scope.cancel, args=("from outside",))
            thread.start()
            await asyncio.sleep(50)
        thread.join()
        assert scope.cancelled_caught
        assert scope.reason == "from outside"

    asyncio.run(main())


def test_async_shield():
    async def main():
        steps = []
        async with move_on_after(0.01) as outer:
            async with shield(50):
                while not outer.cancel_called:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.01)
                steps.append("shielded")
            await asyncio.sleep(50)
            steps.append("went on")
        assert steps == ["shielded"]
        assert outer.cancelled_caught
        async with move_on_after(0.01) as outer, shield(0.03):
            await asyncio.sleep(50)
        assert outer.cancelled_caught

    asyncio.run(main())


def test_a_deadline_around_to_thread_reaches_the_thread():
    ended = threading.Event()

    def blocking():
        try:
            sleep(50)
        finally:
            ended.set()

    async def main():
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.02):
                await asyncio.to_thread(blocking)
        assert await asyncio.get_running_loop().run_in_executor(None, ended.wait, 30)

    asyncio.run(main())


def test_a_deadline_around_run_in_executor_reaches_a_thread_of_our_pool():
    """asyncio does not copy the context there; the pool's submit does."""
    from threadsafe_timeout import ThreadPoolExecutor

    begun, ended = threading.Event(), threading.Event()

    def blocking():
        begun.set()
        try:
            sleep(60)
        finally:
            ended.set()

    async def main(pool):
        loop = asyncio.get_running_loop()
        with pytest.raises(DeadlineExceeded):
            async with deadline(60) as scope:
                future = loop.run_in_executor(pool, blocking)
                assert await loop.run_in_executor(None, begun.wait, 30)
                scope.deadline = loop.time() + 0.02
                await future
        assert await loop.run_in_executor(None, ended.wait, 30)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main(pool))


def test_a_scope_in_a_coroutine_that_no_loop_runs():
    async def main():
        with move_on_after(0) as scope:
            check_cancelled()
        return scope.cancelled_caught

    with pytest.raises(StopIteration) as caught:
        main().send(None)
    assert caught.value.value is True
