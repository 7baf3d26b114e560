"""`concurrent.futures.ThreadPoolExecutor` becomes the pool that heals, wherever it was imported to."""

from __future__ import annotations

import sys
from sys import _getframe
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._pool.thread_pool import StandardThreadPoolExecutor, ThreadPoolExecutor

__all__ = ["MODULES", "apply"]

MODULES = ("concurrent.futures.thread",)


def apply(module: ModuleType, patching: Patching) -> None:
    # A class of its own: when it is taken out again, wherever it was imported to, a program's own use of
    # threadsafe_timeout.ThreadPoolExecutor is left alone.
    class Replacement(ThreadPoolExecutor):
        __doc__ = ThreadPoolExecutor.__doc__

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            # Dask's own pools are not the program's: their tasks are not counted, saved, or sent to a cluster.
            if str(_getframe(1).f_globals.get("__name__")).partition(".")[0] == "distributed":
                return StandardThreadPoolExecutor(*args, **kwargs)
            return super().__new__(cls)

    Replacement.__name__ = Replacement.__qualname__ = "ThreadPoolExecutor"
    # concurrent.futures itself takes the name from this module when it is first asked for it.
    patching.replace(module, "ThreadPoolExecutor", Replacement)
    patching.on_uninstall(_leave_cluster)


def _leave_cluster() -> None:
    cluster = sys.modules.get("threadsafe_timeout.engines.cluster")
    if cluster is not None:
        cluster.leave_shared()
