"""Moments that rarely meet, made to meet: what one thread does while another is in the middle of something.

Each test holds one of the library's own steps up, so that the other thread comes in exactly there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time

import pytest
from busy import switched_off
from held_up import BOUND, needs_interrupt, run_thread

from threadsafe_timeout import (
    CancelScope,
    CancelSource,
    check_cancelled,
    deadline,
    move_on_after,
    shield,
    sleep,
)
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._introspection.frames import have_others_look_safely
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer


def test_a_signal_that_comes_to_a_cooperative_point_while_a_scope_is_entered(monkeypatch):
    attend = _timer.attend

    def attend_and_signal(when):
        signal.raise_signal(signal.SIGUSR1)
        attend(when)

    monkeypatch.setattr(_timer, "attend", attend_and_signal)
    previous = signal.signal(signal.SIGUSR1, lambda *_: check_cancelled())
    try:
        with deadline(50):
            pass
        assert _around.current_scope() is None
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("outer", [False, True])
def test_ctrl_c_while_a_scope_is_entered_leaves_nothing_behind(monkeypatch, outer):
    def interrupt(when):
        raise KeyboardInterrupt

    around = CancelScope()
    if outer:
        around.__enter__()
    monkeypatch.setattr(_timer, "attend", interrupt)
    monkeypatch.setattr(_scope, "_INCOMING_LIMIT", -1)  # each scope attends to the timer
    with pytest.raises(KeyboardInterrupt), deadline(5):
        raise AssertionError("the block was not to run")
    assert _around.current_scope() is (around if outer else None)
    if outer:
        around.__exit__(None, None, None)


def test_a_scope_that_is_left_while_another_thread_moves_its_deadline(monkeypatch):
    inside, moving = threading.Event(), threading.Event()
    scope, disarm = move_on_after(50), _timer.disarm

    def renew():
        assert inside.wait(BOUND)

        def disarm_and_tell(entry):
            moving.set()
            threading.Event().wait(0.2)  # with the lock, for which the other waits by then
            disarm(entry)

        monkeypatch.setattr(_timer, "disarm", disarm_and_tell)
        scope.deadline = _clock.monotonic() + 100

    thread = run_thread(renew)
    with scope:
        with _timer.lock:
            _timer._sort_in()
            inside.set()
        assert moving.wait(BOUND)
    thread.join()
    assert _around.current_scope() is None


def test_a_coroutine_leaves_its_scope_while_it_is_being_cancelled(monkeypatch):
    looked, left, told = threading.Event(), threading.Event(), []

    class Extras(_scope.Extras):
        __slots__ = ("held",)

        @property
        def task(self):
            if threading.current_thread() is canceller and not looked.is_set():
                held = self.held
                looked.set()
                left.wait(BOUND)
                return held
            return self.held

        @task.setter
        def task(self, value):
            self.held = value

    async def main():
        with move_on_after(50) as scope:
            told.append(scope)
            canceller.start()
            while not looked.is_set():
                await asyncio.sleep(0)
        left.set()

    errors = []

    def cancel():
        try:
            told[0].cancel()
        except BaseException as exc:
            errors.append(exc)

    monkeypatch.setattr(_scope, "Extras", Extras)
    canceller = threading.Thread(target=cancel)
    asyncio.run(main())
    canceller.join()
    assert not errors


def test_a_busy_scope_that_is_cancelled_as_it_is_entered_is_interrupted():
    scope, ended = CancelScope(), []

    def busy():
        with scope:
            until = time.monotonic() + BOUND
            while time.monotonic() < until:
                pass
        ended.append(scope.cancelled_caught)

    _timer.start()
    with _timer.lock:
        canceller = run_thread(scope.cancel)
        while _is_outside(canceller, _scope.__file__):
            os.sched_yield()
        worker = run_thread(busy)
        while scope._state == _around.NEW:
            os.sched_yield()
    canceller.join()
    worker.join()
    assert ended == [True]


@needs_interrupt
def test_a_scope_that_is_left_as_it_is_pursued_is_not_pursued_for_ever(monkeypatch):
    """The next thread with that ident would be interrupted for it, insistently at once."""
    scope, entered, leave = CancelScope(), threading.Event(), threading.Event()

    def wait_inside():
        with scope:
            entered.set()
            leave.wait(BOUND)

    class SlowTarget(_pursuit.Target):
        """Made when the scope has been found to be entered. It is left now."""

        def __init__(self, ident, now):
            super().__init__(ident, now)
            leave.set()
            worker.join(0.2)  # what it did not do by then waits for the lock that is held here

    monkeypatch.setattr(_pursuit, "Target", SlowTarget)
    worker = run_thread(wait_inside)
    assert entered.wait(BOUND)
    scope.cancel()
    worker.join(BOUND)
    assert not _pursuit._targets


def cancelled_and_left_by(leave):
    """The targets that remain when another thread's scope was cancelled and left like that, in the end."""
    scope, cancelled = CancelScope(), threading.Event()

    def enter_and_leave():
        scope.__enter__()
        cancelled.wait(BOUND)
        leave(scope)

    worker = run_thread(enter_and_leave)
    while scope._state == _around.NEW:
        os.sched_yield()
    scope.cancel()
    assert _pursuit._targets
    cancelled.set()
    worker.join(BOUND)
    switched_off(BOUND)
    return _pursuit._targets


@needs_interrupt
def test_a_thread_that_was_struck_as_it_left_a_scope_is_not_pursued_for_ever(monkeypatch):
    def strike(scope):
        raise KeyError

    def leave(scope):
        with pytest.raises(KeyError):
            scope.__exit__(None, None, None)

    monkeypatch.setattr(_scope, "_dismiss", strike)
    assert not cancelled_and_left_by(leave)


@needs_interrupt
def test_a_thread_that_ends_without_leaving_its_scope_is_not_pursued_for_ever():
    assert not cancelled_and_left_by(lambda scope: None)


def _is_outside(thread, file):
    with contextlib.ExitStack() as stack:
        have_others_look_safely(stack)  # without the library's lock for looks, in which it takes the timer's
        frame = sys._current_frames().get(thread.ident)
    return frame is None or not (frame.f_code.co_filename == file and frame.f_code.co_name == "_cancel")


def test_shields_in_a_coroutine_are_let_go():
    async def main():
        with deadline(3600) as scope:
            for _ in range(100):
                with shield(1):
                    pass
            return len(scope._task_cancellation._shields)

    assert asyncio.run(main()) == 0


def test_a_registration_that_was_taken_back_is_not_attached_again():
    with CancelScope() as scope:
        registration = _registration.Registration(lambda: None)
        registration.unregister()
        registration.attach(scope)
        assert not scope._callbacks


def test_a_shield_with_a_deadline_of_its_own_is_lowered_all_the_same():
    with CancelScope() as outer:
        with shield(0.05) as guard:
            guard.deadline = _clock.monotonic() + 3600
            outer.cancel()
            sleep(BOUND)
    assert outer.cancelled_caught
    guard = shield(3600)
    guard.deadline = _clock.monotonic() + 0.05
    with guard:
        sleep(BOUND)
    assert guard.cancelled_caught


# Tokens


def test_a_callback_that_raises_cancelled_keeps_no_other_from_being_told():
    source, told = CancelSource(), []
    source.token.register(check_cancelled)  # in a canceller whose own scope is cancelled
    source.token.register(lambda: told.append(1))
    with move_on_after(50) as scope:
        scope.cancel()
        source.cancel("stop")
    assert scope.cancelled_caught
    assert told == [1]
