"""The root of every error this library raises on purpose.

One root (`ThreadsafeTimeoutError`), and each error also subclasses the builtin a caller would already be
catching: a missed deadline is a `TimeoutError`, a missing extra an `ImportError`.
"""

from __future__ import annotations

from threadsafe_timeout._text import Place, place, shown
from threadsafe_timeout._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadsafe_timeout._scopes.clean_up import CleanUp
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = [
    "Cancelled",
    "CannotBeSent",
    "ClusterLost",
    "DeadlineExceeded",
    "LoopDetected",
    "MissingExtraError",
    "PoolExhausted",
    "SettingError",
    "TaskPoisoned",
    "TaskProcessDied",
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
    _reason: str | None = None  # of a copy in another process, whose `scope` is None

    def __init__(self) -> None:
        raise TypeError("Cancelled cannot be constructed: call cancel() on a scope or a CancelSource")

    @classmethod
    def _of(cls, scope: CancelScope) -> Cancelled:
        exc = cls.__new__(cls)
        exc.scope = scope
        return exc

    def _why(self) -> str | None:
        scope: CancelScope | None = self.scope
        return self._reason if scope is None else scope.reason

    def __str__(self) -> str:
        return f"cancelled: {shown(self._why())}"

    def __reduce__(self) -> tuple[Callable[..., Cancelled], tuple[str | None, Place | None]]:
        # It does not leave its scope, but it is the cause of what does, and some packages send that along.
        return _copy_of_cancelled, (self._why(), self._where)


def _copy_of_cancelled(reason: str | None, where: Place | None) -> Cancelled:
    copy = Cancelled.__new__(Cancelled)
    copy.scope = None  # type: ignore[assignment]
    copy._reason, copy._where = reason, where
    return copy


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

    (Of an `AsyncPool`: abandoned coroutines.)

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
        what: str = "threads",
    ) -> None:
        text = (
            f"pool {pool!r}: {abandoned} abandoned {what} are alive and max_abandoned is {limit}, so it takes no more "
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
        self._what = what

    def __reduce__(self) -> tuple[type[PoolExhausted], tuple[object, ...]]:
        return type(self), (self.pool, self.abandoned, self.limit, self.holders, self._what)


class SettingError(ThreadsafeTimeoutError, ValueError):
    """A setting is unknown or has a bad value. `name` is the setting; `source` says where it was set."""

    def __init__(self, name: str, source: str, problem: str) -> None:
        super().__init__(f"{source}: {name}: {problem}")
        self.name = name
        self.source = source
        self.problem = problem

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, str, str]]:
        return type(self), (self.name, self.source, self.problem)


class CannotBeSent(ThreadsafeTimeoutError, TypeError):
    """A task that was to run in another process has an argument, a result or an error that cannot be sent there.

    `path` says which part of it: `agent.client._lock`. `kind` is the type of that part.
    """

    def __init__(self, path: str, kind: str) -> None:
        what = path if path.startswith("the ") else f"task argument {path!r}"
        text = f"{what} (a {kind}) cannot be sent to another process"
        if path.startswith("function"):
            text += "; a task_factory can make the function anew there (docs/scaling.md)"
        super().__init__(text)
        self.path = path
        self.kind = kind

    def __reduce__(self) -> tuple[type[CannotBeSent], tuple[str, str]]:
        return type(self), (self.path, self.kind)


class TaskPoisoned(ThreadsafeTimeoutError, RuntimeError):
    """A task is not run, because `run --supervise` found that it brings the program down: its status is `poison`.

    - `key`: what it is saved under
    - `path`: the journal that says so
    - `ended`: how each start of the program ended that it was to blame for, in words
    - `name`: what the task is called, if that is known
    """

    def __init__(self, key: str | int, path: str, ended: tuple[str, ...] = (), name: str | None = None) -> None:
        times = f"{len(ended)} times" if len(ended) != 1 else "once"
        how = "; ".join(dict.fromkeys(ended)) or "how is not known"
        super().__init__(
            f"task {self._called(key, name)} is not run: it has brought the program down {times} ({how}), and is "
            f"marked poison in {shown(path)}. To have it tried again, start with retry=poison (for tasks saved by "
            "--save also with resume=always), or give open_run(retry={'poison'})"
        )
        self.key = key
        self.path = path
        self.ended = ended
        self.name = name

    @staticmethod
    def _called(key: str | int, name: str | None) -> str:
        return shown(key) if name in (None, str(key)) else f"{shown(name)} ({shown(key)})"

    def __reduce__(self) -> tuple[type[TaskPoisoned], tuple[object, ...]]:
        return type(self), (self.key, self.path, self.ended, self.name)


class ClusterLost(ThreadsafeTimeoutError, OSError):
    """The scheduler of a Dask cluster could not be reached, or a task's nodes were lost again and again.

    `address` is the scheduler's.
    """

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(f"the Dask cluster at {shown(address)} {problem}")
        self.address = address
        self.problem = problem

    def __reduce__(self) -> tuple[type[ClusterLost], tuple[str, str]]:
        return type(self), (self.address, self.problem)


class TaskProcessDied(ThreadsafeTimeoutError, RuntimeError):
    """The process of a task with `isolate="process"` ended without an answer.

    - `name`: the name of the task
    - `exitcode`: what it ended with; None if that is not known, or if a signal ended it
    - `signal`: the number of the signal that ended it, or None
    - `pid`: the number that the process had
    """

    def __init__(self, name: str | None, status: int | None, pid: int | None = None) -> None:
        self.name = name
        self.pid = pid
        self.signal = -status if status is not None and status < 0 else None
        self.exitcode = status if status is not None and status >= 0 else None
        self._status = status
        super().__init__(f"the process of task {shown(name)} {self._end()}")

    def _end(self) -> str:
        if self.signal is not None:
            try:
                import signal  # here: with the enums it makes, its import takes longer than that of this module

                name = signal.Signals(self.signal).name
            except ValueError:
                name = "a signal"
            return f"was ended by {name} (signal {self.signal})"
        if self.exitcode is None:
            return "ended without an answer"
        return f"exited with code {self.exitcode} before it had an answer"

    def __reduce__(self) -> tuple[type[TaskProcessDied], tuple[object, ...]]:
        return type(self), (self.name, self._status, self.pid)
