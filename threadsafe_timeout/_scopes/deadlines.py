"""The scopes that users make: `deadline`, `move_on_after` and their like for an instant."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from threadsafe_timeout._errors import DeadlineExceeded
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._scopes.scope import CancelScope, new, prepare
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Literal, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["FailScope", "deadline", "fail_at", "move_on_after", "move_on_at"]



def deadline(seconds: float | None, *, name: str | None = None) -> FailScope:
    """A block that may take `seconds` (None: no limit). After that, `DeadlineExceeded` is raised at its end.

        with deadline(30, name="fetch"):
            fetch()

    It is also a decorator, for `def` and `async def`. In a coroutine, `with` and `async with` both cancel the task's
    `await`. `DeadlineExceeded` is a `TimeoutError`. Raises ValueError for a negative number or NaN.

    Not guaranteed: without `install()`, a sleep or another wait does not end with the block. If the block ends by
    itself after its deadline without having noticed it, nothing is raised.
    """
    return prepare(new(FailScope), name, seconds)


def move_on_after(seconds: float | None, *, name: str | None = None) -> CancelScope:
    """A block that may take `seconds` (None: no limit). After that, the program goes on behind the block.

    Nothing is raised; `scope.cancelled_caught` says whether the block was cut short.
    """
    return prepare(new(CancelScope), name, seconds)


def fail_at(when: float, *, name: str | None = None) -> FailScope:
    """Like `deadline`, but `when` is an instant in monotonic seconds."""
    return FailScope(deadline=when, name=name)


def move_on_at(when: float, *, name: str | None = None) -> CancelScope:
    """Like `move_on_after`, but `when` is an instant in monotonic seconds."""
    return CancelScope(deadline=when, name=name)


class FailScope(CancelScope):
    """A scope that raises `DeadlineExceeded` at its edge once its cancellation was delivered."""

    __slots__ = ()
    _fails = True

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
            where = self._delivered.place() if exc is None else place_of(exc)
            raise DeadlineExceeded(self.name, self._budget, elapsed, self._reason, where) from exc
        return False

    def __call__(self, function: F) -> F:
        """Run every call of `function`, a `def` or an `async def`, under a fresh scope like this one."""
        from threadsafe_timeout._scopes.decorate import decorate

        if self._state:
            self._refuse_second_entry()
        return decorate(function, self, lambda name: _copy(self, name))


def _copy(scope: FailScope, name: str | None) -> FailScope:
    """A fresh scope with the same limits."""
    fresh = prepare(new(FailScope), name, scope._budget)
    fresh._deadline = scope._deadline
    return fresh
