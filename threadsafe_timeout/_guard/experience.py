"""What one run teaches about its loops: which kind, by which model, has never been left again.

A loop is *survived* if the task called a tool after it, *lost* if it did not. Once `NEEDED` loops of one kind and
model were lost and none survived, the next may be ended one turn after its `learns`; once half as many more were, at
it. Every tenth still gets its full length, so that a model that can leave it is noticed; one that does makes the kind
careful again, and then four times as many are needed.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

__all__ = ["Experience"]

logger = logging.getLogger("threadsafe_timeout")

# Of the recorded models that leave a cut tag at all, one does in 5 % of its loops and one in 2 %: after 100 lost ones
# in a row the first is mistaken for hopeless once in 170 runs, the second once in eight; the tenths then show it.
NEEDED = 100
_PROBE = 10
_CAREFUL = 4
_KEYS = 256


@dataclass(slots=True)
class _Seen:
    lost: int = 0  # since the last one that was survived
    survived: int = 0
    chances: int = 0  # loops that could have been ended early
    told: bool = False

    @property
    def needed(self) -> int:
        return int(NEEDED * _CAREFUL ** min(self.survived, 8))


class Experience:
    """What a run has shown about loops. The guards of one run share it; any thread may use it.

    It is kept in memory only. With `quiet` it logs nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], _Seen] = {}  # guarded by _lock

    def _of(self, kind: str, model: str) -> _Seen:
        key = kind, model
        if key not in self._seen and len(self._seen) >= _KEYS:
            self._seen.pop(next(iter(self._seen)))
        return self._seen.setdefault(key, _Seen())

    def may_end_early(self, kind: str, model: str) -> int:
        """Whether this loop may be ended before its limit. 0: no, 1: a turn later, 2: at once."""
        with self._lock:
            seen = self._of(kind, model)
            if seen.lost < seen.needed:
                return 0
            sure = seen.lost >= seen.needed * 3 // 2
            seen.chances += 1
            first, seen.told = not seen.told, True
            early = seen.chances % _PROBE != 0
        if first and not self._quiet:
            logger.warning(
                "threadsafe-timeout: %d tasks of %s ended in a loop of the kind %s and none left it: from now on such "
                "a loop is ended earlier (one in %d still gets its full length)",
                seen.lost, model or "this run", kind, _PROBE, extra={"event": "guard_learned"},
            )  # fmt: skip
        return (2 if sure else 1) if early else 0

    def lost(self, kind: str, model: str) -> None:
        """Note that a task ended in such a loop, although it had the chance to leave it."""
        with self._lock:
            self._of(kind, model).lost += 1

    def survived(self, kind: str, model: str) -> None:
        """Note that a task left such a loop and called a tool."""
        with self._lock:
            seen = self._of(kind, model)
            had, seen.told = seen.told, False
            seen.lost = 0
            seen.survived += 1
        if had and not self._quiet:
            logger.warning(
                "threadsafe-timeout: %s left a loop of the kind %s: such loops get their full length again",
                model or "a task of this run", kind, extra={"event": "guard_careful"},
            )  # fmt: skip
