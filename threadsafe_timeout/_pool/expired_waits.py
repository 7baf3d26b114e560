"""A time limit made of a pool: `with ThreadPoolExecutor(1) as pool: … pool.submit(f).result(timeout=t)`, and leave.

The standard pool waits for the task after all when it is left. Here a task is cancelled then, if its time limit has
passed and nobody wants its outcome any more:

- one wait for it with a timeout (`result`, `exception`, `wait`, `as_completed`, `map`) has expired;
- nobody has waited for it since, nor looked with a timeout of 0: a future that is polled is not under a time limit;
- nobody waits for it now, and it has no callback;
- nothing that still runs can ask for its outcome: see `fetchable`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING

from threadsafe_timeout._pool.events import describe
from threadsafe_timeout._pool.fetchable import may_be_fetched
from threadsafe_timeout._pool.telling import event_of

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.task import TaskFuture

__all__ = ["POLICIES", "cancel_at_exit", "cancel_expired"]

POLICIES = ("cancel", "single", "wait")
_REASON = "its only wait with a timeout had expired, and the pool was left"
_logger = logging.getLogger("threadsafe_timeout")


def cancel_expired(crew: Crew, frame: FrameType) -> None:
    """Called when a pool is left in `frame`: cancel what was under a time limit that has passed."""
    tasks = _expired(crew)
    if not tasks:
        return
    with crew.lock:
        internal = [crew.tasks, crew.owed, *(worker.hand for worker in crew.workers)]
    if may_be_fetched(tasks, frame, internal):
        _logger.info(
            "threadsafe-timeout: pool %s is left and waits for %s, as the standard pool does: a wait for it has "
            "expired, but its future may still be asked for its outcome", crew.prefix, _names(tasks),
        )  # fmt: skip
        return
    _cancel(crew, tasks)


def cancel_at_exit(crew: Crew) -> None:
    """The same when the interpreter exits: nobody is left to ask, unless threads of the program's own still run."""
    main = threading.main_thread()
    if not any(thread is not main and not thread.daemon for thread in threading.enumerate()):
        _cancel(crew, _expired(crew))


def _expired(crew: Crew) -> list[TaskFuture]:
    policy = crew.on_expired_wait
    if policy == "wait" or (policy == "single" and (crew.width, crew.submitted) != (1, 1)):
        return []
    return [task for task in crew.unfinished() if task.is_past_its_limit and not task.overdue]


def _cancel(crew: Crew, tasks: Iterable[TaskFuture]) -> None:
    for task in tasks:
        crew.events.put(
            logging.WARNING,
            f"task {describe(task._task_name(), task._options.key)} is cancelled: {_REASON}. "
            "If it should go on to its end, set on_expired_wait='wait', or wait for it without a timeout",
            event_of(task, "limit"),
        )  # fmt: skip
        task.hurry(_REASON)
    crew.events.tell()


def _names(tasks: Iterable[TaskFuture]) -> str:
    return ", ".join(sorted({describe(task._task_name(), task._options.key) for task in tasks}))
