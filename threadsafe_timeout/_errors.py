"""The root of every error this library raises on purpose.

One root (`ThreadsafeTimeoutError`), and each error also subclasses the builtin a caller would already be
catching: a missed deadline is a `TimeoutError`, a missing extra an `ImportError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from threadsafe_timeout._text import Place, place, shown

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
    """The base class of the errors that this library raises, except `Cancelled`, which is a `BaseException`."""


class MissingExtraError(ThreadsafeTimeoutError, ImportError):
    """A feature needs an optional dependency that is not installed. `extra` is the name of the extra to install."""

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

    - `name`: the name of the scope or task, or None
    - `budget`: the seconds it had; None if its limit was an instant
    - `elapsed`: the seconds it took
    - `reason`: why it was cancelled
    - `where`: the file, line and function of your code that its deadline found it in; None if it had not started, or
      ran no Python code
    """

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
        where: Place | None = None,
    ) -> None:
        # "timed out" is in the text because runners decide by it; "connection" is not, because they retry on that.
        text = f"{shown(name)} timed out" if name else "timed out"
        if elapsed is not None:
            text += f" after {elapsed:.1f} seconds"
        if budget is not None:
            text += f" (its deadline was {budget:g} s)"
        if where is not None:
            text += f", at {place(where)}"
        if reason not in (None, "deadline"):
            text += f": {shown(reason)}"
        super().__init__(text)
        self.name = name
        self.budget = budget
        self.elapsed = elapsed
        self.reason = reason
        self.where = where

    def __reduce__(self) -> tuple[type[DeadlineExceeded], tuple[object, ...], dict[str, Any]]:
        kept = {name: value for name, value in self.__dict__.items() if name not in _OF_THIS_PROCESS}  # notes
        # Not to subclasses without one: their `__init__` may take no more than these.
        place = () if self.where is None else (self.where,)
        return type(self), (self.name, self.budget, self.elapsed, self.reason, *place), kept


class Cancelled(BaseException):
    """Raised at cooperative points inside a cancelled scope.

    It is a `BaseException`, so `except Exception` does not catch it.

    Never create or raise it yourself; cancel a scope instead. It does not leave its scope: there it becomes
    `DeadlineExceeded`, or the block ends without an error.
    """

    scope: CancelScope
    _clean_up: CleanUp | None = None  # what may be done by code that handles this one
    _attempt = 0  # the number of the refusal that it is, or came from
    _where: Place | None = None  # where in the program's code the cancellation was met first

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
    """Raised by an LLM client for a conversation that goes in circles, if the setting `client_guard` is `stop`.

    `kind` is the kind of the loop; `detail` describes what was seen.
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

    - `abandoned`: how many are alive. This can exceed the limit by the number of workers, because those that are at
      work when the limit is passed may get stuck too, and are not replaced.
    - `limit`: how many may be alive
    - `holders`: for each of them its task, and where it is: (file, line, function), or None if that is not known
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
            text += f"\n  {shown(task)} is stuck" + ("" if where is None else f" at {place(where)}")
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
    """A setting is unknown or has a bad value. `name` is the setting; `source` says where it was set."""

    def __init__(self, name: str, source: str, problem: str) -> None:
        super().__init__(f"{source}: {name}: {problem}")
        self.name = name
        self.source = source
        self.problem = problem

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, str, str]]:
        return type(self), (self.name, self.source, self.problem)
