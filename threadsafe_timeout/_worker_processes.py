"""Pools of processes, `ProcessPoolExecutor` and `multiprocessing.Pool`: whose they are, and how their workers end.

Guarantees:

- A pool belongs to the task that made it, whichever thread has it start a worker; and to nobody once others, who are
  not that task's, have given it work.
- Workers that were killed are not replaced, and nothing waits for them at exit.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from threadsafe_timeout._process_tree import kill_tree
from threadsafe_timeout._processes import Ended, ProcessOwner, note, owners

__all__ = ["Workers", "executors", "note_executor", "note_pool", "use"]

_workers: weakref.WeakKeyDictionary[Any, Workers] = weakref.WeakKeyDictionary()
executors: list[Workers] = []  # all that may have work: they may be let go of before that is done


class Workers:
    """The worker processes of one pool."""

    ends_at_exit = True

    def __init__(
        self,
        pool: Any,
        processes: Callable[[], Iterable[Any]],
        is_closed: Callable[[Any], bool],
        stop: Callable[[Any], object] = lambda pool: None,
        pending: Mapping[Any, Any] | None = None,
    ) -> None:
        self.starter = os.getpid()
        self._pool = weakref.ref(pool)
        self._processes = processes
        self._is_closed = is_closed
        self._stop = stop
        self._stopped = False
        self.pending: Mapping[Any, Any] = {} if pending is None else pending  # an executor's, by number
        self._owners = weakref.WeakSet(owners())
        self._shared = not self._owners
        # Whose work it is that they have, as far as it is a task's.
        self.clients: weakref.WeakKeyDictionary[Any, list[ProcessOwner]] = weakref.WeakKeyDictionary()
        _workers[pool] = self
        note(self, self._owners)

    def use(self) -> list[ProcessOwner]:
        """Somebody gives them work: the tasks that do."""
        users = owners()
        if not self._shared and not any(user in self._owners for user in users):
            self._shared = True
        return users

    @property
    def kept(self) -> bool:
        return self._shared

    @property
    def ends_with_its_task(self) -> bool:
        pool = self._pool()
        return pool is None or self._is_closed(pool)

    def end(self) -> list[Ended]:
        pool = self._pool()
        if pool is not None and not self._stopped:
            self._stop(pool)  # it would start others in their place
        self._stopped = True
        return [Ended(one.name, one.pid) for one in self._running() if kill_tree(one.pid, other_sessions=False)]

    def is_over(self) -> bool:
        return self._pool() is None and not self._running()

    def settle(self) -> bool:
        if self._stopped:
            self.end()  # one may have been started in the last moment
        return not self._running()

    def _running(self) -> list[Any]:
        running = []
        for process in list(self._processes()):
            with suppress(ValueError, AssertionError):  # it was closed; or this is a forked child, and it is not ours
                if process.pid is not None and process.exitcode is None:  # a look that reaps it
                    running.append(process)
        return running


def use(pool: Any) -> list[ProcessOwner]:
    """To be called when somebody gives a pool work: the tasks that do."""
    workers = _workers.get(pool)
    return [] if workers is None else workers.use()


def note_executor(executor: Any) -> None:
    """Note a new ProcessPoolExecutor."""
    executors[:] = [one for one in executors if not one.is_over()]
    executors.append(
        # A killed worker breaks the executor: it starts no other one.
        Workers(
            executor,
            functools.partial(_values, executor._processes),
            lambda executor: executor._shutdown_thread,
            pending=executor._pending_work_items,
        )
    )


def _values(processes: Mapping[int, Any]) -> Iterable[Any]:
    return list(processes.values())


def note_client(executor: Any, future: Any, users: list[ProcessOwner]) -> None:
    """Note which tasks have submitted a call to an executor."""
    workers = _workers.get(executor)
    if workers is not None and users:
        workers.clients[future] = users


def note_pool(pool: Any) -> None:
    """Note a new multiprocessing.Pool."""
    Workers(pool, functools.partial(list, pool._pool), lambda pool: pool._state != "RUN", _stop_pool)


def _stop_pool(pool: Any) -> None:
    """Have the threads of a pool end without starting other workers; and its finaliser, which the exit calls, never
    run: it waits for a lock that a killed worker may have held."""
    pool._terminate.cancel()
    pool._state = "TERMINATE"
    for thread in (pool._worker_handler, pool._task_handler, pool._result_handler):
        thread._state = "TERMINATE"
    pool._change_notifier.put(None)


def _after_fork_in_child() -> None:
    executors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
