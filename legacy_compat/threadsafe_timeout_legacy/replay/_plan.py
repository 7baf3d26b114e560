"""What is replayed: the options, and everything that follows from them. Stored with a run, so it can be read later."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from threadsafe_timeout.testing.fake_llm import parse_mix

__all__ = ["DEFAULT_MINUTE", "DEFAULT_MIX", "QUICK", "Plan", "load_plan", "save_plan"]

DEFAULT_MIX = "hang=40,trickle=20,search=20,good=20"
DEFAULT_MINUTE = 0.2
# A first look: a fifth of the tasks, and an hour instead of eight.
QUICK: Mapping[str, float | int | str] = {
    "minute": 0.15, "workers": 20, "tasks": 20, "mix": "hang=8,trickle=4,search=4,good=4", "limit": 60.0,
}
DEADLINE_MINUTES = 10.0  # what both versions give a task of the model that is replayed: 600 s
# The library's defaults in legacy minutes, and how many real seconds they never go below: what a hundred threads cost
# one interpreter (a client each, their first requests: about a second) does not shrink with the minute.
_LLM = (2.0, 1.5)
_INTERACTIVE = (5.0, 2.0)
_GRACE_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """One replay. `minute` is how many real seconds a legacy minute takes; `limit` and `kill_at` are legacy minutes."""

    version: str = "2025-08-16"
    minute: float = DEFAULT_MINUTE
    workers: int = 100
    tasks: int = 100
    mix: Mapping[str, int] = field(default_factory=lambda: parse_mix(DEFAULT_MIX))
    seed: int = 0
    checkpoint_interval: int = 0
    """The runner's own: save every that many results. 0, its default: only at the end of the batch."""
    limit: float = 480.0
    only: str | None = None
    kill_at: float | None = None
    engine: str = "threads"
    """What the run with the library is on: the runner's own `threads`, or its loop rewritten for `asyncio`."""

    def __post_init__(self) -> None:
        for name, value in (("minute", self.minute), ("limit", self.limit), ("kill-at", self.kill_at)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"--{name} must be a positive number, not {value}")
        for name, count in (("workers", self.workers), ("tasks", self.tasks)):
            if count < 1:
                raise ValueError(f"--{name} must be at least 1, not {count}")
        if self.checkpoint_interval < 0:
            raise ValueError(f"--checkpoint-interval must not be negative: {self.checkpoint_interval}")
        if self.engine == "asyncio" and self.version != "2025-08-16":
            raise ValueError("--engine asyncio is the runner of 2025-08-16 on asyncio: there is none of --version last")
        if self.kill_at is not None and self.only == "before":
            raise ValueError("--kill-at is about the run with the line: it does nothing with --only before")

    @property
    def deadline(self) -> float:
        """Real seconds a task has, from its first request."""
        return DEADLINE_MINUTES * self.minute

    @property
    def grace(self) -> float:
        """Real seconds between the rungs of the ladder. Not scaled: a short minute makes no machine faster."""
        return _GRACE_SECONDS

    @property
    def sides(self) -> tuple[str, ...]:
        return (self.only,) if self.only else ("before", "after")

    def described(self, side: str) -> str:
        """What a side is, in words."""
        if side == "before":
            return "the legacy runner as it is"
        return "the same batch on asyncio" if self.engine == "asyncio" else "the same, with one line"

    def library_settings(self) -> dict[str, str]:
        """The library's own defaults, in this replay's minutes."""
        return {
            "THREADSAFE_TIMEOUT_LLM_TIMEOUT": f"{max(_LLM[0] * self.minute, _LLM[1]):g}",
            "THREADSAFE_TIMEOUT_INTERACTIVE_TIMEOUT": f"{max(_INTERACTIVE[0] * self.minute, _INTERACTIVE[1]):g}",
            "THREADSAFE_TIMEOUT_GRACE": f"{self.grace:g}",
        }


def save_plan(plan: Plan, folder: Path) -> None:
    """Write `plan` into the folder of a replay."""
    (folder / "plan.json").write_text(json.dumps({**asdict(plan), "mix": dict(plan.mix)}, indent=2) + "\n")


def load_plan(folder: Path) -> Plan:
    """The plan of a replay that was kept in `folder`."""
    return Plan(**json.loads((folder / "plan.json").read_text()))
