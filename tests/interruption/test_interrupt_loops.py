"""Busy threads are interrupted: loops of every form, through what swallows the interrupt, and never where it must not be."""

import contextlib
import gc
import itertools
import logging
import sys
import threading
import time

import pytest
from busy import loop
from interrupts import MECHANISM

from threadsafe_timeout import Cancelled, CancelScope, DeadlineExceeded, deadline, move_on_after, shield
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._introspection.transparent import is_protected

pytestmark = [pytest.mark.skipif(MECHANISM is None, reason=_pursuit.support().detail), pytest.mark.usefixtures("short_grace")]


def loop_on_one_line():
    while True: pass  # noqa: E701  # one line on purpose


def generator_loop():
    sum(x for x in itertools.repeat(1))


def lambda_loop():
    sum(map(lambda x: x, itertools.repeat(1)))  # noqa: C417  # called from C on purpose


def comprehension_loop():
    return [None for x in iter(int, 1) if x]


def recursion_loop():
    def down(n):
        return down(n - 1) if n else 0

    while True:
        down(50)


def logging_loop():
    logger = logging.getLogger("interrupt-test")
    while True:
        logger.debug("x")


def retry_loop():
    while True:
        try:
            loop()
        except Exception:
            pass


LOOPS = [
    loop_on_one_line, loop, generator_loop, lambda_loop, comprehension_loop, recursion_loop, logging_loop, retry_loop,
]


@pytest.mark.parametrize("body", LOOPS)
def test_python_loops_are_interrupted(body):
    with pytest.raises(DeadlineExceeded) as caught:
        with deadline(0.02, name="loop"):
            body()
    assert caught.value.where[0] in {__file__, loop.__code__.co_filename}


@pytest.mark.parametrize("body", LOOPS)
def test_python_loops_in_another_thread(body):
    outcome = []

    def run():
        with move_on_after(0.02) as scope:
            body()
        outcome.append(scope.cancelled_caught)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(120)
    assert outcome == [True]


def test_through_a_decorated_function_inside_an_outer_scope():
    decorated = deadline(1000)(loop)
    with move_on_after(0.02) as outer:
        decorated()
    assert outer.cancelled_caught


def swallowing_loop():
    def work():
        counted = 0
        for number in range(1000):
            counted += number

    while True:
        try:
            work()
        except:  # noqa: E722  # what legacy code does
            pass


def stubborn_work_in_a_bare_except():
    while True:
        try:
            loop()
        except:  # noqa: E722  # what legacy code does
            pass


@pytest.mark.parametrize("body", [swallowing_loop, stubborn_work_in_a_bare_except])
def test_a_bare_except_in_a_loop_cannot_hold_it(body):
    with pytest.raises(DeadlineExceeded):
        with deadline(0.02):
            body()


def test_what_was_acquired_without_try_is_not_left_held():
    lock = threading.Lock()

    def one():
        return 1

    def condition():
        while lock.acquire():
            try:
                one()
            finally:
                lock.release()
            one()

    def no_try():
        while True:
            lock.acquire()
            one()
            lock.release()
            one()

    for body in (condition, no_try) * 20:
        with move_on_after(0.001) as scope:
            body()
        assert scope.cancelled_caught
        assert not lock.locked(), body


def test_never_under_a_shield_nor_in_a_finally():
    steps = []

    def clean_up(scope):
        with shield(120):
            scope.deadline = time.monotonic()  # not before the shield is up
            until = time.perf_counter() + 0.1
            while time.perf_counter() < until:
                pass
            steps.append("shielded")
        try:
            loop()
        finally:
            until = time.perf_counter() + 0.1
            while time.perf_counter() < until:
                pass
            steps.append("finally")

    with move_on_after(120) as scope:
        clean_up(scope)
    assert steps == ["shielded", "finally"]
    assert scope.cancelled_caught


def test_a_scope_whose_frame_is_not_on_the_stack_is_left_alone():
    """Entered by a generator that is suspended: there is no `with` here that would catch it."""

    @contextlib.contextmanager
    def limited():
        with CancelScope() as scope:
            yield scope

    with limited() as scope:
        threading.Timer(0.01, scope.cancel).start()
        while not scope.cancel_called:
            pass
        until = time.perf_counter() + 0.2
        while time.perf_counter() < until:
            pass
    assert scope.cancel_called
    assert not scope.cancelled_caught


def test_cancel_from_another_thread_interrupts():
    with CancelScope() as scope:
        threading.Timer(0.01, scope.cancel, ["enough"]).start()
        loop()
    assert scope.cancelled_caught


def test_a_thread_that_inherited_the_scope_is_interrupted_in_its_own():
    import contextvars

    outcome = []

    def child():
        try:
            with CancelScope() as own:
                loop()
            outcome.append("went on")
        except Cancelled as exc:
            outcome.append((exc.scope, own.cancelled_caught))

    with CancelScope() as scope:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(child,), daemon=True)
        thread.start()
        scope.cancel()
        thread.join(120)
    assert outcome == [(scope, False)]


def test_many_threads_at_once_each_get_their_own():
    outcomes = {}

    def run(n):
        with CancelScope() as outer:
            with move_on_after(0.02) as scope:
                loop()
        outcomes[n] = scope.cancelled_caught, outer.cancel_called

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert outcomes == dict.fromkeys(range(8), (True, False))


def test_never_in_a_callback_of_the_collector():
    seen = []

    def callback(phase, info):
        seen.append(is_protected(sys._getframe()))

    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert seen
    assert all(seen)
