"""What a detector is."""

from __future__ import annotations

from typing import NamedTuple

from threadsafe_timeout._guard.streaks import NoActionStreak
from threadsafe_timeout._guard.turns import Turn

__all__ = ["REMEMBERED", "Detector", "Stage"]

REMEMBERED = 256  # calls and results of a task that are known again


class Stage(NamedTuple):
    """A point on the way to a limit. `name` is for a person; `needed`: so many loops must have got there, and none been
    left, before one is ended there; `reached` is the count of a loop ended there."""

    name: str
    needed: int
    reached: int


class Detector:
    """One kind of loop. `limit` is the name of its threshold, `kind` what a result's `error_type` says."""

    limit = ""
    kind = ""

    def __init__(self, streak: NoActionStreak) -> None:
        self.streak = streak

    def said(self, turn: Turn) -> int:
        return 0

    def answered(self, turn: Turn) -> int:
        return 0

    def stage(self) -> Stage | None:
        """How far the loop has come, where the run may have taught that none is left from there on."""
        return None

    def explain(self, count: int) -> str:
        """For a person. No text of the model's: what a runner makes of a message is decided by its words."""
        raise NotImplementedError
