"""The root of every error this library raises on purpose.

One root (`ThreadsafeTimeoutError`), and each error also subclasses the builtin a caller would already be
catching: a missed deadline is a `TimeoutError`, a missing extra an `ImportError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from threadsafe_timeout._text import shown

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.clean_up import CleanUp
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = [
    "Cancelled",
    "DeadlineExceeded",
    "LoopDetected",
    "MissingExtraError",
    "PoolExhausted",
    "SettingError",
    "ThreadsafeTimeoutError",
]


_OF_THIS_PROCESS = frozenset({"scope", "_clean_up", "_attempt"})
_HOLDERS = 8  # named in a message; the error has them all


class ThreadsafeTimeoutError(Exception):
    """Root of the errors raised by threadsafe-timeout. (`Cancelled` is not one: it is a `BaseException`.)"""


class MissingExtraError(ThreadsafeTimeoutError, ImportError):
    """A feature needs an optional dependency that is not installed. `extra` is what to install."""

    def __init__(self, feature: str, extra: str, missing: str) -> None:
        super().__init__(
            f"{feature} needs the package {missing!r}, which is not installed: "
            f"run  pip install 'threadsafe-timeout[{extra}]'"
        )
        self.feature = feature
        self.extra = extra
        self.missing = missing

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.feature, self.extra, self.missing)


class DeadlineExceeded(ThreadsafeTimeoutError, TimeoutError):
    """A block or a task did not end by its deadline.

    `name` is the scope's or the task's, `budget` the seconds it had (None if it was given an instant), `elapsed` the
    seconds it took, `reason` why it was cancelled, `where` the file, line and function it was in then, if known.
    """

    where: tuple[str, int, str] | None = None
    # For one that is raised inside its block (see `catchable`), as `Cancelled` has them:
    scope: CancelScope | None = None
    _clean_up: CleanUp | None = None
    _attempt = 0

    def __init__(
        self,
        name: str | None = None,
        budget: float | None = None,
        elapsed: float | None = None,
        reason: str | None = None,
    ) -> None:
        # "timed out" is in the text because runners decide by it; "connection" is not, because they retry on that.
        text = f"{shown(name)} timed out" if name else "timed out"
        if elapsed is not None:
            text += f" after {elapsed:.1f} seconds"
        if budget is not None:
            text += f" (its deadline was {budget:g} s)"
        if reason not in (None, "deadline"):
            text += f": {shown(reason)}"
        super().__init__(text)
        self.name = name
        self.budget = budget
        self.elapsed = elapsed
        self.reason = reason

    def __reduce__(self) -> tuple[type[DeadlineExceeded], tuple[object, ...], dict[str, Any]]:
        kept = {name: value for name, value in self.__dict__.items() if name not in _OF_THIS_PROCESS}  # where, notes
        return type(self), (self.name, self.budget, self.elapsed, self.reason), kept


class Cancelled(BaseException):
    """Raised at cooperative points inside a cancelled scope. Not an `Exception`: `except Exception` must not eat it.

    Never construct or raise it; cancel a scope. It never leaves the scope that owns it under this name.
    """

    scope: CancelScope
    _clean_up: CleanUp | None = None  # what may be done by code that handles this one
    _attempt = 0  # the number of the refusal that it is, or came from

    def __init__(self) -> None:
        raise TypeError("Cancelled cannot be constructed: call cancel() on a scope or a CancelSource")

    @classmethod
    def _of(cls, scope: CancelScope) -> Cancelled:
        exc = cls.__new__(cls)
        exc.scope = scope
        return exc

    def __str__(self) -> str:
        return f"cancelled: {shown(self.scope.reason)}"


class LoopDetected(ThreadsafeTimeoutError, RuntimeError):
    """A conversation goes in circles, and `client_guard` is `stop`: the client makes no further call for it.

    `kind` is the kind of the loop, `detail` says what was seen.
    """

    def __init__(self, kind: str, detail: str) -> None:
        # None of the words by which runners decide to try again ("timeout", "connection", "rate limit") is in it.
        super().__init__(f"{kind}: {detail}; the conversation was ended (client_guard)")
        self.kind = kind
        self.detail = detail

    def __reduce__(self) -> tuple[type[LoopDetected], tuple[str, str]]:
        return type(self), (self.kind, self.detail)


class PoolExhausted(ThreadsafeTimeoutError, RuntimeError):
    """More abandoned threads are alive than `max_abandoned` allows, so the pool takes no more work.

    `abandoned`: how many are alive; `limit`: how many may be. There can be up to as many more as the pool has workers:
    those that are at work when the limit is passed may get stuck as well, and are not replaced then.
    `holders`: the task each of them is stuck in, and where: file, line and function, or None if that is not known.
    """

    def __init__(
        self,
        pool: str,
        abandoned: int,
        limit: int,
        holders: tuple[tuple[str, tuple[str, int, str] | None], ...] = (),
    ) -> None:
        text = (
            f"pool {pool!r}: {abandoned} abandoned threads are alive and max_abandoned is {limit}, so it takes no more "
            "work; see the log for their stacks, end the run and resume it, or raise max_abandoned"
        )
        for task, where in holders[:_HOLDERS]:
            text += f"\n  {shown(task)} is stuck" + ("" if where is None else " at {}:{}, in {}".format(*where))
        if len(holders) > _HOLDERS:
            text += f"\n  and {len(holders) - _HOLDERS} more"
        super().__init__(text)
        self.pool = pool
        self.abandoned = abandoned
        self.limit = limit
        self.holders = holders

    def __reduce__(self) -> tuple[type[PoolExhausted], tuple[object, ...]]:
        return type(self), (self.pool, self.abandoned, self.limit, self.holders)


class SettingError(ThreadsafeTimeoutError, ValueError):
    """A setting is unknown or has a bad value. `name` is the setting, `source` where it came from."""

    def __init__(self, name: str, source: str, problem: str) -> None:
        super().__init__(f"{source}: {name}: {problem}")
        self.name = name
        self.source = source
        self.problem = problem

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, str, str]]:
        return type(self), (self.name, self.source, self.problem)
