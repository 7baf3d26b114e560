"""Cancel scopes: a `with` block that can be cancelled, with a deadline, a reason, and a bounded shield.

Guarantees:

- A scope's deadline is an absolute instant, fixed once, on entry, and moved only by assigning to `deadline`. What
  holds inside is the earliest deadline of all scopes around, up to the nearest shield that is still up.
- Cancellation is level-triggered: from the moment a scope is cancelled until it is left, every cooperative point
  inside raises `Cancelled`, except in code that cleans up after it, which has one grace (see `clean_up`). Code that
  swallows it meets it again at the next point, and `deadline` raises at its edge even if every one was swallowed. A
  thread that meets no cooperative point is interrupted (see `pursuit`).
- A scope turns only its own `Cancelled` into what its user sees. When several scopes around are cancelled, the
  outermost one's is raised: unwinding further is what all of them ask for.
- A scope is cancelled under `timer.lock`. Leaving takes no lock: a cancellation that crosses it counts as one that
  came just before the edge and was never met.
- A scope that was left without having been cancelled binds nobody any more, not even a thread that inherited it. A
  scope that was cancelled stays cancelled for whoever inherited it: that is what fences an abandoned thread.
- In a coroutine a scope also cancels its asyncio task, and takes that cancellation back at its edge.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Collection
from contextvars import Token
from threading import get_ident
from types import FrameType, TracebackType

from threadsafe_timeout._checks import check_instant, check_seconds
from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._scopes import expiry as _expiry
from threadsafe_timeout._scopes.around import ACTIVE, DONE, NEW, chain, current
from threadsafe_timeout._scopes.clean_up import NOBODY, Deliveries
from threadsafe_timeout._scopes.extras import Extras, enter_task, listen
from threadsafe_timeout._scopes.leaving import close, misnested
from threadsafe_timeout._scopes.registration import Registration, run_all
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self, TypeVar

    from threadsafe_timeout._scopes.coroutines import TaskCancellation
    from threadsafe_timeout._scopes.tokens import CancelToken

    S = TypeVar("S", bound="CancelScope")

__all__ = ["CancelScope", "new", "prepare"]

_INFINITY = math.inf
# Code flags: a coroutine, an asynchronous generator; and a generator, which may be the context manager of a coroutine.
_MAY_AWAIT = 0x80 | 0x200 | 0x20
# Since 3.14 a frame says so itself, at half the price.
_KNOWS_GENERATORS = sys.version_info >= (3, 14)
# Cheaper than to set the value there was before. But in 3.11 the collector may run in the middle of a reset that takes
# the variable out; if what it runs asks for the current scope, the variable's cache goes on answering with the one
# that was left.
_MAY_RESET = sys.version_info >= (3, 12)
# Not by the name that is imported: from 3.12 on, calling a method of that makes a bound method each time.
_current = current
# Looked up once, for the hot path.
new, _getframe = object.__new__, sys._getframe
_incoming, _append, _INCOMING_LIMIT = _timer.incoming, _timer.incoming.append, _timer.INCOMING_LIMIT


class CancelScope:
    """A block that can be cancelled: by its deadline, by `cancel()` from any thread, or by a token.

    `deadline` is an instant in monotonic seconds; assign to it to move it. At the end of the block the scope swallows
    its own cancellation and no other; then `cancelled_caught` is True. A scope can be used once.
    """

    # Slots, and set in one straight line: attributes in a dictionary would cost more than all the rest of a scope.
    __slots__ = (
        "__weakref__", "_budget", "_callbacks", "_cancelled", "_deadline", "_delivered", "_entered_at", "_entered_by",
        "_entry", "_extras", "_frame", "_parent", "_progress", "_reason", "_reset", "_state",
        "_task_cancellation", "_thread", "cancelled_caught", "name",
    )  # fmt: skip

    _shield_until = -math.inf  # for shields a slot
    _fenced = False  # for a pool's tasks a slot
    _of_task = _through_coroutines = False  # whether it is one; whether an interrupt passes coroutines it awaits
    _inherited = False  # whether it is a shield that nobody enters
    _fails = False  # whether it raises `DeadlineExceeded` at its edge
    _once = False  # alarms, which have no block, are owed once, and the rest of this (see `alarm`)
    _armed_in: Collection[FrameType] = ()
    name: str | None
    cancelled_caught: bool
    _budget: float | None
    _deadline: float  # written under _timer.lock once entered
    _reason: str | None  # guarded by _timer.lock
    _cancelled: bool  # written under _timer.lock, and only ever from False to True
    _delivered: Deliveries  # one for all until it is cancelled
    _state: int  # written by the thread that enters and leaves
    _callbacks: dict[Registration, None] | None  # guarded by _timer.lock
    _entry: _timer.Entry | None  # guarded by _timer.lock
    _extras: Extras | None
    _task_cancellation: TaskCancellation | None  # in a coroutine, while inside
    # Set on entry, by the thread that enters:
    _thread: int  # its ident
    _frame: FrameType | None  # the frame whose `with` this is, while inside; what an interrupt looks for
    _entered_by: int  # the offset of the instruction that entered
    _entered_at: float
    _parent: CancelScope | None
    _progress: float  # when anybody inside last came to a cooperative point; not set before the first
    _reset: Token[CancelScope | None] | None

    def __init__(
        self,
        *,
        deadline: float = math.inf,
        token: CancelToken | None = None,
        reason: str | None = None,
        name: str | None = None,
    ) -> None:
        prepare(self, name, None)
        self._deadline = check_instant("deadline", deadline)
        self._reason = reason
        if token is not None:
            if not hasattr(token, "register"):
                raise TypeError(f"token must be a CancelToken (of a CancelSource, its .token), got {token!r}")
            self._extras = Extras(token)

    @property
    def deadline(self) -> float:
        """The instant, in monotonic seconds, at which this scope is cancelled; `inf` for never."""
        return self._deadline

    @deadline.setter
    def deadline(self, when: float) -> None:
        when = check_instant("deadline", when)
        with _timer.lock:
            self._budget = None
            self._deadline = when
            if self._entry is not None:
                _timer.disarm(self._entry)
                self._entry = None
        if self._state is ACTIVE and when != math.inf:
            _timer.watch(self, when)

    @property
    def cancel_called(self) -> bool:
        """Whether this scope has been cancelled, by its deadline or by `cancel()`."""
        return self._cancelled

    @property
    def reason(self) -> str | None:
        """Why it was cancelled, or None. Later reasons do not replace the first one."""
        return self._reason if self._cancelled else None

    def cancel(self, reason: str = "cancelled") -> bool:
        """Cancel the scope, from any thread. Returns False if it was cancelled already, or has been left."""
        # Who cancels his own block knows it, and goes on to his next cooperative point.
        return self._cancel(reason, interrupt=self._state is not ACTIVE or get_ident() != self._thread)

    def _cancel(self, reason: str, *, interrupt: bool) -> bool:
        with _timer.lock:
            if self._cancelled or self._state is DONE:
                return False
            self._reason = self._reason or reason
            self._delivered = Deliveries(_clock.monotonic(), self._grace_seconds())
            self._cancelled = True
            callbacks = list(self._callbacks or ())
            if self._entry is not None:
                _timer.disarm(self._entry)
        task = self._task_cancellation
        if task is not None:
            task.cancel()
        try:
            run_all(callbacks)
        finally:
            if interrupt:
                self._pursue(woken=bool(callbacks))
        return True

    def __enter__(self, _frame: FrameType | None = None) -> Self:
        # The hot path: straight-line code, and no lock. `_frame` is for __aenter__ and subclasses.
        if self._state:
            self._refuse_second_entry()
        self._frame = frame = _frame or _getframe(1)
        self._entered_by = frame.f_lasti
        self._thread = ident = get_ident()
        self._entered_at = now = _clock.monotonic()
        self._parent = parent = _current.get()
        self._reset = _current.set(self)
        self._state = ACTIVE
        try:
            if self._budget is not None:
                self._deadline = when = now + self._budget
            else:
                when = self._deadline
            if when != _INFINITY:
                _append(self)  # these lines are _timer.watch, without the call
                if when < _timer.wake_at or len(_incoming) > _INCOMING_LIMIT:
                    _timer.attend(when)
            if parent is not None and parent._thread != ident:
                self._inherit(parent)
            if self._extras is not None or self._cancelled:
                listen(self)
            if (
                frame.f_generator  # type: ignore[attr-defined, unused-ignore]
                if _KNOWS_GENERATORS
                else frame.f_code.co_flags & _MAY_AWAIT
            ):
                enter_task(self)
        except BaseException as exc:  # Ctrl-C, an alarm's handler: the block is not run, and so not left
            self.__exit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    def _refuse_second_entry(self) -> None:
        raise RuntimeError(f"{self!r} was entered before; a scope is single-use: make a new one")

    def _inherit(self, parent: CancelScope) -> None:
        """Hear of scopes around that another thread entered: this thread is to be interrupted too."""
        inherited = Registration(self._pursue)
        self._extra().registrations.append(inherited)
        inherited.attach(parent)

    def _extra(self) -> Extras:
        if self._extras is None:
            with _timer.lock:  # the timer thread may want one at the same moment
                if self._extras is None:
                    self._extras = Extras(None)
        return self._extras

    def __exit__(  # the hot path: no calls
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._state = DONE
        frame, self._frame = self._frame, None
        entry = self._entry
        if entry is not None:
            with _timer.lock:
                _timer.disarm(entry)
        elif self._deadline != _INFINITY:
            # Left before the timer thread took note: most are, and then nothing is left behind. If another thread's
            # scope came in between, it goes back the way it came.
            try:
                if _incoming[-1] is self:
                    last = _incoming.pop()
                    if last is not self:
                        _timer.watch(last, last._deadline)
            except IndexError:
                pass  # sorted in just now, and found to be left
        inside = _current.get()
        if inside is self:
            if _MAY_RESET and self._reset is not None:
                try:
                    _current.reset(self._reset)
                except ValueError:  # a generator that ends in a copy of the context it began in
                    _current.set(self._parent)
            else:
                _current.set(self._parent)
        self._reset = None  # it holds the context
        task, self._task_cancellation = self._task_cancellation, None
        own = task is not None and task.leave(exc)
        if self._extras is not None and self._extras.leave():
            _dismiss(self)
        if inside is not self:
            misnested(self, inside, frame, exc)
        if not self._cancelled:
            return False
        return close(self, exc, own)

    def __aenter__(self) -> Awaitable[Self]:
        # Not `async def`: the frame that awaits is the one whose block this is.
        return _ready(self.__enter__(_getframe(1)))

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, exc, traceback)

    def _close(self, exc: BaseException | None, own: bool) -> bool:
        """Leave a cancelled scope: True swallows what is its own. See `leaving`."""
        self.cancelled_caught = own
        return own

    def _arm(self) -> None:
        # For _timer, under its lock. Moving a deadline may have put the scope into the list twice.
        if self._state is ACTIVE and self._entry is None and not self._cancelled and self._deadline != math.inf:
            self._entry = _timer.push(self._deadline, self)
            if self._state is not ACTIVE:  # left just now, without a look at the entry
                _timer.disarm(self._entry)

    def _expire(self) -> None:
        # Else it was moved while it was being taken off the heap; it is watched again.
        if self._deadline <= _clock.monotonic() and self._cancel("deadline", interrupt=True):
            _expiry.expired(self)

    def _survives_fork(self) -> bool:
        """Whether it is one of the thread's that forked: the others are not in the child."""
        scope = _current.get()
        while scope is not None and scope is not self:
            scope = scope._parent
        return scope is self

    def _deliver(self, frame: FrameType | None = None) -> None:
        """Raise the cancellation, in the scope's thread; `frame` is where the thread is, if it was interrupted."""
        raise self._owed(frame)

    def _owed(self, frame: FrameType | None = None) -> Cancelled | DeadlineExceeded:
        """What is to be raised in this thread; the grace of its clean-up begins with the first one."""
        return _clean_up.deliver(self, chain(shielded=True), frame or _getframe(1))

    def _may_strike(self, frame: FrameType) -> bool:
        """Whether a polite interrupt may come there, `frame` being the innermost one."""
        return True

    def _soften(self, cancelled: Cancelled) -> DeadlineExceeded | None:
        """What is raised in place of `cancelled` for the code inside to catch; None if that has to stay."""
        return None

    def _grace_seconds(self) -> float:
        return _clean_up.grace_seconds()

    def _unset(self) -> None:
        """For alarms; so are the next two."""

    def _will_raise(self) -> bool:
        return True

    def _is_over(self, frame: FrameType | None) -> bool:
        return False

    def _pursue(self, *, woken: bool = False) -> None:
        """Have this scope's thread interrupted if it meets no cooperative point; it is about to, most likely, if it was
        `woken`."""
        if self._state is ACTIVE:
            from threadsafe_timeout._interruption import pursuit as _pursuit

            # First the note, then pursue(), which looks at the state again: either the edge sees the note, or the
            # scope was left before and pursue() sees that.
            self._extra().pursued = True
            _pursuit.pursue(self, woken=woken)

    def __repr__(self) -> str:
        state = ("new", "active", "left")[self._state]
        if self._cancelled:
            state += f", cancelled: {shown(self._reason)}"
        name = f" {self.name!r}" if self.name else ""
        left = "" if self._deadline == math.inf else f", {self._deadline - _clock.monotonic():.3f} s left"
        return f"<{type(self).__name__.lstrip('_')}{name} {state}{left}>"


def _dismiss(scope: CancelScope) -> None:
    from threadsafe_timeout._interruption import pursuit as _pursuit

    _pursuit.dismiss(scope)


async def _ready(scope: Any) -> Any:
    return scope


def prepare(scope: S, name: str | None, seconds: float | None) -> S:
    """What a new scope starts with. A call of the class, which ends here too, costs as much as all of this again."""
    scope.name = name
    scope.cancelled_caught = scope._cancelled = False
    scope._delivered = NOBODY
    scope._state = NEW
    scope._deadline = _INFINITY
    scope._reason = scope._callbacks = scope._entry = scope._extras = scope._task_cancellation = None
    if seconds is None or (seconds.__class__ is float and seconds >= 0):
        scope._budget = seconds
    else:
        scope._budget = check_seconds("seconds", seconds)
    return scope
