"""`concurrent.futures.ThreadPoolExecutor` becomes the pool that heals, wherever it was imported to."""

from __future__ import annotations

from types import ModuleType

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._pool.executor import ThreadPoolExecutor

__all__ = ["MODULES", "apply"]

MODULES = ("concurrent.futures.thread",)


def apply(module: ModuleType, patching: Patching) -> None:
    # A class of its own: when it is taken out again, wherever it was imported to, a program's own use of
    # threadsafe_timeout.ThreadPoolExecutor is left alone.
    class Replacement(ThreadPoolExecutor):
        __doc__ = ThreadPoolExecutor.__doc__

    Replacement.__name__ = Replacement.__qualname__ = "ThreadPoolExecutor"
    # concurrent.futures itself takes the name from this module when it is first asked for it.
    patching.replace(module, "ThreadPoolExecutor", Replacement)
