"""`multiprocessing.pool.ThreadPool` becomes the pool that heals, wherever it was imported to; and with it
`multiprocessing.dummy.Pool`, which looks it up whenever it is called."""

from __future__ import annotations

from types import ModuleType

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._pool.dummy_pool import ThreadPool

__all__ = ["MODULES", "apply"]

MODULES = ("multiprocessing.pool",)


def apply(module: ModuleType, patching: Patching) -> None:
    patching.replace(module, "ThreadPool", ThreadPool)
