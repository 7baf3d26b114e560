"""What one run teaches about its loops: from which stage on, by which model, none has ever been left.

A loop *survives* a stage (three cut tags in a row, say) if the task calls a tool after it, and is *lost* if it does
not. Once as many as the stage needs were lost and none survived, the next is ended there. Every tenth still goes on, so
that a model that can leave it is noticed; one that does makes the stage careful again: four times as many are needed.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

__all__ = ["Experience"]

logger = logging.getLogger("threadsafe_timeout")

# How many a stage needs is the detectors' to say: of 150 in a row lost, a model that leaves one loop in 50 is mistaken
# for hopeless once in 20 runs; the tenths then show it.
_PROBE = 10
_CAREFUL = 4
_KEYS = 1024


@dataclass(slots=True)
class _Seen:
    lost: int = 0  # since the last one that was survived
    survived: int = 0
    chances: int = 0  # loops that could have been ended early
    told: bool = False

    def enough(self, needed: int) -> bool:
        return self.lost >= int(needed * _CAREFUL ** min(self.survived, 8))


class Experience:
    """Shared by the guards of one run; any thread may use it. It is kept in memory only. `quiet`: it logs nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, str], _Seen] = {}  # guarded by _lock

    def _of(self, limit: str, stage: str, model: str) -> _Seen:
        key = limit, stage, model
        if key not in self._seen and len(self._seen) >= _KEYS:
            self._seen.pop(next(iter(self._seen)))
        return self._seen.setdefault(key, _Seen())

    def may_end(self, limit: str, stage: str, needed: int, model: str) -> bool:
        """Whether the loop at hand, which has come to this stage, may be ended there."""
        with self._lock:
            seen = self._of(limit, stage, model)
            if not seen.enough(needed):
                return False
            seen.chances += 1
            first, seen.told = not seen.told, True
            early = seen.chances % _PROBE != 0
            lost = seen.lost
        if first and not self._quiet:
            logger.warning(
                "threadsafe-timeout: %d tasks of %s came to %s (%s) and none called a tool afterwards: from now on "
                "such a loop is ended there (one in %d goes on)",
                lost, model or "this run", stage, limit, _PROBE, extra={"event": "guard_learned"},
            )  # fmt: skip
        return early

    def lost(self, limit: str, stage: str, model: str) -> None:
        """A task ended after that stage, and had the chance to leave the loop."""
        with self._lock:
            self._of(limit, stage, model).lost += 1

    def survived(self, limit: str, stage: str, model: str) -> None:
        """A task left such a loop after that stage and called a tool."""
        with self._lock:
            seen = self._of(limit, stage, model)
            had, seen.told = seen.told, False
            seen.lost = 0
            seen.survived += 1
        if had and not self._quiet:
            logger.warning(
                "threadsafe-timeout: %s called a tool after %s (%s): such loops get their full length again",
                model or "a task of this run", stage, limit, extra={"event": "guard_careful"},
            )  # fmt: skip
