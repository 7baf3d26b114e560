"""Scopes in copied contexts, in generators and in other threads: what they bind, and for how long."""

import contextvars
import gc
import math
import threading

import pytest

from threadsafe_timeout import (
    Cancelled,
    CancelScope,
    check_cancelled,
    move_on_after,
    sleep,
    time_remaining,
)
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.tokens import CancelSource


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
