"""Moments of the timer that rarely meet, made to meet: deadlines that are armed, forks and looks that fail."""

from __future__ import annotations

import collections
import gc
import logging
import os
import signal
import threading
import time

import pytest
from held_up import BOUND, needs_interrupt, run_thread

from threadsafe_timeout import (
    CancelScope,
    deadline,
    move_on_after,
)
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._introspection import frames as _frames
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer


def test_a_log_filter_that_raises_does_not_end_the_timer_thread():
    class Bad(logging.Filter):
        def filter(self, record):
            raise ValueError("a bad filter")

    bad, fired = Bad(), threading.Event()
    logger = logging.getLogger("threadsafe_timeout")
    logger.addFilter(bad)
    try:
        with _timer.lock:
            _timer.arm(_clock.monotonic(), lambda: 1 / 0)
            _timer.arm(_clock.monotonic(), fired.set)
        assert fired.wait(BOUND)
    finally:
        logger.removeFilter(bad)


def test_what_is_armed_while_a_due_one_is_taken_is_not_lost(monkeypatch):
    """A finaliser may run anywhere, and enter a scope."""
    fired = []

    class Due(list):
        def append(self, callback):
            super().append(callback)
            if not fired:
                fired.append("arming")
                _timer.push(0.0, fired.clear)

    with _timer.lock, monkeypatch.context() as patched:  # the scopes of others keep their own heap
        patched.setattr(_timer, "_heap", [])
        patched.setattr(_timer, "incoming", collections.deque())
        _timer.push(1.0, print)
        due = Due()
        _timer._take_due(due)
    assert due == [print, fired.clear]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_deadlines_of_other_threads_are_not_met_in_a_forked_child(gate):
    """What they wake, a socket say, is shared with the parent."""
    inside = threading.Event()

    def wait():
        with deadline(3600):
            inside.set()
            gate.wait(BOUND)

    thread = run_thread(wait)
    assert inside.wait(BOUND)
    with deadline(3600) as mine:
        child = os.fork()
        if not child:
            scopes = [entry[2] for entry in _timer._heap]
            found = [one for one in scopes if isinstance(one, CancelScope)]
            os._exit(0 if found == [mine] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_frames_are_looked_at_has_a_collector():
    """And can look at frames itself."""
    looking, forking = threading.Event(), threading.Event()

    def look():
        with _frames.frames_of_others():
            looking.set()
            forking.wait(0.3)  # the other is held up by then, if it ever is

    looker = run_thread(look)
    assert looking.wait(BOUND)
    child = os.fork()
    if not child:
        signal.alarm(120)
        _frames.current_frames()
        os._exit(0 if gc.isenabled() else 1)
    forking.set()
    looker.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gc.isenabled()


@needs_interrupt
def test_a_look_that_fails_is_not_the_last(monkeypatch):
    mechanism = type(_pursuit._make_mechanism())
    arm, failed = mechanism.arm, []

    def fail_once(self, stacks):
        if stacks and not failed:
            failed.append(True)
            raise MemoryError
        arm(self, stacks)

    monkeypatch.setattr(mechanism, "arm", fail_once)
    until = time.monotonic() + BOUND
    with move_on_after(0.01) as scope:
        while time.monotonic() < until:
            pass
    assert failed
    assert scope.cancelled_caught


@needs_interrupt
def test_who_is_struck_while_it_has_a_look_armed_keeps_no_other_from_being_interrupted(monkeypatch):
    struck = []

    class Stray(Exception):
        pass

    def arm(when, callback):
        raise Stray

    def cancel():
        try:
            first.cancel()
        except Stray as exc:
            struck.append(exc)

    until = time.monotonic() + BOUND
    while _pursuit._look_at != float("inf") and time.monotonic() < until:
        time.sleep(0.001)  # an earlier test's last look is armed; then none would be armed now
    with CancelScope() as first, monkeypatch.context() as patched:
        patched.setattr(_timer, "arm", arm)
        run_thread(cancel).join()
    assert len(struck) == 1
    until = time.monotonic() + BOUND
    with move_on_after(0.01) as second:
        while time.monotonic() < until:
            pass
    assert second.cancelled_caught
