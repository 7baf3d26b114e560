"""Code that handles a cancellation has one grace in which its calls work; a retry loop gets nothing out of it."""

from __future__ import annotations

import _thread
import asyncio
import collections
import contextlib
import contextvars
import gc
import itertools
import operator
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from blocked import LONG, expire

from threadsafe_timeout import (
    Cancelled,
    CancelScope,
    DeadlineExceeded,
    ThreadPoolExecutor,
    check_cancelled,
    deadline,
    move_on_after,
    patched,
    shield,
    sleep,
    time_remaining,
)
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout.testing import MockClock

GRACE = 2.0  # the default


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with MockClock() as clock:
        yield clock


@contextlib.contextmanager
def cancelled() -> Iterator[CancelScope]:
    """A scope that is cancelled, in which nothing was refused yet."""
    with CancelScope() as scope:
        scope.cancel()
        yield scope


def allowed() -> bool:
    """Whether a call would work here."""
    return _around.cancelled_scope() is None


# Each runs in a scope that is cancelled; the refusal is met inside, and the result says what its clean-up may do.


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


def test_a_scope_entered_in_clean_up_binds_and_one_from_before_does_not(clock):
    with cancelled(), deadline(0.5):
        try:
            check_cancelled()
        finally:
            assert time_remaining() == pytest.approx(GRACE)
            clock.jump(1)  # past the inner one, from before
            check_cancelled()
            with move_on_after(0.25) as inner:
                assert time_remaining() == pytest.approx(0.25)
                clock.jump(0.5)
                check_cancelled()
            assert inner.cancelled_caught
            assert time_remaining() == pytest.approx(0.5)


def test_a_nest_of_clean_ups_that_hang_ends_two_graces_after_the_outermost_deadline(clock):
    """The outer one's grace begins when the inner one's is over, and with it what kept the outer one out."""
    with move_on_after(1.5) as outer, move_on_after(1.25), move_on_after(1) as inner:
        try:
            clock.jump(1)
            check_cancelled()
        except Cancelled as first:
            assert first.scope is inner  # noqa: PT017  # what is raised in here is the point
            clock.jump(0.6)
            assert outer.cancel_called
            assert allowed()
            assert time_remaining() == pytest.approx(GRACE - 0.6)
            clock.jump(GRACE - 0.6)
            try:
                check_cancelled()
            except Cancelled as second:
                assert second.scope is outer  # noqa: PT017  # likewise
                assert time_remaining() == pytest.approx(GRACE)
                clock.jump(GRACE)
                assert not allowed()
                raise
    assert outer.cancelled_caught


def test_scopes_made_in_clean_up_do_not_prolong_it(clock):
    with cancelled():
        try:
            check_cancelled()
        finally:
            for _ in range(4):
                with move_on_after(GRACE / 4):
                    try:
                        clock.jump(GRACE / 4)
                        check_cancelled()
                    finally:
                        seen.append(allowed())
            assert not allowed()


class Cleaning:
    """A thread that waits in the clean-up of a cancelled scope, on a clock that is moved by hand."""

    def __init__(self, clock: MockClock, wait: Callable[[], object], shielded: float | None = None) -> None:
        self.slept = False
        self._wait = wait
        self._shielded = shielded
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        until = time.monotonic() + LONG
        while self.thread.ident not in {ident for _, ident in list(clock._waiting)}:
            assert time.monotonic() < until
            time.sleep(0)

    def _run(self) -> None:
        with CancelScope() as outer, contextlib.ExitStack() as stack:
            if self._shielded is not None:
                outer.cancel()
                stack.enter_context(shield(self._shielded))
            with cancelled():
                try:
                    check_cancelled()
                finally:
                    self._wait()
                    self.slept = True

    def join(self) -> bool:
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        return self.slept


def test_a_wait_in_clean_up_works(clock):
    cleaning = Cleaning(clock, lambda: sleep(1))
    clock.jump(1)
    assert cleaning.join()


def test_a_wait_in_clean_up_ends_with_the_grace(clock):
    cleaning = Cleaning(clock, lambda: sleep(LONG))
    clock.jump(GRACE)
    assert not cleaning.join()


def test_a_shield_from_before_that_is_lowered_does_not_wake_a_clean_up(clock):
    cleaning = Cleaning(clock, lambda: sleep(1.75), shielded=1.5)
    clock.jump(1.6)
    clock.jump(0.2)
    assert cleaning.join()


def test_a_shield_in_clean_up_still_holds_beyond_the_grace(clock):
    with cancelled():
        try:
            check_cancelled()
        finally:
            with shield(10):
                clock.jump(GRACE + 1)
                check_cancelled()
            assert not allowed()


def test_money_is_not_spent_in_clean_up(clock):
    with cancelled():
        try:
            check_cancelled()
        finally:
            assert allowed()
            with pytest.raises(Cancelled):
                _around.raise_if_cancelled(always=True)


def test_what_a_clean_up_starts_has_what_is_left():
    done = []
    with ThreadPoolExecutor(2, grace=LONG) as pool, ThreadPoolExecutor(1) as other:

        def child():
            done.append(0 < time_remaining() <= LONG)
            with pytest.raises(Cancelled):
                _around.raise_if_cancelled(always=True)
            return other.submit(lambda: done.append(0 < time_remaining() <= LONG)).result()

        def task():
            try:
                expire()  # in the try: a time from the start might be over before it
                sleep(LONG)
            finally:
                pool.submit(child).result()

        assert isinstance(pool.submit(task).exception(), DeadlineExceeded)
    assert done == [True, True]


def test_the_ladder_waits_for_clean_up_and_so_does_the_exit():
    """A task is neither abandoned nor cut off by the exit of the process while its clean-up has time left."""
    program = """
        import subprocess, sys, threading, time
        import threadsafe_timeout.auto
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        cleaning = threading.Event()
        def task():
            try:
                time.sleep(60)
            finally:
                cleaning.set()
                subprocess.run([sys.executable, "-c", "print('cleaned')"])
        future = pool.submit(task)
        cleaning.wait()
        # The main thread ends now.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "THREADSAFE_TIMEOUT_TASK_TIMEOUT": "0.1", "THREADSAFE_TIMEOUT_GRACE": "20"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("cleaned\n", 0), done.stderr


def test_an_abandoned_thread_that_comes_back_cleans_up(monkeypatch):
    with patched(checkpoint="off"):
        gate, cleaned = threading.Lock(), threading.Event()
        gate.acquire()

        def task():
            try:
                expire(0.1)  # in the try: a time from the start might be over before it
                gate.acquire()  # in C, where nothing reaches it
                time.sleep(LONG)
            finally:
                subprocess.run([sys.executable, "-c", ""], check=True)
                cleaned.set()

        with ThreadPoolExecutor(1, grace=0.05) as pool:
            future = pool.submit(task)
            assert isinstance(future.exception(), DeadlineExceeded)
            # Abandoned. Its own grace begins when it comes back; a short one might be over before a process has ended.
            worker = next(iter(pool._crew.abandoned))
            worker.stuck_scope._delivered.grace = LONG
            gate.release()
            assert cleaned.wait(LONG)
            worker.thread.join(LONG)


def test_in_a_coroutine_calls_and_awaits_work_while_it_handles_the_cancellation():
    async def main():
        done = []
        async with move_on_after(LONG):
            try:
                expire()
                await asyncio.sleep(LONG)
            finally:
                check_cancelled()
                await asyncio.sleep(0)
                done.append("cleaned")
        return done

    assert asyncio.run(main()) == ["cleaned"]


def test_in_a_coroutine_a_clean_up_that_awaits_for_ever_is_cancelled_again():
    async def main():
        with patched(checkpoint="off", grace=0.05):
            async with move_on_after(0.02):
                try:
                    await asyncio.sleep(LONG)
                finally:
                    await asyncio.Event().wait()
            task = asyncio.current_task()
            return task.cancelling() if task is not None else None

    assert asyncio.run(main()) == 0


def test_in_a_coroutine_the_next_attempt_is_refused():
    async def main():
        made = 0
        async with move_on_after(0.02):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(LONG)
            made += allowed()
            check_cancelled()
        return made

    assert asyncio.run(main()) == 0


def test_a_sync_clean_up_may_run_an_event_loop():
    async def clean():
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)  # in a thread
        return "cleaned"

    with patched(checkpoint="off", grace=LONG):
        result = None
        with move_on_after(LONG):
            try:
                expire()
                time.sleep(LONG)
            finally:
                result = asyncio.run(clean())
    assert result == "cleaned"


def test_a_loop_in_a_cancelled_scope_cleans_up_with_calls_that_block():
    async def main():
        try:
            threading.Thread(target=scope.cancel).start()  # not before: a task that is cancelled earlier never begins
            await asyncio.sleep(LONG)
        finally:
            time.sleep(0)
            subprocess.run([sys.executable, "-c", ""], check=True)
            cleaned.append(True)

    cleaned: list[bool] = []
    with patched(checkpoint="off", grace=LONG), CancelScope() as scope:
        asyncio.run(main())
    assert scope.cancelled_caught
    assert cleaned == [True]


def test_the_first_refusal_may_die_where_no_python_code_runs(monkeypatch):
    """At the end of a thread C code lets go of what is left."""
    unraisable, kept, ended = [], [], threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def refused(kept):
        with cancelled() as scope:
            try:
                check_cancelled()
            except Cancelled as exc:
                kept += [exc, scope._delivered.copy()]
                exc.__traceback__ = None

    refusals, clean_ups = kept, []
    steps = (refused, lambda kept: clean_ups.extend(kept.pop().values()), list.clear, lambda _: ended.set())
    _thread.start_new_thread(collections.deque, (map(operator.call, steps, itertools.repeat(refusals)), 0))
    assert ended.wait(LONG)
    assert not unraisable
    assert clean_ups
    assert not clean_ups[0].frames


def test_a_busy_thread_that_was_interrupted_cleans_up():
    with patched(checkpoint="off", grace=LONG):
        cleaned = []
        with move_on_after(LONG):
            try:
                expire()
                while True:
                    pass
            finally:
                time.sleep(0)
                cleaned.append(subprocess.run([sys.executable, "-c", ""], check=False).returncode)
    assert cleaned == [0]


def test_a_task_in_a_context_that_does_not_know_it_is_cancelled_all_the_same():
    ended = []
    elsewhere = contextvars.copy_context()

    def waiting():
        try:
            time.sleep(LONG)
        finally:
            ended.append("waiting")

    def busy():
        try:
            while True:
                pass
        finally:
            ended.append("busy")

    def nested():
        with deadline(LONG):
            waiting()

    with patched(checkpoint="off", grace=LONG), ThreadPoolExecutor(4, task_timeout=0.5) as pool:
        futures = [pool.submit(elsewhere.copy().run, call) for call in (waiting, busy, nested)]
        futures.append(pool.submit(lambda: elsewhere.copy().run(waiting)))
        assert all(isinstance(future.exception(), DeadlineExceeded) for future in futures)
    assert sorted(ended) == ["busy", "waiting", "waiting", "waiting"]


def test_outside_pools_a_context_without_scopes_has_none():
    elsewhere = contextvars.copy_context()
    with cancelled():
        assert elsewhere.run(allowed)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere.run, time_remaining).result() == float("inf")
