"""What the guard would have done to recorded conversations: ended, saved, harmed, by kind of loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from threadsafe_timeout._guard.experience import Experience
from threadsafe_timeout._guard.limits import limits_from
from threadsafe_timeout._guard.loops import Loop, LoopGuard
from threadsafe_timeout._guard.transcripts import Transcript

__all__ = ["Check", "Row", "ended_at"]

_EXAMPLES = 3


@dataclass(slots=True)
class Row:
    """The conversations that one limit would have ended. `harmed`: successful ones in which a tool still succeeded
    after the stop."""

    limit: str
    kind: str = ""
    ended: int = 0
    saved: int = 0
    harmed: int = 0
    early: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, transcript: Transcript, loop: Loop) -> None:
        saved = len(transcript.turns) - loop.turn
        self.kind = loop.kind
        self.ended += 1
        self.early += loop.early
        self.saved += saved
        self.harmed += bool(transcript.success) and transcript.worked_after(loop.turn)
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{transcript.name}: {loop.detail}; turn {loop.turn} of {len(transcript.turns)}")


class Check:
    """Counts over many conversations; `learn`: with what the earlier ones taught."""

    def __init__(self, limits: Mapping[str, Any] | None = None, *, learn: bool = False, **reading: Any) -> None:
        self.limits: dict[str, Any] = limits_from(limits or {})
        self._reading = reading
        self._experience = Experience(quiet=True) if learn else None
        self.rows = {name: Row(name) for name, limit in self.limits.items() if limit.stop is not None}
        self.runs = self.calls = self.successful = self.unread = self.mendable = 0

    def add(self, transcript: Transcript) -> None:
        """Look at one conversation."""
        self.runs += 1
        self.calls += len(transcript.turns)
        self.successful += bool(transcript.success)
        guard = LoopGuard(experience=self._experience, model=transcript.model, **self._reading, **self.limits)
        loop = ended_at(transcript, guard)
        self.unread += guard.unread
        self.mendable += guard.cut_answers
        if loop is not None and loop.turn < len(transcript.turns):  # a stop at the last turn changes nothing
            self.rows[loop.limit].add(transcript, loop)

    @property
    def total(self) -> Row:
        """All kinds together."""
        total = Row("all")
        for row in self.rows.values():
            total.ended += row.ended
            total.saved += row.saved
            total.harmed += row.harmed
            total.early += row.early
        return total

    def share_saved(self, row: Row) -> float:
        """Calls saved, in per cent of all calls."""
        return 100 * row.saved / self.calls if self.calls else 0.0

    def share_harmed(self, row: Row) -> float:
        """Successful runs harmed, in per cent of the successful ones."""
        return 100 * row.harmed / self.successful if self.successful else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "runs": self.runs,
            "calls": self.calls,
            "successful": self.successful,
            "unread_messages": self.unread,
            "cut_answers": self.mendable,
            "learn": self._experience is not None,
            "limits": {name: str(limit) for name, limit in self.limits.items()},
            "all": self._row(self.total),
            "by_limit": {name: self._row(row) for name, row in self.rows.items()},
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "kind": row.kind or None,
            "runs_ended": row.ended,
            "runs_ended_early": row.early,
            "calls_saved": row.saved,
            "calls_saved_percent": round(self.share_saved(row), 3),
            "successful_runs_harmed": row.harmed,
            "successful_runs_harmed_percent": round(self.share_harmed(row), 3),
            "examples": row.examples,
        }


def ended_at(transcript: Transcript, guard: LoopGuard) -> Loop | None:
    """The loop at which the guard ends this conversation, seen as an executor's guard sees it: turn by turn."""
    guard.see(transcript.prompt)
    for said, heard in transcript.turns:
        if guard.say(said) is None:
            guard.see(heard)
            guard.settle()
        if guard.loop is not None:
            break
    return guard.finish()
