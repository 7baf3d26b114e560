"""What one task wants, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.tokens import CancelToken

__all__ = ["Outcome", "TaskOptions"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: its `result`, or its `error`. The error of an overdue task is a `DeadlineExceeded`."""

    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What one task wants: see `ThreadPoolExecutor.with_options`."""

    timeout: float | None = None
    name: str | None = None
    # Gets the outcome before the future does, outside every scope and in a pool thread that is not stuck; what it
    # returns is the future's result, what it raises the future's exception. This is where a task is saved.
    settle: Callable[[Outcome], Any] | None = None
    deadline: float | None = None
    token: CancelToken | None = None
    key: str | int | None = None
    saves: bool = False  # whether `settle` saves the outcome in a journal
    here: bool = False  # it is answered at once: not sent to where the other tasks of the pool run
