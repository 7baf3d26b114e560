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

What the pool and the patches use:

- `current_scope()`, `cancelled_scope()` (the outermost cancelled one around, or None), `raise_if_cancelled()`;
  `cancel_pending()` for code that holds a lock. A pool's thread is in the scope of its task, whatever its context says.
- `context_for_children()`: what a task that is started elsewhere is to be started in; `context_outside()`: that of one
  that the scopes around are not to bind.
- `time_remaining()`: seconds to the earliest deadline around, `inf` without one.
- `on_cancel(callback)`: a `Registration` on every scope around; the callback runs, in whichever thread cancels, when
  one of them is cancelled, or, but for `alarms=False`, when an alarm goes off. After `unregister()` has returned it is
  not running and never will.
- `CancelScope.cancel(reason)`, and the scope as a context manager.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextvars import Context, ContextVar, Token, copy_context
from threading import get_ident
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar

from threadsafe_timeout._checks import check_instant, check_seconds
from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._scopes.clean_up import NOBODY, Deliveries
from threadsafe_timeout._scopes.registration import Registration, run_all
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.coroutines import TaskCancellation
    from threadsafe_timeout._scopes.tokens import CancelToken, TokenRegistration

__all__ = [
    "CancelScope",
    "Registration",
    "around",
    "attach_here",
    "cancel_pending",
    "cancelled_scope",
    "check_cancelled",
    "context_for_children",
    "context_outside",
    "current_deadline",
    "current_scope",
    "deadline",
    "fail_at",
    "fence",
    "move_on_after",
    "move_on_at",
    "on_cancel",
    "raise_if_cancelled",
    "run_due_alarms",
    "shield",
    "sleep",
    "take_over",
    "task_scope",
    "time_remaining",
    "workers",
]

F = TypeVar("F", bound=Callable[..., Any])

S = TypeVar("S", bound="CancelScope")

_NEW, _ACTIVE, _DONE = range(3)
_INFINITY = math.inf
# Code flags: a coroutine, an asynchronous generator; and a generator, which may be the context manager of a coroutine.
_MAY_AWAIT = 0x80 | 0x200 | 0x20
_current: ContextVar[CancelScope | None] = ContextVar("threadsafe_timeout_scope", default=None)
# Since 3.14 a frame says so itself, at half the price.
_KNOWS_GENERATORS = sys.version_info >= (3, 14)
# Cheaper than to set the value there was before. But in 3.11 the collector may run in the middle of a reset that takes
# the variable out; if what it runs asks for the current scope, the variable's cache goes on answering with the one
# that was left.
_MAY_RESET = sys.version_info >= (3, 12)
# Looked up once, for the hot path.
_new, _getframe = object.__new__, sys._getframe
_incoming, _append, _INCOMING_LIMIT = _timer.incoming, _timer.incoming.append, _timer.INCOMING_LIMIT


class CancelScope:
    """A block that can be cancelled: by its deadline, by `cancel()` from any thread, or by a token.

    `deadline` is an instant in monotonic seconds; assign to it to move it. At the end of the block the scope swallows
    its own cancellation and no other; then `cancelled_caught` is True. A scope can be used once.
    """

    # Slots, and set in one straight line: attributes in a dictionary would cost more than all the rest of a scope.
    __slots__ = (
        "__weakref__", "_budget", "_callbacks", "_cancelled", "_deadline", "_delivered", "_entered_at", "_entered_by",
        "_entry", "_extras", "_frame", "_parent", "_progress", "_reason", "_reset", "_state", "_thread",
        "cancelled_caught", "name",
    )  # fmt: skip

    _shield_until = -math.inf  # for shields a slot
    _fenced = False  # for a pool's tasks a slot
    _of_task = False  # whether it is one of those
    _once = False  # alarms, which have no block, are owed once, and the rest of this (see _alarm)
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
    _extras: _Extras | None
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
        _prepare(self, name, None)
        self._deadline = check_instant("deadline", deadline)
        self._reason = reason
        if token is not None:
            if not hasattr(token, "register"):
                raise TypeError(f"token must be a CancelToken (of a CancelSource, its .token), got {token!r}")
            self._extras = _Extras(token)

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
        if self._state is _ACTIVE and when != math.inf:
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
        return self._cancel(reason, interrupt=self._state is not _ACTIVE or get_ident() != self._thread)

    def _cancel(self, reason: str, *, interrupt: bool) -> bool:
        with _timer.lock:
            if self._cancelled or self._state is _DONE:
                return False
            self._reason = self._reason or reason
            self._delivered = Deliveries(_clock.monotonic(), self._grace_seconds())
            self._cancelled = True
            callbacks = list(self._callbacks or ())
            if self._entry is not None:
                _timer.disarm(self._entry)
        extras = self._extras
        task = extras.task if extras is not None else None
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
        self._state = _ACTIVE
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
                self._enter_extras()
            if (
                frame.f_generator  # type: ignore[attr-defined, unused-ignore]
                if _KNOWS_GENERATORS
                else frame.f_code.co_flags & _MAY_AWAIT
            ):
                self._enter_task()
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

    def _enter_extras(self) -> None:
        token = self._extras.token if self._extras is not None else None
        if token is not None:
            registration = token.register(lambda: self.cancel(token.reason or "cancelled"))
            self._extra().registrations.append(registration)
        if self._cancelled:
            self._pursue()

    def _enter_task(self) -> None:
        if "asyncio" not in sys.modules:
            return
        from threadsafe_timeout._scopes.coroutines import TaskCancellation

        task = TaskCancellation.of_current_task(self)
        if task is not None:
            self._extra().task = task
            if self._cancelled:
                task.cancel()

    def _extra(self) -> _Extras:
        if self._extras is None:
            with _timer.lock:  # the timer thread may want one at the same moment
                if self._extras is None:
                    self._extras = _Extras(None)
        return self._extras

    def __exit__(  # noqa: PLR0912  # the hot path: no calls
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._state = _DONE
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
        own = False
        if self._extras is not None:
            own = self._extras.leave(exc)
            if self._extras.pursued:
                _dismiss(self)
        if inside is not self:
            self._misnested(inside, frame, exc)
        if not self._cancelled:
            return False
        for clean_up in list(self._delivered.values()):
            clean_up.forget()
        if isinstance(exc, BaseExceptionGroup):
            return self._close_group(exc, own)
        return self._close(exc, own or (isinstance(exc, Cancelled) and exc.scope is self))

    def _close_group(self, group: BaseExceptionGroup[BaseException], own: bool) -> bool:
        """The same for what a task group makes of several errors: its own cancellation does not leave it in there."""
        mine, rest = group.split(lambda exc: isinstance(exc, Cancelled) and exc.scope is self)
        if mine is None:
            return self._close(group, own)
        if rest is not None and not isinstance(self, _FailScope):
            self.cancelled_caught = True
            raise rest from None
        return self._close(group, True)

    def _misnested(self, inside: CancelScope | None, frame: FrameType | None, exc: BaseException | None) -> None:
        while inside is not None and inside._once:  # an alarm that was set in here ends here
            inside._unset()
            inside = inside._parent
        self._take_out(inside, frame)
        if inside is self or exc is not None:  # what is being raised tells more
            return
        raise RuntimeError(
            f"{self!r} was left while {inside or 'no scope'} is the innermost one here: scopes must be left in the "
            "reverse order of being entered, in the same context (a generator that yields inside a scope is a usual "
            "cause)"
        )

    def _take_out(self, inside: CancelScope | None, frame: FrameType | None) -> None:
        """Leave out of order: of the scopes from `inside` on, those stay in force whose blocks are callers of this
        one's, a generator's then; the others are suspended generators', or will never be left."""
        scopes = []
        while inside is not self:
            if inside is None:
                return  # left in another context, or taken out before
            scopes.append(inside)
            inside = inside._parent
        callers = set()
        while frame is not None and (frame := frame.f_back) is not None:
            callers.add(frame)
        innermost = self._parent
        for scope in reversed(scopes):
            if scope._frame in callers:
                scope._parent, scope._reset = innermost, None  # which would bring this one back
                innermost = scope
        _current.set(innermost)

    def __aenter__(self) -> Awaitable[Self]:
        # Not `async def`: the frame that awaits is the one whose block this is.
        return _ready(self.__enter__(_getframe(1)))

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, exc, traceback)

    def _close(self, exc: BaseException | None, own: bool) -> bool:
        """Leave a cancelled scope: True swallows what is its own."""
        self.cancelled_caught = own
        return own

    def _arm(self) -> None:
        # For _timer, under its lock. Moving a deadline may have put the scope into the list twice.
        if self._state is _ACTIVE and self._entry is None and not self._cancelled and self._deadline != math.inf:
            self._entry = _timer.push(self._deadline, self._expire)
            if self._state is not _ACTIVE:  # left just now, without a look at the entry
                _timer.disarm(self._entry)

    def _expire(self) -> None:
        if self._deadline > _clock.monotonic():
            return  # moved while it was being taken off the heap; it is watched again
        self._cancel("deadline", interrupt=True)

    def _survives_fork(self) -> bool:
        """Whether it is one of the thread's that forked: the others are not in the child."""
        scope = _current.get()
        while scope is not None and scope is not self:
            scope = scope._parent
        return scope is self

    def _deliver(self, frame: FrameType | None = None) -> None:
        """Raise what is owed, in the thread that owes it; `frame` is where it is, if it was interrupted."""
        raise self._owed(frame)

    def _owed(self, frame: FrameType | None = None) -> Cancelled | DeadlineExceeded:
        """What is to be raised in this thread; the grace of its clean-up begins with the first one."""
        return _clean_up.deliver(self, _chain(shielded=True), frame or _getframe(1))

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
        if self._state is _ACTIVE:
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


class _FailScope(CancelScope):
    """A scope that raises `DeadlineExceeded` at its edge once its cancellation was delivered."""

    __slots__ = ()

    if TYPE_CHECKING:  # it never swallows: `with deadline(5): return x` is known to return

        def __exit__(
            self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
        ) -> Literal[False]: ...

    def _close(self, exc: BaseException | None, own: bool) -> bool:
        # A body that swallowed the cancellation (a bare `except:`) and returned has not beaten the deadline. One that
        # never met it finished its work, late: what it did stands.
        if own or (exc is None and self._delivered):
            self.cancelled_caught = True
            elapsed = _clock.monotonic() - self._entered_at
            raise _located(DeadlineExceeded(self.name, self._budget, elapsed, self._reason), exc) from exc
        return False

    def __call__(self, function: F) -> F:
        """Run every call of `function`, a `def` or an `async def`, under a fresh scope like this one."""
        from threadsafe_timeout._scopes.decorate import decorate

        if self._state:
            self._refuse_second_entry()
        return decorate(function, self, lambda name: _copy(self, name))


class _Shield(CancelScope):
    """Keeps what is outside from cancelling the block, for a bounded time."""

    __slots__ = ("_grace", "_lowering", "_shield_until")
    _grace: float
    _lowering: _timer.Entry | None  # guarded by _timer.lock; a deadline of its own has the other entry
    # For who looks at the thread from outside: a new set whenever one changes. Replaced under _timer.lock.
    active: ClassVar[frozenset[_Shield]] = frozenset()

    def __enter__(self, _frame: FrameType | None = None) -> Self:
        self._shield_until = _clock.monotonic() + self._grace
        super().__enter__(_frame or _getframe(1))
        if _fenced(self._parent):
            self._shield_until = -math.inf
        else:
            # In clean-up it keeps out what the clean-up does: another thread lowers it, and cannot ask this one.
            until, _ = _kept_out(_chain(self._parent))
            if until != math.inf:
                self._shield_until = max(self._shield_until, until)
        with _timer.lock:
            _Shield.active |= {self}
            self._lowering = _timer.arm(self._shield_until, self._lower)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        with _timer.lock:
            _Shield.active -= {self}
            if self._lowering is not None:
                _timer.disarm(self._lowering)
        return super().__exit__(kind, exc, traceback)

    def _lower(self) -> None:
        """Let what is outside through: those who wait inside now hear of it, at once if it has happened already."""
        with _timer.lock:
            waiting = list(self._callbacks or ())
        for registration in waiting:
            registration.attach(self._parent)


class _Inherited(_Shield):
    """What the children of a clean-up have left of its grace: a shield that nobody enters, in their context."""

    __slots__ = ()

    def __init__(self, until: float) -> None:
        _prepare(self, None, None)
        self._parent, self._thread, self._frame, self._entered_by = _current.get(), get_ident(), None, -1
        self._entered_at = _clock.monotonic()
        self._state = _ACTIVE
        self._shield_until = until
        with _timer.lock:
            self._lowering = _timer.arm(until, self._lower)


class _Extras:
    """What few scopes have: a token to listen to, a task to cancel, and what is to be undone at the edge."""

    __slots__ = ("pursued", "registrations", "task", "token")

    def __init__(self, token: CancelToken | None) -> None:
        self.token = token
        self.pursued = False
        self.task: TaskCancellation | None = None
        self.registrations: list[Registration | TokenRegistration] = []

    def leave(self, exc: BaseException | None) -> bool:
        """At the edge; True if `exc` is the task's cancellation that the scope asked for."""
        for registration in self.registrations:
            registration.unregister()
        self.registrations.clear()
        task, self.task = self.task, None
        return task is not None and task.leave(exc)


def _dismiss(scope: CancelScope) -> None:
    from threadsafe_timeout._interruption import pursuit as _pursuit

    _pursuit.dismiss(scope)


async def _ready(scope: Any) -> Any:
    return scope


def _located(error: DeadlineExceeded, exc: BaseException | None) -> DeadlineExceeded:
    """Say where the thread was: the innermost frame of `exc` that is not this library's."""
    where = None
    traceback = exc.__traceback__ if exc is not None else None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        module = traceback.tb_frame.f_globals.get("__name__", "")
        ours = module.startswith(("threadsafe_timeout.", "threadsafe_timeout_patches."))
        if not ours or module.startswith("threadsafe_timeout.testing"):
            where = code.co_filename, traceback.tb_lineno, code.co_qualname
        traceback = traceback.tb_next
    if where is not None:
        error.where = where
        error.add_note("the thread was at {}:{}, in {}".format(*where))
    return error


def _fenced(scope: CancelScope | None) -> bool:
    while scope is not None and not scope._fenced:
        scope = scope._parent
    return scope is not None


def fence(scope: CancelScope, context: Context) -> None:
    """No shield keeps a pool's `scope` out any more: neither those that are up in `context`, where its thread is, nor
    new ones."""
    scope._fenced = True  # type: ignore[misc]  # it has the slot: see _task
    inner = context.get(_current)
    while inner is not None and inner is not scope:
        if isinstance(inner, _Shield):
            inner._shield_until = -math.inf
            inner._lower()
        inner = inner._parent


def on_cancel(callback: Callable[[], object], *, alarms: bool = True) -> Registration:
    """Have `callback` run when a scope around is cancelled; at once, in this thread, if one is already.

    An alarm counts as a scope. But its handler may return, and then what was woken goes on: a callback that does more
    than wake wants no `alarms`.
    """
    registration = Registration(callback, alarms)
    attach_here(registration)
    return registration


def attach_here(registration: Registration) -> None:
    """Have `registration` listen to the scopes around."""
    registration.attach(_current.get())
    if workers and (hidden := _hidden_task()) is not None:
        registration.attach(hidden)


class _Worker(Protocol):
    """A thread of a pool, as scopes see it."""

    def scope_in_force(self) -> CancelScope | None:
        """The scope of the task it runs, or was given up in."""


# By thread ident. Each thread of a pool enters and removes itself; read without a lock.
workers: dict[int, _Worker] = {}


def task_scope() -> CancelScope | None:
    """If this is a thread of a pool: the scope of the task it runs. The context may not know it: one that was copied
    elsewhere, and entered in the task (`Context.run`), has only the scopes there."""
    worker = workers.get(get_ident())
    scope = worker.scope_in_force() if worker is not None else None
    return scope if scope is not None and scope._state is _ACTIVE else None


def _hidden_task() -> CancelScope | None:
    """`task_scope()`, if the context does not know it and no shield keeps it out."""
    task, scope, now = task_scope(), _current.get(), _clock.monotonic()
    while scope is not None:
        if scope is task or scope._shield_until > now:
            return None
        scope = scope._parent
    return task


def current_scope() -> CancelScope | None:
    """The innermost scope around, or None."""
    scope = _current.get()
    return task_scope() if scope is None and workers else scope


def _chain(scope: CancelScope | None = None, *, shielded: bool = False) -> list[CancelScope]:
    """The scopes from `scope` (the innermost one around) outwards, up to a shield that is up (or beyond it, if
    `shielded`); with that of the task, if this is a thread of a pool."""
    scope = scope or _current.get()
    task = task_scope() if workers else None
    found: list[CancelScope] = []
    now = _clock.monotonic()
    while scope is not None or task is not None:
        if scope is None:
            scope, task = task, None
            continue
        if scope is task:
            task = None
        found.append(scope)
        if scope._shield_until > now and not shielded:
            break
        scope = scope._parent
    return found


def around() -> Iterator[CancelScope]:
    """The scopes around, from the inside outwards, up to a shield that is up."""
    return iter(_chain())


def _kept_out(scopes: list[CancelScope]) -> tuple[float, CancelScope | None]:
    """In clean-up: until when the cancelled ones of `scopes` are kept out (`inf` if none is cancelled), and the
    outermost one that is not."""
    cancelled = [scope for scope in scopes if scope._cancelled]
    if not cancelled:
        return math.inf, None
    evidence = _clean_up.evidence(scopes)
    if evidence is None:
        return -math.inf, cancelled[-1]
    now, earliest, found = _clock.monotonic(), math.inf, None
    for scope in cancelled:
        until = evidence.keeps_out_until(scope)
        earliest = min(earliest, until)
        if until <= now:
            found = scope
    return earliest, found


def cancelled_scope(*, always: bool = False) -> CancelScope | None:
    """The outermost cancelled scope around, or None. Not one that a shield keeps out; nor one that this thread cleans
    up after, unless `always`."""
    scope = _current.get()
    hidden: object = workers  # true while the context may hide the scope of this thread's task
    if scope is None:
        if not hidden or (scope := task_scope()) is None:
            return None
        hidden = None
    now = _clock.monotonic()
    found = None
    while scope is not None:
        scope._progress = now
        if scope._deadline <= now and not scope._cancelled:
            scope._expire()  # the timer thread may be a moment late; a scope that was left stays as it was
        if scope._cancelled:
            found = scope
        if scope._of_task and scope._thread == get_ident():
            hidden = None
        if scope._shield_until > now and not (always and type(scope) is _Inherited):
            break
        scope = scope._parent
        if scope is None and hidden:
            scope, hidden = task_scope(), None
    if found is not None and not always:
        return _kept_out(_chain())[1]
    return found


def cancel_pending() -> bool:
    """Whether a scope around is cancelled. Only reads: to be used by code that holds a lock that a callback may want,
    where `cancelled_scope()`, which may expire a scope and so run callbacks, could deadlock."""
    if _current.get() is None and not workers:
        return False
    scopes = _chain()
    return any(scope._cancelled for scope in scopes) and _kept_out(scopes)[1] is not None


def raise_if_cancelled(*, always: bool = False) -> None:
    """Raise `Cancelled` if a scope around is cancelled: what every cooperative point does. `always`: also in clean-up.

    An alarm that is due has its handler run, which may raise something of its own, or nothing: whoever was woken from
    a wait and comes out of here goes on waiting.
    """
    while (scope := cancelled_scope(always=always)) is not None:
        scope._deliver()


def context_for_children() -> Context:
    """A copy of the present context, to start a task in elsewhere. In clean-up it has a shield for what is left of the
    grace."""
    context = copy_context()
    if _current.get() is not None or workers:
        until, refused = _kept_out(_chain())
        if until != math.inf and refused is None:
            context.run(_current.set, _Inherited(until))
    return context


def context_outside() -> Context:
    """A copy of the present context without the scopes around."""
    context = copy_context()
    context.run(_current.set, None)
    return context


def check_cancelled() -> None:
    """Raise `Cancelled` if an enclosing scope is cancelled. Call it in loops that reach no other cooperative point.

    It does not raise in clean-up that still has its grace, nor under a `shield`.
    """
    while (scope := cancelled_scope()) is not None:
        scope._deliver()


def run_due_alarms() -> None:
    """Run the handlers of alarms that are due: for who is told of cancelled scopes in another way."""
    while (scope := cancelled_scope()) is not None and scope._once:
        scope._deliver()


def take_over(context: Context) -> None:
    """Have here the alarms that there are in `context`, a copy of the present one in which handlers have run."""
    _current.set(context[_current])


def current_deadline() -> float:
    """The earliest deadline of the enclosing scopes, in monotonic seconds.

    `inf` if there is none, `-inf` if one of the scopes is cancelled.
    """
    scope = _current.get()
    if scope is None and not workers:
        return math.inf
    earliest = _earliest(scope)
    if workers:
        earliest = min(earliest, _earliest(_hidden_task()))
    return earliest if earliest != -math.inf else _earliest_in_clean_up()


def _earliest_in_clean_up() -> float:
    scopes = _chain()
    evidence = _clean_up.evidence(scopes)
    if evidence is None:
        return -math.inf
    earliest = math.inf
    for scope in scopes:
        if scope._cancelled:
            earliest = min(earliest, evidence.keeps_out_until(scope))
        elif scope._state is not _DONE and not evidence.precedes(scope):
            earliest = min(earliest, scope._deadline)
    return earliest if earliest > _clock.monotonic() else -math.inf


def _earliest(scope: CancelScope | None) -> float:
    earliest = math.inf
    while scope is not None:
        if scope._cancelled:
            return -math.inf
        if scope._state is not _DONE and scope._deadline < earliest:
            earliest = scope._deadline
        if scope._shield_until > -math.inf and scope._shield_until > _clock.monotonic():
            # What is outside comes through when the shield is lowered, not before.
            return min(earliest, max(scope._shield_until, _earliest(scope._parent)))
        scope = scope._parent
    return earliest


def time_remaining() -> float:
    """Seconds until the earliest deadline of the enclosing scopes.

    `inf` if there is none, 0 if it has passed or a scope is cancelled.
    """
    earliest = current_deadline()
    return earliest if earliest == math.inf else max(0.0, earliest - _clock.monotonic())


def sleep(seconds: float) -> None:
    """Sleep for `seconds`. Raises `Cancelled` as soon as an enclosing scope is cancelled, also without `install()`."""
    until = _clock.monotonic() + check_seconds("seconds", seconds)
    raise_if_cancelled()
    woken = threading.Lock()
    woken.acquire()
    registration = on_cancel(lambda: woken.release() if woken.locked() else None)
    try:
        while _clock.wait(woken, until - _clock.monotonic()):
            raise_if_cancelled()
    finally:
        registration.unregister()
    raise_if_cancelled()


def deadline(seconds: float | None, *, name: str | None = None) -> _FailScope:
    """A block that may take `seconds` (None: no limit). After that, `DeadlineExceeded` is raised at its end.

        with deadline(30, name="fetch"):
            fetch()

    It is also a decorator, for `def` and `async def`. In a coroutine, `with` and `async with` both cancel the task's
    `await`. `DeadlineExceeded` is a `TimeoutError`. Raises ValueError for a negative number or NaN.

    Not guaranteed: without `install()`, a sleep or another wait does not end with the block. If the block ends by
    itself after its deadline without having noticed it, nothing is raised.
    """
    return _prepare(_new(_FailScope), name, seconds)


def move_on_after(seconds: float | None, *, name: str | None = None) -> CancelScope:
    """A block that may take `seconds` (None: no limit). After that, the program goes on behind the block.

    Nothing is raised; `scope.cancelled_caught` says whether the block was cut short.
    """
    return _prepare(_new(CancelScope), name, seconds)


def fail_at(when: float, *, name: str | None = None) -> _FailScope:
    """Like `deadline`, but `when` is an instant in monotonic seconds."""
    return _FailScope(deadline=when, name=name)


def move_on_at(when: float, *, name: str | None = None) -> CancelScope:
    """Like `move_on_after`, but `when` is an instant in monotonic seconds."""
    return CancelScope(deadline=when, name=name)


def shield(grace: float, *, name: str | None = None) -> CancelScope:
    """A block that the scopes outside do not cancel for `grace` seconds. Use it for clean-up that must finish.

    After that, it is cancelled like any other block. Scopes inside it apply as usual.
    """
    scope = _Shield(name=name)
    scope._grace = check_seconds("grace", grace)
    scope._shield_until = -math.inf
    scope._lowering = None
    return scope


def _copy(scope: _FailScope, name: str | None) -> _FailScope:
    """A fresh scope with the same limits."""
    fresh = _prepare(_new(_FailScope), name, scope._budget)
    fresh._deadline = scope._deadline
    return fresh


def _prepare(scope: S, name: str | None, seconds: float | None) -> S:
    """What a new scope starts with. A call of the class, which ends here too, costs as much as all of this again."""
    scope.name = name
    scope.cancelled_caught = scope._cancelled = False
    scope._delivered = NOBODY
    scope._state = _NEW
    scope._deadline = _INFINITY
    scope._reason = scope._callbacks = scope._entry = scope._extras = None
    if seconds is None or (seconds.__class__ is float and seconds >= 0):
        scope._budget = seconds
    else:
        scope._budget = check_seconds("seconds", seconds)
    return scope
