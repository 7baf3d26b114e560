"""The rows both the terminal and the page show, in words, so the two cannot disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from threadsafe_timeout_legacy.replay._analysis import SideResult
from threadsafe_timeout_legacy.replay._plan import DEADLINE_MINUTES, Plan
from threadsafe_timeout_legacy.replay._timeline import Row

__all__ = ["FACTS", "cell", "conditions", "legacy_time", "notes"]


_BUSY = 1.5  # processes per core


def legacy_time(minutes: float) -> str:
    """`minutes` the way people say it."""
    if minutes < 60:
        return f"{minutes:.1f} min".replace(".0 min", " min")
    return f"{minutes / 60:.1f} h".replace(".0 h", " h")


def _batch(side: SideResult) -> str:
    if side.makespan_minutes is not None:
        return f"after {legacy_time(side.makespan_minutes)}"
    if side.database:
        when = side.database_curve.minutes[-1]
        return f"never; {side.database} of {side.tasks} results were saved, the last at {legacy_time(when)}"
    return "never" if side.ending == "exited" else f"never (watched for {legacy_time(side.end_minute)})"


def _well_behaved(side: SideResult) -> tuple[int, int]:
    kinds = [side.kinds[name] for name in ("good", "slow") if name in side.kinds]
    return sum(kind.completed for kind in kinds), sum(kind.tasks for kind in kinds)


def _completed(side: SideResult) -> str:
    completed, tasks = _well_behaved(side)
    return f"{completed} of {tasks}"


def _process(side: SideResult) -> str:
    if side.exit_seconds is None:
        return f"had to be killed at {legacy_time(side.end_minute)}"
    return f"exited by itself at {legacy_time(side.end_minute)}, status {side.exit_code}"


@dataclass(frozen=True)
class _Fact:
    label: str
    why: str
    value: Callable[[SideResult], str]


FACTS = (
    _Fact("every task under way", "at its first request to the model",
          lambda s: f"after {legacy_time(s.spread_minutes)}"),
    _Fact("tasks finished", "their last request has ended", lambda s: f"{s.finished} of {s.tasks}"),
    _Fact("well-behaved tasks completed", "the model said so to the end", _completed),
    _Fact("results in the database", "the runner's own file", lambda s: f"{s.database} of {s.tasks}"),
    _Fact("saved, if killed at the end", "database or checkpoint",
          lambda s: f"{max(s.database, s.journal)} of {s.tasks}"),
    _Fact("batch complete", "all results written", _batch),
    _Fact("requests begun after their task's deadline", "money spent on results nobody waits for",
          lambda s: f"{s.late_requests} of {s.requests}"),
    _Fact("connections held after a deadline", "in connection-seconds of real time",
          lambda s: f"{s.held_seconds:.2f} s"),
    _Fact("threads alive at the end", "before it was killed; none if it exited", lambda s: str(s.threads_at_end)),
    _Fact("process", "", _process),
)


def cell(value: int | None, row: Row) -> str:
    """A number of a timeline row, or why there is none."""
    if value is not None:
        return str(value)
    return "exited" if row.over else "not watched"


def conditions(plan: Plan) -> list[tuple[str, str]]:
    """Under what conditions the numbers were taken."""
    mix = ", ".join(f"{weight} {name}" for name, weight in plan.mix.items())
    settings = ", ".join(f"{name.removeprefix('THREADSAFE_TIMEOUT_').lower()} {value} s"
                         for name, value in plan.library_settings().items())
    return [
        ("legacy runner", f"replica, version {plan.version}, "
         + (f"saves every {plan.checkpoint_interval} results" if plan.checkpoint_interval else "saves at the end")),
        ("work", f"{plan.tasks} tasks on {plan.workers} workers, seed {plan.seed}"),
        ("model behaviour (weights)", mix),
        ("compressed time", f"one legacy minute takes {plan.minute:g} s; timeouts, pauses and answers scale with it"),
        ("deadline of a task", f"{DEADLINE_MINUTES:g} legacy minutes = {plan.deadline:g} s"),
        ("the library's settings, scaled",
         settings + " (2 and 5 legacy minutes, but not under 1.5 s and 2 s; the grace is not scaled)"),
    ]


def notes(plan: Plan, results: dict[str, SideResult]) -> list[str]:
    """What a reader must know about this machine or this run to trust the numbers."""
    found = []
    for side, result in results.items():
        if result.seen == 0:
            found.append(f"{side}: no request reached the server; see output.txt (run again with --keep)")
            continue
        if result.load > _BUSY:
            found.append(f"{side}: when it started, this machine was busy with other work ({result.load:.1f} processes "
                         "per core); seconds of real time may be missed for that reason alone")
        spread = result.spread_minutes
        if plan.tasks <= plan.workers and spread > DEADLINE_MINUTES:
            wanted = plan.minute * 2 * spread / DEADLINE_MINUTES
            found.append(f"{side}: this machine took {spread:.1f} legacy minutes to get every task to its first "
                         f"request; --minute {wanted:.1g} or more gives it time")
        stalled = result.kinds.get("trickle")
        if side == "before" and stalled and stalled.finished:
            found.append(f"{side}: {stalled.finished} trickling answers ended in a read timeout, which a trickle never "
                         f"lets happen: this machine stood still for too long; --minute {2 * plan.minute:g} gives "
                         "it slack")
        completed, good = _well_behaved(result)
        if completed < good:
            found.append(f"{side}: only {completed} of {good} well-behaved tasks could complete: for so short a minute "
                         f"this machine is too slow or too busy; --minute {2 * plan.minute:g} gives it time")
    return found
