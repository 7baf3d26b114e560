"""The way in to `ThreadPool`, which `dummy_pool` has: see `executor`, which says why."""

from __future__ import annotations

import multiprocessing.pool  # noqa: F401  # first: its patch imports `dummy_pool`, which derives from what is in it

from threadsafe_timeout._pool.dummy_pool import ThreadPool

__all__ = ["ThreadPool"]
