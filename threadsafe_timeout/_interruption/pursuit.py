"""Raising `Cancelled` in a thread that is busy with Python code: the third rung.

Guarantees:

- The exception appears only inside the `with` block of the scope that owns it (or of the thread's own outermost scope
  inside that one), at the start of a line or the head of a loop, where `CodeMap` finds every clean-up in force: no
  `with` is skipped, every `finally` runs once, a lock taken just before `try:` is not lost.
- Never in `__enter__`, `__exit__`, a finaliser, a coroutine (but those that a task of an `AsyncPool` awaits), a
  `finally` body, under a shield, outside the scope's own context, nor while a module that keeps locks of its own
  (`PROTECTED`) is anywhere on the stack above the scope.
- Politely first: once. After `grace` more seconds insistently: at every such line, in `except` bodies too.
- Nothing is ever in flight when a scope is left.
- A thread that is inside a C call is not reached before the call returns.

From 3.12 on the target thread raises it *itself*, from a hook that runs between two of its instructions:
`sys.monitoring`, local LINE events on the functions on its stack, switched on for a few milliseconds at a time by the
timer thread. On 3.11 it is sent, at moments when it arrives at once: `async_exception`.

On interpreters where this has not been tried (later versions, free-threaded builds, other implementations), and where
`CodeMap` does not understand a sample of the bytecode, `support().mechanism` is None: cooperative points and the other
rungs still work, and the log says so once.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Iterable, Set
from importlib.util import find_spec
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from threadsafe_timeout._environment.surroundings import has_gil
from threadsafe_timeout._interruption import code_map_check as _code_map_check
from threadsafe_timeout._interruption.code_map import Verdict, code_map
from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._introspection.transparent import is_protected
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._scopes.clean_up import configure
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["Support", "configure", "dismiss", "insist", "on_line", "pursue", "support"]

_SHORTEST = 0.002  # seconds between looks: often at first, then ever more rarely
# Seconds without an event and without a move after which a thread counts as blocked in C, and is left alone for a
# while: other threads that run the same functions pay while the hook is on.
_WINDOW, _SHORTEST_REST, _LONGEST_REST = 0.02, 0.02, 0.5
_HAS_CTYPES = find_spec("_ctypes") is not None  # once: `support()` is asked at every expiry
_TRIED = ((3, 11), (3, 12), (3, 13), (3, 14), (3, 15))
_LOOKS = 5  # and at least so many looks: on a busy machine the thread may not have had its turn


class Support(NamedTuple):
    """Whether this interpreter can interrupt running Python code: by which mechanism, or why not."""

    mechanism: str | None
    detail: str


class Mechanism(Protocol):
    """How the hook gets into a thread."""

    longest: float  # seconds between looks at a thread that runs

    def seen_at(self, frame: FrameType) -> Any:
        """What `arm` wants to know of a thread whose top frame this is. No frame may be kept."""

    def arm(self, seen: dict[int, Any]) -> None:
        """Have `on_line` called in exactly these threads (by ident, with what `seen_at` said); none: switch all off.

        By the timer thread; to switch off, by any. Threads that are no targets any more are left out.
        """


def support() -> Support:
    """What this interpreter can do, and why not if it cannot."""
    version = sys.version_info[:2]
    refusal = _refusal(version)
    if refusal is not None:
        return Support(None, refusal)
    if version == (3, 11):
        return Support("async exception", "PyThreadState_SetAsyncExc, where it arrives at once")
    details = ["sys.monitoring LINE events, local to the functions on the thread's stack"]
    jit = getattr(sys, "_jit", None)
    if version == (3, 14) and jit is not None and jit.is_enabled():
        details.append("the JIT is on: a loop on one line that it has compiled is not interrupted, but abandoned")
    return Support("monitoring", "; ".join(details))


def _refusal(version: tuple[int, int]) -> str | None:
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} is not CPython"
    if not has_gil():
        return "without the GIL another thread's frames cannot be looked at safely"
    if version not in _TRIED:
        return f"not proven on CPython {version[0]}.{version[1]}"
    if version == (3, 11) and not _HAS_CTYPES:
        return "CPython 3.11 was built without ctypes"
    misunderstood = _code_map_check.problem()
    if misunderstood is not None:
        return f"the bytecode of CPython {'.'.join(map(str, sys.version_info[:3]))} is not understood: {misunderstood}"
    return None


class Target:
    """A thread that owes a `Cancelled`. Its methods are called by the timer thread."""

    __slots__ = (
        "_at", "_began", "_looks", "_rest", "_until", "ident", "insist_at", "raised", "resting", "scopes", "seen",
    )  # fmt: skip

    def __init__(self, ident: int, now: float) -> None:
        self.ident = ident
        self.scopes: list[CancelScope] = []  # guarded by _timer.lock
        self.insist_at = now + _clean_up.grace_seconds()
        self.raised = False  # set by the target itself
        self.seen = False  # the hook ran in the target since the last look
        self.resting = False
        self._at: tuple[int, int] | None = None
        self._looks = 0  # without a move
        self._began = now  # of the present phase
        self._until = now + _WINDOW  # the end of the present window, or rest
        self._rest = _SHORTEST_REST

    def wants(self, frame: FrameType, now: float) -> bool:
        """Whether the hook should be on now."""
        if self.raised and now < self.insist_at:
            self._began, self._until = self.insist_at, self.insist_at + _WINDOW
            return False
        at = id(frame), frame.f_lasti
        first, moved, self._at = self._at is None, self.seen or at != self._at, at
        self.seen = False
        if first and is_protected(frame):
            return False  # it waits in a call that raises by itself, most likely at this moment
        if moved:
            if self.resting:
                self._began, self.resting = now, False
            self._until, self._rest, self._looks = now + _WINDOW, _SHORTEST_REST, 0
            return True
        self._looks += 1
        if now >= self._until and (self.resting or self._looks >= _LOOKS):
            # Even a thread that seems not to move may be in a tight loop: it gets another window after each rest.
            self.resting, self._looks = not self.resting, 0
            if not self.resting:
                self._began = now
            self._until = now + (self._rest if self.resting else _WINDOW)
            self._rest = min(2 * self._rest, _LONGEST_REST)
        return not self.resting

    def forget_left(self, alive: bool, now: float) -> None:
        """Drop the scopes that were left without a word, because something was thrown at the thread as it left them, or
        as it ended: at `now` it was `alive`. The next thread may have its ident. The caller holds _timer.lock."""
        self.scopes = [
            scope
            for scope in self.scopes
            if (scope._frame is not None or scope._armed_in) and (alive or scope._entered_at > now)
        ]

    def next_look(self, now: float, longest: float) -> float:
        if self.raised and now < self.insist_at:
            return self.insist_at
        if self.resting:
            return self._until
        return now + min(max(_SHORTEST, (now - self._began) / 8), longest)


_targets: dict[int, Target] = {}  # by thread ident; written under _timer.lock, read by the hook without
_mechanism: Mechanism | None = None  # guarded by _timer.lock
_look_at = float("inf")  # when the next look is due; guarded by _timer.lock
_told = False  # guarded by _timer.lock; the log has said that nothing is interrupted
_logger = logging.getLogger("threadsafe_timeout")


def pursue(scope: CancelScope, *, woken: bool = False) -> None:
    """Start interrupting the thread that is inside `scope`, which has just been cancelled; a moment later if it was
    `woken` from a call that raises by itself: in most cases there is nothing left to do then."""
    if support().mechanism is None:
        _tell_once()
        return
    prepare()
    now = _clock.monotonic()
    with _timer.lock:
        if scope._frame is None and not scope._armed_in:
            return  # left, or unset, in the meantime
        ident = scope._thread
        target = _targets.get(ident) or Target(ident, now)
        if scope not in target.scopes:  # it may expire while it is being entered, and both tell
            target.scopes.append(scope)
        target.raised = False  # an outer scope may be cancelled while the inner one's exception is on its way
        _targets[ident] = target
        _schedule(now + _SHORTEST if woken else now)


def prepare() -> None:
    """Load the mechanism, if there is one."""
    global _mechanism
    if _mechanism is None and support().mechanism is not None:
        made = _make_mechanism()
        with _timer.lock:
            _mechanism = _mechanism or made


def _tell_once() -> None:
    global _told
    with _timer.lock:
        told, _told = _told, True
    if not told:  # without the lock, which a log handler may want
        _logger.warning(
            "threadsafe-timeout: code that computes is not interrupted here (%s). All else works: a deadline is "
            "noticed at cooperative points and in patched calls, and a pool abandons what does not end",
            support().detail,
        )  # fmt: skip


def insist(ident: int) -> None:
    """Do not wait for the grace to pass: interrupt this thread at every line from now on."""
    now = _clock.monotonic()
    with _timer.lock:
        target = _targets.get(ident)
        if target is not None and target.insist_at > now:
            target.insist_at = now
            _schedule(now)


def dismiss(scope: CancelScope) -> None:
    """`scope` was left: nothing is to be raised for it any more."""
    with _timer.lock:  # even to look: whoever pursues it may have found it entered just now
        target = _targets.get(scope._thread)
        if target is not None and scope in target.scopes:
            target.scopes.remove(scope)
            if not target.scopes:
                del _targets[scope._thread]
                if not _targets and _mechanism is not None:
                    _mechanism.arm({})  # the timer thread would have to wait for its turn, and others pay meanwhile
                else:
                    _schedule(_clock.monotonic())


def _schedule(when: float) -> None:
    """Have `_look` run at `when`, unless it will earlier anyway. The caller holds _timer.lock."""
    global _look_at
    if when < _look_at:
        _timer.arm(when, _look)
        _look_at = when  # last: if something strikes here, the next one to be pursued has a look armed


def _look() -> None:
    """Look where the targets are and put the hook into those that run. In the timer thread."""
    global _look_at
    now = _clock.monotonic()
    with _timer.lock:
        if now < _look_at:
            return  # an earlier look was scheduled after this one
        _look_at = float("inf")
        targets = list(_targets.values())
    if _mechanism is None:
        return
    try:
        seen, alive = _see(_mechanism, targets, now)
        with _timer.lock:
            for target in targets:
                target.forget_left(target.ident in alive, now)
                if not target.scopes and _targets.get(target.ident) is target:
                    del _targets[target.ident]
        _mechanism.arm(seen)
    finally:  # whatever happens here: nobody else looks
        with _timer.lock:
            for target in targets:
                if target.ident in _targets:
                    _schedule(target.next_look(now, _mechanism.longest))


def _see(mechanism: Mechanism, targets: list[Target], now: float) -> tuple[dict[int, Any], Set[int]]:
    """What is to be known of the threads that the hook is to be put into; and which threads there are. Waits for no
    lock: what returns meanwhile leaves its objects to another thread, later."""
    if not targets:
        return {}, frozenset()
    with frames_of_others(*(target.ident for target in targets)) as frames:
        alive = frozenset(frames)
        seen = {
            target.ident: mechanism.seen_at(frames[target.ident])
            for target in targets
            if target.ident in alive and target.scopes and target.wants(frames[target.ident], now)
        }
    return seen, alive


def on_line(frame: FrameType, offset: int) -> None:
    """The hook: in the target thread, before the instruction at `offset` of its innermost frame. May raise."""
    target = _targets.get(get_ident())
    if target is None:
        return
    target.seen = True
    if target.raised and _clock.monotonic() < target.insist_at:
        return
    owed = _owed(target.ident)
    if owed is None:
        return
    scope, anchor = owed
    insist = may_insist(target, scope)
    if (target.raised and not insist) or not (insist or scope._may_strike(frame)):
        return
    if _may_raise(frame, offset, anchor, insist) or scope._is_over(frame):
        target.raised = not scope._once
        scope._deliver(frame)


def may_insist(target: Target, scope: CancelScope) -> bool:
    """Whether its grace has passed, and that of its clean-up after `scope`, if it has begun with one."""
    now = _clock.monotonic()
    return now >= target.insist_at and now >= _clean_up.cleans_up_until(scope, target.ident)


def _owed(ident: int) -> tuple[CancelScope, CancelScope] | None:
    """The scope whose `Cancelled` is due in this thread, and the thread's scope it can be raised in."""
    return owed_of(_around.chain(), ident)


def owed_of(scopes: Iterable[CancelScope], ident: int) -> tuple[CancelScope, CancelScope] | None:
    """The same, of `scopes` from the inside outwards."""
    anchor, found = None, None
    for scope in scopes:
        if scope._thread == ident and scope._frame is not None:
            anchor = scope
        within = scope if scope._once else anchor
        if scope._cancelled and within is not None:
            found = scope, within
    return found


def _may_raise(frame: FrameType | None, offset: int, anchor: CancelScope, insist: bool) -> bool:
    """Whether an exception at `offset` of `frame` reaches `anchor`'s `with` block and skips nothing on its way."""
    least = Verdict.IN_HANDLER if insist else Verdict.CLEAN
    calling = False
    while frame is not None:
        mapped = code_map(frame.f_code)
        if mapped.verdict(offset, calling=calling) < least:
            return False
        if frame is anchor._frame:
            return mapped.covered_by(offset, anchor._entered_by)
        if (mapped.asynchronous and not anchor._through_coroutines) or is_protected(frame):
            return False
        if frame in anchor._armed_in:
            return True
        frame, calling = frame.f_back, True
        if frame is not None:
            offset = frame.f_lasti
    return False


def _make_mechanism() -> Mechanism:
    if support().mechanism == "async exception":
        from threadsafe_timeout._interruption.async_exception import AsyncException

        return AsyncException()
    from threadsafe_timeout._interruption.monitoring import Monitoring

    return Monitoring(on_line)


def _forget_all() -> None:
    """Switch everything off: at exit, and in a forked child, which has none of the threads."""
    global _look_at
    _targets.clear()
    _look_at = float("inf")
    if _mechanism is not None:
        _mechanism.arm({})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
# Threads that are given up on outlive the interpreter's modules: no hook may run in them then.
atexit.register(_forget_all)
