"""Pools of processes, `ProcessPoolExecutor` and `multiprocessing.Pool`: whose they are, and how their workers end.

Guarantees:

- A pool belongs to the task that made it, whichever thread has it start a worker; and to nobody once others, who are
  not that task's, have given it work.
- Workers that were killed are not replaced, and nothing waits for them at exit.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from threadsafe_timeout._processes.started import Ended, ProcessOwner, note, owners
from threadsafe_timeout._processes.tree import kill_tree

__all__ = ["ExecutorWorkers", "PoolWorkers", "executors", "note_call", "note_executor", "use"]

_workers: weakref.WeakKeyDictionary[Any, Workers] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # guards the list; a finaliser may make one
executors: list[ExecutorWorkers] = []  # all that may have work: they may be let go of before that is done


class Workers:
    """The worker processes of one pool."""

    ends_at_exit = True

    def __init__(self, pool: Any) -> None:
        self.starter = os.getpid()
        self._pool = weakref.ref(pool)
        self._stopped = False
        self._owners = weakref.WeakSet(owners())
        self._shared = not self._owners
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
            self._stop(pool)
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
        for process in self._processes():
            with suppress(ValueError, AssertionError):  # it was closed; or this is a forked child, and it is not ours
                if process.pid is not None and process.exitcode is None:  # a look that reaps it
                    running.append(process)
        return running

    def _processes(self) -> list[Any]:
        raise NotImplementedError

    def _is_closed(self, pool: Any) -> bool:
        raise NotImplementedError

    def _stop(self, pool: Any) -> None:
        """Have it start no others in the place of those that are killed."""


class ExecutorWorkers(Workers):
    """The workers of a ProcessPoolExecutor. One that is killed breaks it: it starts no others."""

    def __init__(self, executor: Any) -> None:
        # Whose calls they are, as far as they are tasks'.
        self.clients: weakref.WeakKeyDictionary[Any, list[ProcessOwner]] = weakref.WeakKeyDictionary()
        # The thread that looks after them, which the executor may be let go of before. Weakly: what it holds is to be
        # closed when it has ended.
        self._manager: Callable[[], Any] = lambda: None
        super().__init__(executor)

    def submitted(self, executor: Any, future: Any, users: list[ProcessOwner]) -> None:
        thread = executor._executor_manager_thread
        if thread is not None and self._manager() is not thread:
            self._manager = weakref.ref(thread)
        if users:
            self.clients[future] = users

    def unfinished(self) -> list[Any]:
        """The futures of the calls that they still have."""
        manager = self._manager()
        pending = {} if manager is None else manager.pending_work_items
        return [item.future for item in list(pending.values()) if not item.future.done()]

    def _processes(self) -> list[Any]:
        manager = self._manager()
        return [] if manager is None or not manager.is_alive() else list(manager.processes.values())

    def _is_closed(self, executor: Any) -> bool:
        return bool(executor._shutdown_thread)


class PoolWorkers(Workers):
    """The workers of a multiprocessing.Pool."""

    def __init__(self, pool: Any) -> None:
        self._list: list[Any] = pool._pool
        super().__init__(pool)

    def _processes(self) -> list[Any]:
        return list(self._list)

    def _is_closed(self, pool: Any) -> bool:
        return pool._state != "RUN"  # type: ignore[no-any-return]  # a string

    def _stop(self, pool: Any) -> None:
        # Its finaliser, which the exit would call, waits for a lock that a killed worker may have held. What else that
        # does is done here: its threads end.
        pool._terminate.cancel()
        pool._state = "TERMINATE"
        for thread in (pool._worker_handler, pool._task_handler, pool._result_handler):
            thread._state = "TERMINATE"
        pool._change_notifier.put(None)


def use(pool: Any) -> list[ProcessOwner]:
    """To be called when somebody gives a pool work: the tasks that do."""
    workers = _workers.get(pool)
    return [] if workers is None else workers.use()


def note_executor(executor: Any) -> None:
    """Note a new ProcessPoolExecutor."""
    workers = ExecutorWorkers(executor)
    with _lock:
        executors[:] = [one for one in executors if not one.is_over()]
        executors.append(workers)


def note_call(executor: Any, future: Any, users: list[ProcessOwner]) -> None:
    """Note which tasks have submitted a call to an executor."""
    workers = _workers.get(executor)
    if isinstance(workers, ExecutorWorkers):
        workers.submitted(executor, future, users)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    executors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
