"""The interrupt's mechanism on 3.11: an asynchronous exception, sent only at a moment when it must arrive at once.

What the interpreter of 3.11 does, read off its source and tried: a thread that is asked to let another one run does
so at the end of a jump backwards, at the start of a function, or after a call. When it has the GIL again, the first
thing it looks at, before its next instruction, is whether an exception was sent to it.

So whoever holds the GIL and finds a thread's innermost frame at a jump backwards or at the start of its function knows
that the thread waits exactly there, and that what is sent now appears there: after the jump, but with the handlers of
the instruction *before* the jump's target. That is the `try:` line itself in `try: while True: ...`, whose handler is
not in force yet: nothing is sent at such a jump. After a *call* neither is known
(the function may still be running, and what it returns, a lock maybe, would be lost): nothing is sent then. A thread
that is found after a call each time is followed in short steps until it is found elsewhere.

Looking and sending must not be torn apart by another thread, which between two instructions of Python they could be.
Both are therefore done within one call of C: a chain of iterators that compares, and calls `PyThreadState_SetAsyncExc`
only if every comparison holds. The collector, which could run Python code in the middle, is off meanwhile.

A thread can be told to trace *itself*, by code that happens to run in it; then `on_line` runs at each of its lines, as
the hook of later versions does. Two things make such code run there:

- The exception that was sent is made by the interpreter in the thread it was sent to. What has swallowed the first one
  (a bare `except:`) is sent another when the grace is over, and that one starts the tracing: the next line is in the
  `except` body.
- The garbage collector calls back in the thread that allocates. A thread that is always found in the middle of a call
  (a loop that logs, say) is met there: for a moment the collector runs at every allocation.

A thread that somebody else traces is left to its tracer. (Setting another thread's trace hook through the C API looks
simpler, and crashed the interpreter about once in thirty runs of fifteen seconds while threads came and went.)

Where it is weaker than the hook of later versions: what a context copied by hand (`contextvars.Context().run`) hides
from the thread is not hidden from the sender.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from itertools import compress, count, repeat, starmap
from operator import attrgetter, eq, is_, itemgetter
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._interruption.arrival import arrival
from threadsafe_timeout._introspection.frames import frames_of_others, have_others_look_safely, top_frames, users_frame
from threadsafe_timeout._introspection.transparent import is_protected
from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["AsyncException"]

TraceFunction = Callable[[FrameType, str, Any], Any]
Shields = frozenset[_shield.Shield]

# A thread is let go on by a few instructions, so often and so long at most, before it is left until the next look.
# Longer each time it could not be had, up to half of all time.
_STEPS, _BURST, _LONGEST_BURST = 16, 0.001, 0.01  # seconds
_FEWEST = 2  # steps, if another deadline is waiting to be looked after
# The switch interval, in seconds: of a step, which the system makes 60 microseconds of; of a look between two.
_STEP, _UNDISTURBED = 1e-6, 0.005
_STILL, _STUCK = 5, 40  # times found in the same place without having computed, or at all: it is in C
_PATIENCE = 1  # failed looks before the collector is asked to help
_LAST_RESORT = 6  # and before the handler of an alarm is run where it has to raise

# The function of the import system that executes a module. (Its name is private; without it, imports are slower.)
_LOAD = getattr(getattr(sys.modules["_frozen_importlib"], "_load_unlocked", None), "__code__", None)

_sent: dict[int, CancelScope] = {}  # by thread ident: whose exception is being sent
# And where in the program it strikes: the interpreter may make the exception further out, where it is handled.
_found: dict[int, Place | None] = {}
# How to undo what a burst changes for the whole process. A child that is forked meanwhile undoes it for itself.
_burst = ExitStack()


class _Interruption(Cancelled):
    """What is sent: a class, because that is all that can be. The interpreter makes the exception by calling it."""

    def __new__(cls, made: Cancelled | None = None) -> _Interruption:
        if made is not None:  # in an `except` body the interpreter makes it at once, and comes by a second time with it
            return made  # type: ignore[return-value]
        ident = get_ident()
        scope = _sent[ident]
        target = _pursuit._targets.get(ident)
        if target is not None:
            target.raised = True
            if _clock.monotonic() >= target.insist_at:
                _trace_from(sys._getframe(1))
        if scope._once:
            scope._deliver(sys._getframe(1))  # what its handler raises takes the place of what was sent
            # It returned, and what was sent cannot be called back.
            return InterruptedError("SIGALRM's handler returned")  # type: ignore[return-value]  # what is raised
        with _clean_up.found_at(_found.get(ident)):
            return scope._owed(sys._getframe(1))  # type: ignore[return-value]  # the plain one: nobody sees this class


def _trace_from(frame: FrameType | None) -> None:
    """Have `on_line` run in this thread at every further line of `frame`, of its callers, and of what they call."""
    if sys.gettrace() is not None:
        return
    while frame is not None:
        if not is_protected(frame):
            frame.f_trace = _on_event
        frame = frame.f_back
    sys.settrace(_on_event)


def _on_event(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
    target = _pursuit._targets.get(get_ident())
    if target is None or (target.raised and _clock.monotonic() < target.insist_at):
        frame.f_trace = None
        _stop_tracing()
        return None
    if frame.f_code is _LOAD and event == "call":
        _stop_tracing()  # until it is found after that
        return None
    if event == "line":
        _pursuit.on_line(frame, frame.f_lasti)  # if it raises, the interpreter ends the tracing
    return None if is_protected(frame) else _on_event


def _stop_tracing() -> None:
    if sys.gettrace() is _on_event:  # else it is that of a debugger by now
        sys.settrace(None)


class AsyncException:
    """Sends it. Used by the timer thread only."""

    longest = 0.02  # each look is an attempt

    def __init__(self) -> None:
        self._failed: dict[int, int] = {}  # failed looks, by thread ident
        # The GIL is held throughout. An object of our own: the attribute of `pythonapi` is everybody's, and to give
        # that one argument types breaks those who pass others (stopit, func_timeout).
        prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)
        self._send = prototype(("PyThreadState_SetAsyncExc", ctypes.pythonapi))

    def seen_at(self, frame: FrameType) -> None:
        """Nothing: it moves on until `arm` looks for itself."""

    def arm(self, seen: dict[int, None]) -> None:
        idents = set(seen)
        for ident in _sent.keys() - _pursuit._targets.keys():
            _sent.pop(ident, None)
            _found.pop(ident, None)
        if not idents:
            self._failed = {}  # another one: the timer thread may be about to count in the one there was
            return
        self._failed = {ident: times for ident, times in self._failed.items() if ident in idents}
        hunted = {ident: _Hunted(ident) for ident in idents - _loading(idents)}
        slow = {ident for ident in hunted if self._failed.get(ident, 0) >= _PATIENCE}
        patience = 1 + max(self._failed.get(ident, 0) for ident in idents)
        until = _clock.monotonic() + min(_BURST * patience, _LONGEST_BURST)
        with _burst:
            _burst.callback(sys.setswitchinterval, sys.getswitchinterval())
            have_others_look_safely(_burst)
            _meet_at_allocation(slow)
            for step in count():
                sys.setswitchinterval(_UNDISTURBED)
                self._step(hunted)
                if not hunted or (step >= _FEWEST and _timer.is_due()):
                    break
                if step >= _STEPS and _clock.monotonic() >= until:
                    break
                sys.setswitchinterval(_STEP)
                time.sleep(0)
        for ident in hunted:
            self._failed[ident] = self._failed.get(ident, 0) + 1

    def _step(self, hunted: dict[int, _Hunted]) -> None:
        with frames_of_others(*hunted) as frames:
            for ident, one in list(hunted.items()):
                at = self._attempt(ident, frames.get(ident))
                if at is None or one.stays(at):
                    del hunted[ident]  # done, or not to be had

    def _attempt(self, ident: int, frame: FrameType | None) -> object:
        """Send it if it can be sent right now. None if nothing is left to do; otherwise where the thread is."""
        target = _pursuit._targets.get(ident)
        if target is None or frame is None or (target.raised and _clock.monotonic() < target.insist_at):
            return None
        offset = frame.f_lasti
        lands = arrival(frame.f_code, offset)
        if lands is None:
            return id(frame), offset
        shields = _shield.Shield.active
        owed = _owed(target, shields)
        insist = owed is not None and _pursuit.may_insist(target, owed[0])
        if owed is None or (target.raised and not insist):
            return None
        scope, anchor = owed
        if scope._once and (self._failed.get(ident, 0) < _LAST_RESORT or not scope._will_raise()):
            return object()  # its handler may return, so it is to run in a trace function; look again, then ask
        _sent[ident] = scope
        strikes = (insist or scope._may_strike(frame)) and _pursuit._may_raise(frame, lands, anchor, insist)
        if strikes:
            _found[ident] = users_frame(frame)
        if strikes and self._send_at(ident, frame, offset, anchor, shields):
            target.raised = True
            return None
        return id(frame), offset

    def _send_at(self, ident: int, frame: FrameType, offset: int, anchor: CancelScope, shields: Shields) -> bool:
        """Send it if the thread waits at `offset` of `frame`, its innermost."""
        block, armed_in = anchor._frame, anchor._armed_in
        place = block or _first_of(armed_in, frame)
        depth = None if place is None else _depth(frame, place)
        if place is None or depth is None:
            return False
        comparisons = (
            # The same innermost frame, at the same instruction: nothing called from it, no trace function either.
            map(is_, map(itemgetter(ident), starmap(top_frames, repeat(()))), repeat(frame)),
            map(eq, map(attrgetter("f_lasti"), repeat(frame)), repeat(offset)),
            # Called, if it is a generator's, by the same ones as a moment ago.
            map(is_, map(attrgetter("f_back." * depth + "f_code"), repeat(frame)), repeat(place.f_code)),
            # In the block still (the alarm is still set), and in no shield that was not seen.
            map(is_, map(attrgetter("_frame"), repeat(anchor)), repeat(block)),
            map(is_, map(attrgetter("_armed_in"), repeat(anchor)), repeat(armed_in)),
            map(is_, map(attrgetter("active"), repeat(_shield.Shield)), repeat(shields)),
        )
        calls: Any = [(ident, _Interruption)]
        for holds in comparisons:
            calls = compress(calls, holds)
        return bool(next(starmap(self._send, calls), 0))


class _Hunted:
    """A thread that is followed: where it was, and how often in a row."""

    __slots__ = ("_at", "_computed", "_native", "_target", "_times")

    def __init__(self, ident: int) -> None:
        thread = threading._active.get(ident)  # type: ignore[attr-defined]  # private
        self._native = thread.native_id if thread is not None else None
        self._target = _pursuit._targets.get(ident)
        self._at: object = None
        self._times = 0
        self._computed: float | None = None

    def stays(self, at: object) -> bool:
        """Take note of where it is; True once it is plain that it is going nowhere, being in C."""
        if at != self._at:
            if self._at is not None:
                self._moved()
            self._at, self._times = at, 0
            return False
        self._times += 1
        if self._times == 1:
            self._computed = _clock.thread_time(self._native)
        if self._times == _STILL:
            computed = _clock.thread_time(self._native)
            if computed is None or computed == self._computed:
                return True
            self._moved()
        return self._times >= _STUCK

    def _moved(self) -> None:
        if self._target is not None:
            self._target.seen = True


def _meet_at_allocation(idents: set[int]) -> None:
    """In this burst, have these threads trace themselves when they allocate what the collector looks after."""
    thresholds = gc.get_threshold()
    if not idents or not gc.isenabled() or not thresholds[0]:
        return

    def collecting(phase: str, info: object) -> None:
        # Not at its start: what finalisers and the callbacks of weak references raise is printed and dropped.
        ident = get_ident()
        if phase == "stop" and ident in idents:
            idents.discard(ident)
            if not idents:
                gc.set_threshold(*thresholds)  # it is dear, and the block may last
            frame, owed = sys._getframe(1), _pursuit._owed(ident)
            if owed is not None and not _loads(frame, owed[1]):
                _trace_from(frame)

    _burst.callback(gc.callbacks.remove, collecting)
    gc.callbacks.append(collecting)
    _burst.callback(gc.set_threshold, *thresholds)
    # Below zero: what is counted is allocated less freed, which a loop that frees what it allocates keeps at zero.
    gc.set_threshold(-1, *thresholds[1:])


def _loading(idents: set[int]) -> set[int]:
    """Those of these threads that execute a module for the block they are to leave: nothing can be raised there, and to
    follow them would only make a long thing, which others may wait for, last longer."""
    shields = _shield.Shield.active
    with frames_of_others(*idents) as frames:
        return {ident for ident in idents if _is_loading(ident, frames.get(ident), shields)}


def _is_loading(ident: int, frame: FrameType | None, shields: Shields) -> bool:
    target = _pursuit._targets.get(ident)
    owed = _owed(target, shields) if target is not None else None
    return owed is not None and _loads(frame, owed[1])


def _loads(frame: FrameType | None, anchor: CancelScope) -> bool:
    """Whether a module is executed between `frame` and the block of `anchor`."""
    while frame is not None and frame is not anchor._frame and frame not in anchor._armed_in:
        if frame.f_code is _LOAD:
            return True
        frame = frame.f_back
    return False


def _first_of(places: Collection[FrameType], frame: FrameType | None) -> FrameType | None:
    """The innermost of `places` on the stack of `frame`."""
    while frame is not None and frame not in places:
        frame = frame.f_back
    return frame


def _depth(frame: FrameType, place: FrameType | None) -> int | None:
    """How many calls `place` is outside `frame`; None if it is not there."""
    depth, walk = 0, frame
    while walk is not place:
        back = walk.f_back
        if back is None:
            return None
        depth, walk = depth + 1, back
    return depth


def _owed(target: _pursuit.Target, shields: Shields) -> tuple[CancelScope, CancelScope] | None:
    """As `pursuit._owed`, from outside, where the thread's context cannot be looked at."""
    now = _clock.monotonic()
    with _timer.lock:
        scopes = list(target.scopes)
    ours = [shield for shield in shields if shield._thread == target.ident and shield._shield_until > now]
    for scope in scopes:
        found = _pursuit.owed_of(_outwards(scope, now), target.ident)
        if found is not None and not any(_encloses(found[1], shield) for shield in ours):
            return found
    return None


def _outwards(scope: CancelScope | None, now: float) -> Iterator[CancelScope]:
    while scope is not None:
        yield scope
        if scope._shield_until > now:
            return
        scope = scope._parent


def _encloses(scope: CancelScope, inner: CancelScope | None) -> bool:
    while inner is not None:
        inner = inner._parent
        if inner is scope:
            return True
    return False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_burst.close)
