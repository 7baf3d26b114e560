"""What the pool's threads say of a run, kept until it is written: nothing here touches the disk, or waits.

A finished task has a note of its own while fewer than `_MOST` of this second are there. The others are only counted, by
the pool itself, which does not call for those that end well: a pool of tiny tasks is as fast as it was.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import DeadlineExceeded, LoopDetected, TaskPoisoned
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._record.count import Count
from threadsafe_timeout._record.doing import Doing, Seen, doing_of, seen_of
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import release

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.events import Event
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._pool.worker import Worker
    from threadsafe_timeout._text import Place
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_slots import Slot
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["Notes", "TaskNote", "journal_path"]

_MOST = 200
_MOST_FAILED = 5000
_LONGEST = 300  # characters of an error's text


@dataclass(slots=True)
class TaskNote:
    """What is known of a task as it ends. (Of its error only what is written: that holds the frames it passed.)"""

    task: str
    key: Any
    pool: str
    worker: str | None
    took: float
    limit: float | None
    given_up: bool
    saved: bool
    among: deque[TaskNote]
    doing: Doing | None
    seen: Seen | None
    t: float = 0.0
    outcome: str = "done"
    error: dict[str, Any] | None = None
    where: Place | None = None

    def finished(self, error: BaseException | None) -> None:
        """The future has its outcome. Raises nothing."""
        self.t = _clock.wall_time()
        if error is not None:
            try:
                _describe(self, error)
            except Exception:  # a `__str__` that fails
                self.error = {"type": type(error).__qualname__, "message": ""}
        self.among.append(self)


class Notes:
    """What is to be written."""

    def __init__(self) -> None:
        self.tasks: deque[TaskNote] = deque()
        self.events: deque[tuple[float, Event]] = deque()
        self.crews: deque[Crew | AsyncCrew] = deque()  # held, so that one that is soon over is counted
        self.journal: str | None = None  # kept: a run that is soon over has closed it before anything is written
        self.results = Count()  # that are in a journal
        self.asleep = False  # whether the recorder sleeps for lack of news
        self.wake = threading.Lock()  # released when it is to look
        self.wake.acquire()

    # The hooks. They raise nothing: what goes wrong here is not the task's.

    def ending(self, task: TaskFuture | AsyncTask, error: BaseException | None) -> TaskNote | None:
        options, crew = task._options, task._crew
        if len(self.tasks) >= _MOST and error is None and not options.saves:
            _observer.rest(self.ending, self._is_full)
            return None
        if len(self.tasks) >= _MOST_FAILED or crew.inner:
            return None
        try:
            worker = _worker_of(task)
            return TaskNote(
                task._task_name(), options.key, crew.prefix, worker.name if worker is not None else None,
                task.elapsed(), options.timeout, task._was_abandoned(), options.saves,
                self.tasks, doing_of(worker, task) if worker is not None else None,
                seen_of(worker, task) if worker is not None else None,
            )  # fmt: skip
        except Exception:
            return None

    def _is_full(self) -> bool:
        return len(self.tasks) >= _MOST

    def take_tasks(self) -> list[TaskNote]:
        """For the recorder."""
        found = [self.tasks.popleft() for _ in range(len(self.tasks))]  # others go on appending
        _observer.rouse(self.ending)
        return found

    def saved(self, _seconds: float, problem: BaseException | None) -> None:
        if problem is None:
            self.results.add()

    def event(self, event: Event) -> None:
        self.events.append((_clock.wall_time(), event))
        if self.asleep:
            self.asleep = False
            release(self.wake)

    def began(self, crew: Crew | AsyncCrew | None) -> None:
        """A worker begins, or the first coroutine; without one, there is something else."""
        if crew is not None:
            self.crews.append(crew)
        self.journal = self.journal or journal_path()

    def stirred(self, crew: Crew | AsyncCrew) -> None:
        """A pool gets a task, while nobody looks."""
        self.asleep = False
        if not crew.inner:
            self.crews.append(crew)
        release(self.wake)


def journal_path() -> str | None:
    """The journal that this process writes, or None. Nothing is loaded to ask."""
    writers = sys.modules.get("threadsafe_timeout.checkpoint._writer")
    return next((str(writer.path) for writer in list(writers._writers)), None) if writers is not None else None


def _worker_of(task: TaskFuture | AsyncTask) -> Worker | Slot | None:
    worker: Any = _around.workers.get(threading.get_ident())
    if worker is None or worker.task is not task:
        crew: Any = task._crew
        worker = crew.worker_of(task)  # a coroutine; or it ends in another thread than its own
    return worker  # type: ignore[no-any-return]


def _describe(note: TaskNote, error: BaseException) -> None:
    from threadsafe_timeout._introspection.places import place_of
    from threadsafe_timeout._introspection.secrets import without_secrets

    note.outcome = _outcome(note, error)
    note.where = error.where if isinstance(error, DeadlineExceeded) else place_of(error)
    message = without_secrets(str(error)[: 2 * _LONGEST])[:_LONGEST]
    note.error = {"type": type(error).__qualname__, "message": message, "where": note.where}


def _outcome(note: TaskNote, error: BaseException) -> str:
    if isinstance(error, LoopDetected):
        return "loop"
    if isinstance(error, TaskPoisoned):
        return "poison"
    if isinstance(error, DeadlineExceeded):
        return "abandoned" if note.given_up else "timeout"
    return "failed"
