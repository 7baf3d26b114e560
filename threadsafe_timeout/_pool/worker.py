"""One thread of a pool: the loop that takes tasks, runs them and gives their futures the outcome."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import DeadlineExceeded
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._pool.options import Outcome
from threadsafe_timeout._pool.replacing import late, report_death, worker_gone, worker_left
from threadsafe_timeout._pool.settling import drawn
from threadsafe_timeout._pool.task import TaskFuture
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing.daemon_thread import DaemonThread

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.events import Event
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["Worker"]


class Worker:
    """One thread of the crew."""

    __slots__ = (
        "__weakref__", "abandoned", "completed", "crew", "doing", "failed", "first", "hand", "retire", "seen", "source",
        "stuck_in", "stuck_scope", "thread", "timed_out", "wake",
    )  # fmt: skip

    def __init__(
        self, crew: Crew, name: str, first: Callable[[Worker], object] | None = None, retire: bool = False
    ) -> None:
        self.crew = crew
        self.first = first  # what to do before taking work
        self.retire = retire  # take none
        self.wake = threading.Lock()  # held while there is nothing to wake for
        self.wake.acquire()
        self.hand: deque[TaskFuture] = deque()  # the task it has taken, or none
        self.source = drawn(crew.tasks)
        self.completed = self.failed = self.timed_out = 0  # written by its own thread; the last are of the failed
        self.abandoned = False  # guarded by crew.lock
        self.doing: Any = None  # what it notes itself of its task, while the run is recorded
        self.seen: Any = None  # what the recorder has seen of that
        self.stuck_in: Event | None = None  # what it was abandoned in
        self.stuck_scope: CancelScope | None = None
        self.thread = DaemonThread(self._main, name, functools.partial(worker_gone, crew, self))

    @property
    def name(self) -> str:
        return self.thread.name

    def scope_in_force(self) -> CancelScope | None:
        """The scope of the task it runs, or was given up in."""
        task = self.task
        return task._scope if task is not None else self.stuck_scope

    @property
    def task(self) -> TaskFuture | None:
        """The task it has taken, for observers."""
        try:
            return self.hand[0]
        except IndexError:
            return None

    def _main(self) -> None:
        crew = self.crew
        _around.workers[threading.get_ident()] = self
        try:
            if not crew.admit(self):
                return
            if (began := _observer.began) is not None:
                began(crew)
            if self.first is not None:
                self.first(self)
                self.first = None
            if not self.retire and crew.initialize():
                self._loop()
        except BaseException as exc:
            # Nothing in the loop raises; what arrives here was thrown at this thread from outside.
            report_death(crew, self, exc)
        else:
            worker_left(crew, self)

    def _loop(self) -> None:
        crew, hand = self.crew, self.hand
        task = crew.next_task(self)
        while task is not None:
            result, error = task.run()
            if not task.end(result, error):
                late(crew, self, task, Outcome(result, error))
                return
            if error is None:
                self.completed += 1
            else:
                self.failed += 1
                if isinstance(error, DeadlineExceeded):
                    self.timed_out += 1
            task = result = error = None  # an idle worker must not hold the last one
            hand.pop()
            task = crew.take(self) or crew.next_task(self)
