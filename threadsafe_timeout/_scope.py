"""Cancel scopes: a `with` block that can be cancelled, with a deadline, a reason, and a bounded shield.

Guarantees:

- A scope's deadline is an absolute instant, fixed once, on entry. What holds inside is the earliest deadline of all
  scopes around, up to the nearest shield that is still up.
- Cancellation is level-triggered: from the moment a scope is cancelled until it is left, every cooperative point
  inside raises `Cancelled`. Code that swallows it meets it again at the next one, and `deadline` raises at its edge
  even if every one was swallowed.
- A scope turns only its own `Cancelled` into what its user sees. When several scopes around are cancelled, the
  outermost one's is raised: unwinding further is what all of them ask for.
- A scope fires only while it is entered: the state changes under `_timer.lock`, and leaving takes that lock.
- A scope that was left without having been cancelled binds nobody any more, not even a thread that inherited it. A
  scope that was cancelled stays cancelled for whoever inherited it: that is what fences an abandoned thread.

What the pool and the patches use:

- `current_scope()`, `cancelled_scope()` (the outermost cancelled one around, or None), `raise_if_cancelled()`.
- `time_remaining()`: seconds to the earliest deadline around, `inf` without one.
- `on_cancel(callback)`: a `Registration` on every scope around; the callback runs, in whichever thread cancels, when
  one of them is cancelled. After `unregister()` has returned it is not running and never will.
- `CancelScope.cancel(reason)`, and the scope as a context manager.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Literal, ParamSpec, Self, TypeVar

from threadsafe_timeout import _clock, _timer
from threadsafe_timeout._errors import Cancelled, DeadlineExceeded

__all__ = [
    "CancelScope",
    "Registration",
    "cancelled_scope",
    "check_cancelled",
    "current_deadline",
    "current_scope",
    "deadline",
    "fail_at",
    "move_on_after",
    "move_on_at",
    "on_cancel",
    "raise_if_cancelled",
    "shield",
    "sleep",
    "time_remaining",
]

P = ParamSpec("P")
T = TypeVar("T")

_NEW, _ACTIVE, _DONE = range(3)
_current: ContextVar[CancelScope | None] = ContextVar("threadsafe_timeout_scope", default=None)
_logger = logging.getLogger("threadsafe_timeout")


class CancelScope:
    """A block that can be cancelled: by its deadline, or by `cancel()` from any thread.

    `deadline` is an absolute instant in monotonic seconds. The block's own cancellation is swallowed at its edge;
    `cancelled_caught` tells. Single use.
    """

    __slots__ = (
        "__weakref__", "_budget", "_callbacks", "_cancelled", "_deadline", "_delivered", "_entered_at", "_entry",
        "_parent", "_reason", "_reset", "_shield_until", "_state", "cancelled_caught", "name",
    )  # fmt: skip

    def __init__(self, *, deadline: float = math.inf, reason: str | None = None, name: str | None = None) -> None:
        if math.isnan(deadline):
            raise ValueError("deadline must be a number of monotonic seconds, not NaN")
        self.name = name
        self.cancelled_caught = False
        self._budget: float | None = None
        self._deadline = deadline
        self._reason = reason  # guarded by _timer.lock
        self._cancelled = False  # written under _timer.lock, and only ever from False to True
        self._delivered = False
        self._state = _NEW  # written under _timer.lock
        self._callbacks: dict[Registration, None] | None = None  # guarded by _timer.lock
        self._entry: _timer.Entry | None = None  # guarded by _timer.lock
        self._parent: CancelScope | None = None
        self._shield_until = -math.inf

    @property
    def deadline(self) -> float:
        """The instant, in monotonic seconds, at which this scope is cancelled; `inf` for never."""
        return self._deadline

    @property
    def cancel_called(self) -> bool:
        """Whether this scope has been cancelled, by its deadline or by `cancel()`."""
        return self._cancelled

    @property
    def reason(self) -> str | None:
        """Why it was cancelled; the first reason wins."""
        return self._reason if self._cancelled else None

    def cancel(self, reason: str = "cancelled") -> bool:
        """Cancel from any thread. True if this call did it; a scope that was left or is cancelled is not touched."""
        with _timer.lock:
            if self._cancelled or self._state is _DONE:
                return False
            self._reason = self._reason or reason
            self._cancelled = True
            callbacks = list(self._callbacks or ())
            if self._entry is not None:
                _timer.disarm(self._entry)
        for registration in callbacks:
            registration.run()
        return True

    def __enter__(self) -> Self:
        if self._state is not _NEW:
            raise RuntimeError(f"{self!r} was entered before; a scope is single-use: make a new one")
        self._entered_at = now = _clock.monotonic()
        if self._budget is not None:
            self._deadline = now + self._budget
        self._parent = _current.get()
        self._reset: Token[CancelScope | None] = _current.set(self)
        with _timer.lock:
            self._state = _ACTIVE
            if self._deadline != math.inf:
                self._entry = _timer.arm(self._deadline, self._expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        with _timer.lock:
            self._state = _DONE
            if self._entry is not None:
                _timer.disarm(self._entry)
        _current.reset(self._reset)
        if not self._cancelled:
            return False
        return self._close(exc)

    def _close(self, exc: BaseException | None) -> bool:
        """Leave a cancelled scope: True swallows its own `Cancelled`."""
        if isinstance(exc, Cancelled) and exc.scope is self:
            self.cancelled_caught = True
            return True
        return False

    def _expire(self) -> None:
        self.cancel("deadline")

    def __repr__(self) -> str:
        state = ("new", "active", "left")[self._state]
        if self._cancelled:
            state += f", cancelled: {self._reason}"
        name = f" {self.name!r}" if self.name else ""
        left = "" if self._deadline == math.inf else f", {self._deadline - _clock.monotonic():.3f} s left"
        return f"<{type(self).__name__}{name} {state}{left}>"


class _FailScope(CancelScope):
    """A scope that raises `DeadlineExceeded` at its edge once its cancellation was delivered."""

    __slots__ = ()

    if TYPE_CHECKING:  # it never swallows: `with deadline(5): return x` is known to return

        def __exit__(
            self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
        ) -> Literal[False]: ...

    def _close(self, exc: BaseException | None) -> bool:
        own = isinstance(exc, Cancelled) and exc.scope is self
        # A body that swallowed the cancellation (a bare `except:`) and returned has not beaten the deadline. One that
        # never met it finished its work, late: what it did stands.
        if own or (exc is None and self._delivered):
            self.cancelled_caught = True
            elapsed = _clock.monotonic() - self._entered_at
            raise DeadlineExceeded(self.name, self._budget, elapsed, self._reason) from exc
        return False

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Run every call of `function` under a fresh scope like this one."""
        budget, name = self._budget, self.name or getattr(function, "__qualname__", None)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            with _relative(_FailScope, budget, name):
                return function(*args, **kwargs)

        return wrapper


class _Shield(CancelScope):
    """Keeps what is outside from cancelling the block, for a bounded time."""

    __slots__ = ("_grace",)
    _grace: float

    def __enter__(self) -> Self:
        self._shield_until = _clock.monotonic() + self._grace
        super().__enter__()
        with _timer.lock:
            self._entry = _timer.arm(self._shield_until, self._lower)
        return self

    def _lower(self) -> None:
        """Let what is outside through: those who wait inside now hear of it, at once if it has happened already."""
        with _timer.lock:
            waiting = list(self._callbacks or ())
        for registration in waiting:
            registration.attach(self._parent)


class Registration:
    """A callback that runs when one of some scopes is cancelled."""

    __slots__ = ("_callback", "_lock", "_scopes")

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback  # guarded by _lock
        # Held while the callback runs, so that unregister() waits for it: what the callback wakes (a socket, say) may
        # be used again by someone else as soon as unregister() returns. Re-entrant: a callback may unregister itself.
        self._lock = threading.RLock()
        self._scopes: list[CancelScope] = []  # guarded by _timer.lock

    def attach(self, scope: CancelScope | None) -> None:
        """Listen to `scope` and to all around it, up to a shield that is up; run at once if one is cancelled."""
        cancelled = False
        with _timer.lock:
            now = _clock.monotonic()
            while scope is not None:
                if scope._cancelled:
                    cancelled = True
                    break
                if scope._state is not _DONE:
                    if scope._callbacks is None:
                        scope._callbacks = {}
                    scope._callbacks[self] = None
                    self._scopes.append(scope)
                if scope._shield_until > now:
                    break
                scope = scope._parent
        if cancelled:
            self.run()

    def run(self) -> None:
        with self._lock:
            if self._callback is not None:
                try:
                    self._callback()
                except Exception:
                    _logger.exception("threadsafe-timeout: waking a cancelled call failed; it ends at its own timeout")

    def unregister(self) -> None:
        """Forget the callback. Once this returns it is not running and will not run."""
        with _timer.lock:
            for scope in self._scopes:
                if scope._callbacks is not None:
                    scope._callbacks.pop(self, None)
            self._scopes.clear()
        with self._lock:
            self._callback = None


def on_cancel(callback: Callable[[], object]) -> Registration:
    """Have `callback` run when a scope around is cancelled; at once, in this thread, if one is already."""
    registration = Registration(callback)
    registration.attach(_current.get())
    return registration


def current_scope() -> CancelScope | None:
    """The innermost scope around, or None."""
    return _current.get()


def cancelled_scope() -> CancelScope | None:
    """The outermost cancelled scope around that no shield keeps out, or None."""
    scope = _current.get()
    if scope is None:
        return None
    now = _clock.monotonic()
    found = None
    while scope is not None:
        if scope._deadline <= now and not scope._cancelled:
            scope._expire()  # the timer thread may be a moment late; a scope that was left stays as it was
        if scope._cancelled:
            found = scope
        if scope._shield_until > now:
            break
        scope = scope._parent
    return found


def raise_if_cancelled() -> None:
    """Raise `Cancelled` if a scope around is cancelled: what every cooperative point does."""
    scope = cancelled_scope()
    if scope is not None:
        scope._delivered = True
        raise Cancelled._of(scope)


check_cancelled = raise_if_cancelled


def current_deadline() -> float:
    """The earliest deadline around, in monotonic seconds; `inf` if there is none, `-inf` if already cancelled."""
    scope = _current.get()
    earliest = math.inf
    now = None
    while scope is not None:
        if scope._cancelled:
            return -math.inf
        if scope._state is not _DONE and scope._deadline < earliest:
            earliest = scope._deadline
        if scope._shield_until > -math.inf:
            now = _clock.monotonic() if now is None else now
            if scope._shield_until > now:
                # What is outside comes through when the shield is lowered, not before.
                return min(earliest, max(scope._shield_until, _outside(scope)))
        scope = scope._parent
    return earliest


def _outside(scope: CancelScope) -> float:
    if scope._parent is None:
        return math.inf
    token = _current.set(scope._parent)
    try:
        return current_deadline()
    finally:
        _current.reset(token)


def time_remaining() -> float:
    """Seconds until the earliest deadline around: `inf` without one, 0 once cancelled or past it."""
    earliest = current_deadline()
    return earliest if earliest == math.inf else max(0.0, earliest - _clock.monotonic())


def sleep(seconds: float) -> None:
    """Sleep for `seconds`; a cooperative point that a cancelled scope ends at once."""
    _seconds("seconds", seconds)
    raise_if_cancelled()
    woken = threading.Lock()
    woken.acquire()
    registration = on_cancel(lambda: woken.release() if woken.locked() else None)
    try:
        _clock.wait(woken, seconds)
    finally:
        registration.unregister()
    raise_if_cancelled()


def deadline(seconds: float | None, *, name: str | None = None) -> _FailScope:
    """Give the block `seconds` (None: no limit); past that `DeadlineExceeded` is raised at the block's edge.

    Also a decorator. `DeadlineExceeded` is a `TimeoutError`. Raises ValueError for a negative number or NaN.
    """
    return _relative(_FailScope, _budget(seconds), name)


def move_on_after(seconds: float | None, *, name: str | None = None) -> CancelScope:
    """Give the block `seconds` (None: no limit), then go on after it; `scope.cancelled_caught` tells."""
    return _relative(CancelScope, _budget(seconds), name)


def fail_at(when: float, *, name: str | None = None) -> _FailScope:
    """Like `deadline`, with an absolute instant in monotonic seconds."""
    return _FailScope(deadline=when, name=name)


def move_on_at(when: float, *, name: str | None = None) -> CancelScope:
    """Like `move_on_after`, with an absolute instant in monotonic seconds."""
    return CancelScope(deadline=when, name=name)


def shield(grace: float, *, name: str | None = None) -> CancelScope:
    """For `grace` seconds, keep the scopes outside from cancelling the block: for clean-up that must finish."""
    scope = _Shield(name=name)
    scope._grace = _seconds("grace", grace)
    return scope


_S = TypeVar("_S", bound=CancelScope)


def _relative(kind: type[_S], budget: float | None, name: str | None) -> _S:
    scope = kind(name=name)
    scope._budget = budget
    return scope


def _budget(seconds: float | None) -> float | None:
    return None if seconds is None else _seconds("seconds", seconds)


def _seconds(parameter: str, value: float) -> float:
    """Check a duration once: a number that is not negative and not NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{parameter} must be a number of seconds, got {value!r}") from None
    if not number >= 0:
        raise ValueError(f"{parameter} must be a number of seconds >= 0, got {value!r}")
    return number

