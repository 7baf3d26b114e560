"""`DaskExecutor`: the pool's tasks on the machines of a Dask cluster.

A thread of the pool stands for each task in flight: it sends the task and waits for its answer, under the task's scope.
So deadlines, `cancel()`, saving, events, `health()` and the files of the run are the pool's own. On the cluster's
workers a task runs in a process that can be killed, as with `isolate="process"`.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from threadsafe_timeout._checks import check_seconds, check_whole, missing_for_cluster
from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout._introspection.names import name_of
from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._pool.executor import ThreadPoolExecutor
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.time_left import time_remaining
from threadsafe_timeout._settings import Settings, settings
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.engines.process import about_task, outcome_of, task_name
from threadsafe_timeout.engines.sending import pack_call

if TYPE_CHECKING:
    from threadsafe_timeout._pool.task_scope import TaskScope
    from threadsafe_timeout.checkpoint import CheckpointWriter
    from threadsafe_timeout.engines._link import Link

__all__ = ["DaskExecutor", "Factory", "leave_shared", "run_on_shared", "sent"]

_RECONNECT = 300.0  # seconds

Factory = Callable[[str], Callable[..., Any]] | str


def sent(link: Link, function: Callable[..., Any], factory: Factory | None) -> Callable[..., Any]:
    """`function`, which runs on the cluster each time it is called: in a thread of a pool, for its task."""

    @transparent
    def run(*args: Any, **kwargs: Any) -> Any:
        _around.raise_if_cancelled()
        scope: TaskScope = _around.current_scope()  # type: ignore[assignment]  # that of the pool's task
        name = task_name()
        about = about_task(pack_call(function, args, kwargs, factory=factory, far=True), name)
        about["modules"] = _modules(function, factory)
        start = _Start(scope)
        told = link.run(pickle.dumps(about), start.limit, scope._grace_seconds(), start.begin)
        answer, pid, over = pickle.loads(told)
        if over and not _around.cancel_pending():  # there the time was up a moment earlier
            scope.deadline = _clock.monotonic()
        return outcome_of(answer, name, pid)

    run.__qualname__ = name_of(function, ())
    return run


def _modules(function: Callable[..., Any], factory: Factory | None) -> list[str]:
    """Those that the process of the task is going to import, most likely."""
    made_in = factory.partition(":")[0] if isinstance(factory, str) else getattr(factory, "__module__", None)
    found = {getattr(function, "__module__", None), made_in} - {None, "__main__", "builtins"}
    return sorted(name for name in found if isinstance(name, str))


class _Start:
    """The time of a task begins when a worker of the cluster begins with it; also if that is the second time."""

    def __init__(self, scope: TaskScope) -> None:
        self._scope = scope
        options = scope.task._options if scope.task is not None else None
        self._timeout = math.inf if options is None or options.timeout is None else options.timeout
        self._until = math.inf if options is None or options.deadline is None else options.deadline

    def limit(self) -> float:
        """About to be sent: it waits for a place. The seconds it may run then."""
        if self._timeout != math.inf:
            self._move(self._until)
        return min(self._timeout, time_remaining())

    def begin(self, _worker: str) -> None:
        now, task = _clock.monotonic(), self._scope.task
        if task is not None:
            task._begun_at = now
        if self._timeout != math.inf and not self._scope._cancelled:
            self._move(min(self._until, now + self._timeout))

    def _move(self, when: float) -> None:
        self._scope.deadline = when
        self._scope._budget = self._timeout  # for the error's text


_numbers = itertools.count()
_SHARED_WIDTH = 256  # tasks that a cluster of the program's own runs at a time, for all of its pools, at the least
_shared: dict[str | None, Link] = {}  # by address; guarded by _shared_lock
_shared_lock = threading.Lock()


def run_on_shared(width: int, chosen: Settings) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a pool of the program with `engine="dask"`: what has its tasks run on the one cluster that all such pools
    have."""
    from threadsafe_timeout.engines._link import Link

    address = chosen.engine_address
    with _shared_lock:
        if address not in _shared or _shared[address].is_lost():
            _shared[address] = Link(address, max(width, _SHARED_WIDTH), os.cpu_count() or 1, _RECONNECT)
        link = _shared[address]
    return lambda function: sent(link, function, chosen.task_factory)


def leave_shared() -> None:
    """Its pools are not to be of that kind any more."""
    with _shared_lock:
        links = [*_shared.values()]
        _shared.clear()
    for link in links:
        link.close()


def _check(address: object, max_workers: object, reconnect: object) -> None:
    missing = missing_for_cluster()
    if missing is not None:
        raise MissingExtraError("DaskExecutor", "cluster", missing)
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address must be that of a scheduler, as in 'tcp://10.0.0.1:8786', got {address!r}")
    check_seconds("reconnect", reconnect)
    if max_workers is not None:
        check_whole("max_workers", max_workers, 1)


class DaskExecutor(ThreadPoolExecutor):
    """A pool whose tasks run on a Dask cluster, each in a process of its own that can be killed.

    - `address`: of the cluster's scheduler, as in `tcp://10.0.0.1:8786`. None: a cluster of its own on this machine,
      which ends with the pool.
    - `max_workers`: how many tasks are in flight at a time (default: as many as the cluster has threads; in one of its
      own, as the standard pool has). A thread of this process waits for each.
    - `task_factory`: makes functions that cannot travel anew where the task runs. A function that gets the name of the
      task's function and returns one, or `"module:function"` (default: the `task_factory` setting, none).
    - `reconnect`: seconds that a lost scheduler is waited for, before all tasks fail with `ClusterLost`.

    `task_timeout`, `grace`, `max_abandoned`, `on_exhausted`, `on_expired_wait` and `checkpoint` are those of the
    `ThreadPoolExecutor`, and so are its methods and its futures. A task's time begins when a worker begins with it.

    A task whose node is lost is run again on another one. So tasks are run at least once; one outcome counts.

    Raises `MissingExtraError` without the extra `cluster`, and `ClusterLost` if the scheduler cannot be reached.
    """

    _by_setting = False

    def __init__(
        self,
        address: str | None = None,
        max_workers: int | None = None,
        *,
        task_timeout: float | None = None,
        grace: float | None = None,
        max_abandoned: int | None = None,
        on_exhausted: Literal["raise", "exit"] | None = None,
        on_expired_wait: Literal["cancel", "single", "wait"] | None = None,
        checkpoint: CheckpointWriter | str | os.PathLike[str] | None = None,
        task_factory: Factory | None = None,
        reconnect: float = _RECONNECT,
        name: str = "",
    ) -> None:
        _check(address, max_workers, reconnect)
        cores = os.cpu_count() or 1
        width = max_workers or min(32, cores + 4)
        from threadsafe_timeout.engines._link import Link

        link = Link(address, width, min(cores, width), reconnect)
        try:
            if max_workers is None and address is not None:
                width = max(1, link.slots())
            super().__init__(
                width, name or f"DaskExecutor-{next(_numbers)}", task_timeout=task_timeout, grace=grace,
                max_abandoned=max_abandoned, on_exhausted=on_exhausted, on_expired_wait=on_expired_wait,
                checkpoint=checkpoint,
            )  # fmt: skip
        except BaseException:
            link.close()
            raise
        factory = task_factory or settings().task_factory
        self._run_elsewhere(lambda function: sent(link, function, factory))
        self._link = link

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        """Like the pool's. When it has waited for the tasks, the cluster is left; one of the pool's own ends."""
        super().shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)
        if wait and not self._crew._has_work():
            self._link.close()
