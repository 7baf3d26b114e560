"""What runs on the workers of a Dask cluster. A worker's thread starts the process of a task and waits for it.

Guarantees:

- A task's time begins when a worker begins with it; the program is told then. When the time is up, the process ends as
  with `isolate="process"`, also if the program cannot be reached.
- A task whose future the program lets go of, or whose program is gone, ends likewise: that comes through the worker's
  event loop, which is free also when all its threads wait.
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import traceback
from typing import Any

from distributed import WorkerPlugin, get_worker

from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._patching import install as _install
from threadsafe_timeout._scopes.scope import CancelScope
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.engines import _server
from threadsafe_timeout.engines.process import Answer, run_packed
from threadsafe_timeout.engines.sending import pack

__all__ = ["PREFIX", "Letting", "run_there"]

PREFIX = "threadsafe-timeout-"  # of the keys of tasks

_NOBODY_WAITS = "its program has let go of it"
_lock = threading.Lock()
_scopes: dict[str, CancelScope] = {}  # of the tasks that run, by key; guarded by _lock
_let_go: set[str] = set()  # keys of tasks whose thread has not begun; guarded by _lock


class Letting(WorkerPlugin):
    """Ends the tasks that nobody waits for any more."""

    name = "threadsafe-timeout"

    def setup(self, worker: Any) -> None:
        """A worker that has imported the program's main module, as one of a cluster of its own has, is not the program:
        its own pools are not to be patched, nor recorded. (Without a nanny it may be in the program itself.)"""
        if worker.nanny is not None and _install.installed() is not None:
            _install.uninstall()

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        ours = isinstance(key, str) and key.startswith(PREFIX)
        if ours and start in ("executing", "long-running") and finish == "released":
            let_go(key)


def let_go(key: str) -> None:
    with _lock:
        scope = _scopes.get(key)
        if scope is None:
            _let_go.add(key)
    if scope is not None:
        scope.cancel(_NOBODY_WAITS)


def run_there(key: str, topic: str, about: bytes, timeout: float, grace: float) -> bytes:
    """Run a task: the answer of its process, the process's number, and whether its time was up; packed. Nothing if it
    was let go of: should Dask want it after all, it is run again."""
    worker: Any = get_worker()
    # A worker may be a daemon of its nanny's, and those may start no process.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    scope = CancelScope(deadline=_clock.monotonic() + timeout)
    with _lock:
        if key in _let_go:
            _let_go.discard(key)
            return b""
        _scopes[key] = scope
    answer: Answer = ("died", None, "")
    pid = 0
    try:
        worker.log_event(topic, {"key": key, "worker": worker.address})
        told = pickle.loads(about)
        _server.context(told.pop("modules"))
        with scope:
            try:
                answer, pid = run_packed(told, timeout, grace)
            except Cancelled as cancelled:
                answer = ("killed", cancelled._where, "")
                raise
    except Exception as exc:  # no process was to be had
        answer = ("error", pack(exc, far=True), traceback.format_exc())
    finally:
        with _lock:
            _scopes.pop(key, None)
    return b"" if scope.reason == _NOBODY_WAITS else pickle.dumps((answer, pid, scope.cancel_called))
