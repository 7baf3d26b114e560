"""The pools that have workers already, for an observer that is attached later."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout.engines._async_crew import AsyncCrew

__all__ = ["async_crews", "async_crews_at_work", "crews_at_work"]


def crews_at_work() -> list[Crew]:
    return [crew for crew in _crews_of("threadsafe_timeout._pool.exit") if crew.workers]


def async_crews() -> list[AsyncCrew]:
    """Those of `AsyncPool`s that were entered."""
    return _crews_of("threadsafe_timeout.engines._async_crew")


def async_crews_at_work() -> list[AsyncCrew]:
    """Those that have been given tasks, and are not left."""
    return [crew for crew in async_crews() if crew.submitted and not crew.is_gone()]


def _crews_of(module: str) -> list[Any]:
    """A program that has no pool yet does not load what a pool needs."""
    pools = sys.modules.get(module)
    while pools is not None:
        try:
            return list(getattr(pools, "crews", ()))  # while another thread is importing it, it has none yet
        except RuntimeError:  # a pool was made or dropped meanwhile
            continue
    return []
