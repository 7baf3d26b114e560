"""How long a clean-up may take: scopes, shields and waits in it, what it starts, and what waits for it."""

from __future__ import annotations

import _thread
import collections
import contextlib
import contextvars
import itertools
import operator
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest
from blocked import LONG, expire
from cleaning import GRACE, allowed, cancelled

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
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.testing import MockClock


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
    seen: list[bool] = []
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
    assert seen == [True, True, True, False]


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
        from threadsafe_timeout._scopes import around
        pool = ThreadPoolExecutor(1)
        cleaning = threading.Event()
        def task():
            try:
                around.current_scope().deadline = time.monotonic()  # a time from the start might be over before the try
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
        env={**os.environ, "THREADSAFE_TIMEOUT_GRACE": "100"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("cleaned\n", 0), done.stderr


def test_an_abandoned_thread_that_comes_back_cleans_up(monkeypatch):
    with patched(checkpoint="off"):
        gate, cleaned = threading.Lock(), threading.Event()
        gate.acquire()

        def acquire():  # no interrupt strikes in what is called so: it gets where it is to be stuck
            expire()
            gate.acquire()  # in C, where nothing reaches it

        def task():
            try:
                acquire()
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
    begun, ended = [], []
    elsewhere = contextvars.copy_context()

    def waiting():
        try:
            begun.append("waiting")
            time.sleep(LONG)
        finally:
            ended.append("waiting")

    def busy():
        try:
            begun.append("busy")
            while True:
                pass
        finally:
            ended.append("busy")

    def nested():
        with deadline(LONG):
            waiting()

    with patched(checkpoint="off", grace=LONG), ThreadPoolExecutor(4, task_timeout=LONG) as pool:
        futures = [pool.submit(elsewhere.copy().run, call) for call in (waiting, busy, nested)]
        futures.append(pool.submit(lambda: elsewhere.copy().run(waiting)))
        while len(begun) < 4:  # a time from the start might be over before
            time.sleep(0.001)
        for future in futures:
            future._scope.deadline = _clock.monotonic()
        assert all(isinstance(future.exception(), DeadlineExceeded) for future in futures)
    assert sorted(ended) == ["busy", "waiting", "waiting", "waiting"]


def test_outside_pools_a_context_without_scopes_has_none():
    elsewhere = contextvars.copy_context()
    with cancelled():
        assert elsewhere.run(allowed)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere.run, time_remaining).result() == float("inf")
