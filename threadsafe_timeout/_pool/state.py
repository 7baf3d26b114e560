"""The state of a crew: its queue, its workers, its counts, and which lock guards them."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.events import Events

if TYPE_CHECKING:
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._pool.worker import Worker

__all__ = ["Counts", "CrewOptions", "CrewState"]


@dataclass(frozen=True, slots=True)
class CrewOptions:
    """What an executor was asked for."""

    width: int
    prefix: str
    grace: float
    max_abandoned: int
    on_exhausted: str
    catchable: bool
    on_expired_wait: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]


@dataclass(slots=True, eq=False)
class Counts:
    """How the tasks of a crew have ended, but for what its workers count themselves. Guarded by its lock. An object of
    its own: whoever adds up what pools have done holds this, and not the crew."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    given_up: int = 0
    timed_out: int = 0  # of the failed and the given up: those that ended with DeadlineExceeded
    loops: int = 0


class CrewState:
    """What is known of a crew. `Crew` says what happens to it."""

    def __init__(self, options: CrewOptions) -> None:
        self.width = options.width
        self.prefix = options.prefix
        self.grace = options.grace
        self.max_abandoned = options.max_abandoned
        self.on_exhausted = options.on_exhausted
        self.catchable = options.catchable  # whether the handlers of its tasks see their deadline first
        self.on_expired_wait = options.on_expired_wait
        self.events = Events(options.prefix)
        self.inner = False  # whether its tasks are the library's own, which nobody counts
        self.awaited_at_exit = True  # whether the exit of the interpreter waits for its healthy tasks
        self._initializer = options.initializer
        self._initargs = options.initargs
        self._make_locks()
        self._make_empty()

    def _make_locks(self) -> None:
        self.lock = threading.RLock()  # re-entrant: a finaliser may submit or shut down while its thread holds it
        # Notified when a worker leaves `workers`. Always by `with self.lock`: a condition's own `__enter__` is Python
        # code, and what is thrown at a thread at its end leaves the lock held for ever.
        self._gone = threading.Condition(self.lock)

    def _make_empty(self) -> None:
        self.tasks: deque[TaskFuture] = deque()  # put in under lock, taken out without
        # All guarded by lock:
        self.workers: set[Worker] = set()
        self.starting: set[Worker] = set()  # those of them that have not come for their first task yet
        self.idle: dict[Worker, None] = {}  # the last to come is the first to go: its caches are warm
        self.woken: Worker | None = None  # the one of them that is on its way
        self.retiring: set[Worker] = set()  # those of them that take no work
        self.settling: set[Worker] = set()  # those that settle outcomes, before anything else
        self.abandoned: weakref.WeakSet[Worker] = weakref.WeakSet()
        self.giving_up = 0  # tasks that are claimed and not owed yet
        self.owed: deque[TaskFuture] = deque()  # claimed by a thread that has no time to settle them
        self.open = not _exit.exiting  # takes tasks
        self.closed = False  # workers go home when there is nothing left to do
        self.interrupted = False  # by Ctrl-C
        self.interrupted_tasks: weakref.WeakSet[TaskFuture] = weakref.WeakSet()  # see _exit.note_interrupted
        self.shut_down = False  # and it was not the interpreter's exit that wanted it
        self.broken: str | None = None
        self._threads_named = 0
        self._make_counts()

    def _make_counts(self) -> None:
        self.counts = Counts()
        self.submitted = self.late_outcomes = self.respawned = self.replaced = 0

    def not_awaited_at_exit(self) -> None:
        """The exit of the interpreter does not wait for its tasks, and it takes them until the end."""
        self.awaited_at_exit, self.open = False, True

    def takers(self) -> int:
        """How many workers take work."""
        return len(self.workers) - len(self.retiring)

    def abandoned_alive(self) -> int:
        return sum(1 for worker in list(self.abandoned) if worker.thread.is_alive())

    def worker_of(self, task: TaskFuture) -> Worker | None:
        """The worker that has this task in its hand."""
        with self.lock:
            return next((worker for worker in self.workers if worker.task is task), None)

    def running(self) -> list[TaskFuture]:
        with self.lock:
            return [task for worker in self.workers if (task := worker.task) is not None]

    def effective(self) -> int:
        """How many tasks run that are not overdue."""
        return sum(not task.overdue for task in self.running())

    def is_gone(self) -> bool:
        """Whether its counts are final."""
        return self.closed and not self.workers and not self.abandoned_alive()

    def unfinished(self) -> list[TaskFuture]:
        with self.lock:
            return [*self.running(), *self.tasks]

    def stats(self) -> dict[str, int]:
        counts = self.counts
        with self.lock:
            # First: a worker takes a task without the lock. One on its way from here to there is counted twice, and a
            # pool that has one is never taken for idle.
            pending = len(self.tasks)
            return {
                "workers": len(self.workers),
                "idle": len(self.idle),
                "running": sum(worker.task is not None for worker in self.workers - self.settling),
                "pending": pending,
                "submitted": self.submitted,
                "completed": counts.completed + sum(worker.completed for worker in self.workers),
                "failed": counts.failed + sum(worker.failed for worker in self.workers),
                "cancelled": counts.cancelled,
                "abandoned": counts.given_up,
                "abandoned_alive": self.abandoned_alive(),
                "late": self.late_outcomes,
                "respawned": self.respawned,
                "timed_out": counts.timed_out + sum(worker.timed_out for worker in self.workers),
                "replaced": self.replaced,
                "loops": counts.loops,
            }

    def after_fork_in_child(self) -> None:
        """None of the threads lives on, and what they were doing is the parent's."""
        self._make_locks()
        self.events = Events(self.prefix)
        self.workers.clear()
        self.starting.clear()
        self.settling.clear()
        self.retiring.clear()
        self.idle.clear()
        self.tasks.clear()
        self.owed.clear()
        self.abandoned.clear()
        self.woken = None
        self.giving_up = 0
