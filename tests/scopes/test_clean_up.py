"""Code that handles a cancellation has one grace in which its calls work; a retry loop gets nothing out of it."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
import weakref

import pytest
from cleaning import GRACE, allowed, cancelled

from threadsafe_timeout import (
    Cancelled,
    CancelScope,
    check_cancelled,
)
from threadsafe_timeout._scopes import around as _around


def in_finally():
    try:
        check_cancelled()
    finally:
        seen.append(allowed())


def in_except():
    try:
        check_cancelled()
    except BaseException:
        seen.append(allowed())
        raise


def in_exit():
    class Resource:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append(allowed())

    with Resource():
        check_cancelled()


def in_what_it_calls():
    def clean():
        seen.append(allowed())

    try:
        check_cancelled()
    finally:
        clean()


def in_an_exit_stack():
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: seen.append(allowed()))
        check_cancelled()


def in_a_context_manager_that_is_a_generator():
    @contextlib.contextmanager
    def resource():
        try:
            yield
        finally:
            seen.append(allowed())

    with resource():
        check_cancelled()


def after_an_error_of_the_clean_up():
    try:
        try:
            check_cancelled()
        finally:
            raise OSError("no such container")
    except OSError:
        seen.append(allowed())
        raise


def as_the_cause_of_another():
    try:
        try:
            check_cancelled()
        except BaseException as exc:
            raise RuntimeError("translated") from exc
    except RuntimeError:
        seen.append(allowed())
        raise


def in_a_group():
    try:
        try:
            check_cancelled()
        except BaseException as exc:
            group = BaseExceptionGroup("several", [exc])
        raise group
    except BaseExceptionGroup:
        seen.append(allowed())
        raise


def in_a_generator_that_is_closed_by_hand():
    def items():
        try:
            yield 1
        finally:
            seen.append(allowed())

    iterator = items()
    next(iterator)
    try:
        check_cancelled()
    finally:
        iterator.close()


def in_a_generator_that_is_dropped():
    def items():
        try:
            yield 1
        finally:
            seen.append(allowed())

    for _ in items():
        check_cancelled()


def in_a_finaliser_while_it_unwinds():
    class Resource:
        def __del__(self):
            seen.append(allowed())

    def work():
        kept = Resource()
        check_cancelled()
        return kept

    with contextlib.suppress(Cancelled):
        work()
    check_cancelled()


def in_a_finaliser_of_a_cycle():
    class Resource:
        def __init__(self):
            self.me = self

        def __del__(self):
            seen.append(allowed())

    Resource()
    with contextlib.suppress(Cancelled):
        check_cancelled()
    gc.collect()
    check_cancelled()


def in_weakref_finalize():
    class Resource:
        pass

    resource = Resource()
    weakref.finalize(resource, lambda: seen.append(allowed()))
    with contextlib.suppress(Cancelled):
        check_cancelled()
    del resource
    check_cancelled()


def further_out_when_a_bare_except_swallowed_the_first():
    try:
        try:
            check_cancelled()
        except BaseException:
            pass
        check_cancelled()
    finally:
        seen.append(allowed())


def around_a_retry_loop():
    try:
        for _ in range(3):
            try:
                check_cancelled()
            except BaseException:
                if not allowed():
                    raise
    finally:
        seen.append(allowed())


def around_a_retry_loop_that_gives_up():
    try:
        for attempt in range(3):
            try:
                check_cancelled()
            except BaseException:
                if attempt == 2:
                    raise
    finally:
        seen.append(allowed())


def when_the_last_error_is_raised_again():
    last = None
    for _ in range(3):
        try:
            check_cancelled()
        except BaseException as exc:
            last = exc
    try:
        raise last
    finally:
        seen.append(allowed())


CLEAN_UPS = [
    in_finally, in_except, in_exit, in_what_it_calls, in_an_exit_stack, in_a_context_manager_that_is_a_generator,
    after_an_error_of_the_clean_up, as_the_cause_of_another, in_a_group, in_a_generator_that_is_closed_by_hand,
    in_a_generator_that_is_dropped, in_a_finaliser_while_it_unwinds, in_a_finaliser_of_a_cycle, in_weakref_finalize,
    further_out_when_a_bare_except_swallowed_the_first, around_a_retry_loop, around_a_retry_loop_that_gives_up,
    when_the_last_error_is_raised_again,
]  # fmt: skip
seen: list[bool] = []


@pytest.mark.parametrize("shape", CLEAN_UPS, ids=lambda shape: shape.__name__)
def test_clean_up_may_call(shape, clock):
    seen.clear()
    with cancelled(), contextlib.suppress(RuntimeError, OSError, BaseExceptionGroup):
        shape()
    gc.collect()
    assert seen == [True]


@pytest.mark.parametrize("shape", CLEAN_UPS, ids=lambda shape: shape.__name__)
def test_clean_up_is_refused_when_its_grace_is_over(shape, clock, monkeypatch):
    """The same, where all that happens inside takes longer than the grace."""
    seen.clear()
    original = _around.cancelled_scope
    monkeypatch.setitem(globals(), "allowed", lambda: clock.jump(GRACE + 1) or original() is None)
    with cancelled(), contextlib.suppress(RuntimeError, OSError, BaseExceptionGroup):
        shape()
    gc.collect()
    assert seen == [False]


# What is no clean-up. Each returns how many calls it made that worked.


def loop_with_a_bare_except():
    made = 0
    for _ in range(50):
        with contextlib.suppress(BaseException):
            check_cancelled()
            made += 1
    return made


def loop_that_calls_in_its_handler():
    made = 0
    for _ in range(50):
        try:
            check_cancelled()
        except BaseException:
            made += allowed()
    return made - 1  # the first time it is clean-up, for all one can tell


def loop_that_calls_an_attempt():
    made = 0

    def attempt():
        nonlocal made
        try:
            check_cancelled()
        except BaseException:
            made += allowed()

    for _ in range(50):
        attempt()
    return made - 1


def loop_of_context_managers():
    made = 0

    class Attempt:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            nonlocal made
            made += allowed()
            return True

    for _ in range(50):
        with Attempt():
            check_cancelled()
    return made - 1


def loop_that_handles_something_else():
    made = 0
    for _ in range(50):
        try:
            raise OSError("connection reset")
        except OSError:
            made += allowed()
    return made


def loop_after_the_clean_up():
    try:
        check_cancelled()
    except BaseException:
        pass
    return sum(allowed() for _ in range(50))


def loop_that_wraps_what_it_caught():
    made, last = 0, None
    for _ in range(50):
        try:
            check_cancelled()
        except BaseException as exc:
            last = exc
        made += allowed()
    assert last is not None
    return made


@pytest.mark.parametrize(
    "loop",
    [
        loop_with_a_bare_except, loop_that_calls_in_its_handler, loop_that_calls_an_attempt, loop_of_context_managers,
        loop_that_handles_something_else, loop_after_the_clean_up, loop_that_wraps_what_it_caught,
    ],
    ids=lambda loop: loop.__name__,
)  # fmt: skip
def test_a_retry_loop_does_not_profit(loop, clock):
    with cancelled():
        assert loop() == 0


def test_nobody_else_profits(clock):
    """What one thread handles is no clean-up in another, nor after its scope was left."""
    results = []
    with cancelled():
        try:
            check_cancelled()
        except BaseException as exc:
            context = contextvars.copy_context()

            def elsewhere(exc=exc):
                try:
                    raise RuntimeError from exc
                except RuntimeError:
                    results.append(context.run(allowed))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
    assert results == [False]
    with CancelScope() as outer:
        try:
            with cancelled():
                try:
                    check_cancelled()
                finally:
                    raise OSError
        except OSError:
            outer.cancel()
            assert not allowed()
