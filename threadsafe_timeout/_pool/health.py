"""What a pool's workers are doing, as a picture taken at one moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Literal

from threadsafe_timeout._introspection.frames import frames_of_others, users_frame
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._pool.worker import Worker
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["PoolHealth", "WorkerHealth", "WorkerState", "deadline_of", "health_of"]

WorkerState = Literal["idle", "running", "overdue", "interrupting", "abandoned"]


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One worker: its thread's name, its state, and what it is doing.

    - `state`: `idle`, `running`, `overdue` (its task was cancelled and has not ended), `interrupting` (it has not ended
      after another `grace`), or `abandoned`
    - `task`, `key`: the task's name, and the key of its saved result
    - `started`: when the task started, in seconds since the epoch
    - `elapsed`: seconds since then
    - `deadline_left`: seconds until its deadline; negative after it, None without one
    - `last_progress`: seconds since the task last reached a cooperative point or a patched call; None if it has not yet
    - `where`: the file, line and function of your code that it is in
    """

    worker: str
    state: WorkerState
    task: str | None = None
    key: str | int | None = None
    started: float | None = None
    elapsed: float | None = None
    deadline_left: float | None = None
    last_progress: float | None = None
    where: tuple[str, int, str] | None = None


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """A pool: its number of workers (`width`), of pending tasks, and each of its workers, also abandoned ones."""

    pool: str
    width: int
    pending: int
    workers: tuple[WorkerHealth, ...]

    @property
    def overdue(self) -> tuple[WorkerHealth, ...]:
        """The workers whose task should have ended: those that are overdue, interrupting or abandoned."""
        return tuple(one for one in self.workers if one.state not in ("idle", "running"))


def health_of(crew: Crew) -> PoolHealth:
    """The picture."""
    with crew.lock:
        pairs = [(worker, worker.task) for worker in crew.workers]
        stuck = [worker for worker in list(crew.abandoned) if worker.thread.is_alive()]
        pending = len(crew.tasks)
    now = _clock.monotonic()
    idents = [worker.thread.ident or -1 for worker in (*(worker for worker, _ in pairs), *stuck)]
    with frames_of_others(*idents) as frames:
        seen = [_of_worker(worker, task, frames, now) for worker, task in pairs]
        seen += [_of_abandoned(worker, frames, now) for worker in stuck]
    return PoolHealth(crew.prefix, crew.width, pending, tuple(sorted(seen, key=lambda one: one.worker)))


def _of_worker(worker: Worker, task: TaskFuture | None, frames: dict[int, FrameType], now: float) -> WorkerHealth:
    scope = task._scope if task is not None else None
    if task is None or scope is None or scope._state == _around.NEW:
        return WorkerHealth(worker.thread.name, "idle")
    state: WorkerState = "running"
    if task.overdue:
        state = "interrupting" if task._insisting else "overdue"
    found = _at_work(worker, state, task._task_name(), task._options.key, scope, frames, now)
    return found if task._away is None else replace(found, where=task._away.where)


def _of_abandoned(worker: Worker, frames: dict[int, FrameType], now: float) -> WorkerHealth:
    event, scope = worker.stuck_in, worker.stuck_scope
    if event is None or scope is None:  # it was given up on just now
        return WorkerHealth(worker.thread.name, "abandoned")
    return _at_work(worker, "abandoned", event.task, event.key, scope, frames, now)


def _at_work(
    worker: Worker, state: WorkerState, task: str | None, key: str | int | None, scope: CancelScope,
    frames: dict[int, FrameType], now: float,
) -> WorkerHealth:  # fmt: skip
    elapsed = now - scope._entered_at
    deadline = deadline_of(scope)
    progress = getattr(scope, "_progress", None)
    return WorkerHealth(
        worker.thread.name, state, task, key, _clock.wall_time() - elapsed, elapsed,
        None if deadline == math.inf else deadline - now, None if progress is None else now - progress,
        users_frame(frames.get(worker.thread.ident or -1)),
    )  # fmt: skip


def deadline_of(scope: CancelScope | None) -> float:
    """The earliest deadline around, also when it has passed."""
    earliest = math.inf
    while scope is not None:
        if scope._state != _around.DONE:
            earliest = min(earliest, scope._deadline)
        scope = scope._parent
    return earliest
