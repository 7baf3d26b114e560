"""How many tasks there are, and how they have ended, in all pools since some moment.

Nothing is done per task: pools count their own. What is held of one that is over is its counts.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from threadsafe_timeout._record.at_work import async_crews_at_work, crews_at_work

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.state import Counts
    from threadsafe_timeout.engines._async_crew import AsyncCrew

__all__ = ["Tally", "begin_among", "is_child"]

_FEW = 32  # pools
_ENDS = ("completed", "failed", "cancelled", "abandoned", "timed_out", "loops")


class Tally:
    """The counts, of the pools that it was given."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a finaliser may run in here
        # All guarded by _lock:
        self._pools: dict[Counts, weakref.ref[Crew | AsyncCrew]] = {}
        self._many = _FEW
        self._over: Counter[str] = Counter()  # of pools that are gone, less what there was at the beginning

    def add(self, crew: Crew | AsyncCrew) -> None:
        """Count the tasks of this pool, if it is not known yet."""
        with self._lock:
            self._pools.setdefault(crew.counts, weakref.ref(crew))
            if len(self._pools) > self._many:
                self._drop_those_gone()
                self._many = _FEW + 2 * len(self._pools)

    def take_off(self, crew: Crew | AsyncCrew) -> None:
        """What this pool has done so far was before the beginning."""
        with self._lock:
            self._over.subtract(_ended(crew.stats()))

    def _drop_those_gone(self) -> None:
        for counts, crew in list(self._pools.items()):
            if crew() is None:  # so its workers are gone too, and have added their counts
                del self._pools[counts]
                self._over.update(_of_gone(counts))

    def totals(self) -> Counter[str]:
        """The counts of `Crew.stats`, and `finished`; of the `failed`, those that were not timed out."""
        with self._lock:
            found = Counter(self._over)
            for counts, reference in list(self._pools.items()):
                crew = reference()
                if crew is None:
                    found.update(_of_gone(counts))
                else:
                    stats = crew.stats()
                    found.update(_ended(stats), pending=stats["pending"], running=stats["running"])
        found["finished"] = found["completed"] + found["failed"] + found["abandoned"] + found["cancelled"]
        found["failed"] = max(0, found["failed"] + found["abandoned"] - found["timed_out"])
        return found


def _of_gone(counts: Counts) -> dict[str, int]:
    return {
        "completed": counts.completed, "failed": counts.failed, "cancelled": counts.cancelled,
        "abandoned": counts.given_up, "timed_out": counts.timed_out, "loops": counts.loops,
    }  # fmt: skip


def _ended(stats: dict[str, int]) -> dict[str, int]:
    return {name: stats[name] for name in _ENDS}


class Beginner(Protocol):
    """An observer that hears of pools as they begin."""

    def began(self, crew: Crew) -> None: ...

    def opened(self, crew: AsyncCrew) -> None: ...


def begin_among(one: Beginner) -> None:
    """Have it hear of the pools that have workers already. If it counts with a tally, it counts from now on."""
    tally: Tally | None = getattr(one, "tally", None)
    for crew in crews_at_work():
        if tally is not None and not crew.inner:
            tally.take_off(crew)
        one.began(crew)
    for async_crew in async_crews_at_work():
        if tally is not None:
            tally.take_off(async_crew)
        one.opened(async_crew)


def is_child() -> bool:
    """Whether it is for another process to speak, which has started this one as a part of itself."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None
