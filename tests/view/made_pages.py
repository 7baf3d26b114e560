"""Pages for a browser: of made-up runs, and of a recorded replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_runs import HOSTILE, make_run, workers
from replays import Recorder, record_after, record_before
from threadsafe_timeout_legacy.replay._driver import read_results
from threadsafe_timeout_legacy.replay._page import page
from threadsafe_timeout_legacy.replay._plan import Plan
from threadsafe_timeout_legacy.replay._promises import check

from threadsafe_timeout._view.reading import read_run
from threadsafe_timeout._view.report import report

NOW = 1_800_000_000.0
# What stands on each page, for those who look at it.
ANSWERS = {
    "hostile": ["<script>alert('1')</script>", "\\x1b[31mred", "forged line"],
    "large": ["9,700", "200", "case-9999"],
    "replay": ["The eight-hour stall, replayed", "What happened, minute by minute"],
}


def task(place: int, outcome: str = "done", **more: Any) -> dict[str, Any]:
    """The line of a task that took half a second."""
    end = NOW + 1 + place * 0.01
    return {"kind": "task", "t": end, "start": end - 0.5, "took": 0.5, "pool": "batch", "worker": f"batch_{place % 8}",
            "task": f"case-{place}", "key": f"case-{place}", "outcome": outcome, "deadline": 600.0, **more}  # fmt: skip


def tick(t: float, effective: int, completed: int) -> dict[str, Any]:
    return {"kind": "tick", "t": t, "pools": {"batch": {"effective": effective, "completed": completed}}}


def hostile_events() -> list[dict[str, Any]]:
    """Every text that an event has, hostile."""
    where = [HOSTILE, 3, HOSTILE]
    return [
        {"kind": "pool", "t": NOW, "pool": HOSTILE, "width": 8, "task_timeout": 600.0},
        task(1, "failed", task=HOSTILE, key=HOSTILE, worker=HOSTILE, pool=HOSTILE,
             error={"type": HOSTILE, "message": HOSTILE, "where": where}, where=where),
        {"kind": "abandoned", "t": NOW + 2, "task": HOSTILE, "elapsed": 12.0, "where": where, "stack": [where, where]},
        {"kind": "loop", "t": NOW + 2, "task": HOSTILE, "loop": HOSTILE, "detail": HOSTILE, "queries": [HOSTILE], "action": HOSTILE},
        {"kind": "scope", "t": NOW + 2, "name": HOSTILE, "where": where},
        {"kind": "respawned", "t": NOW + 3, "task": HOSTILE, "reason": HOSTILE},
        {"kind": "end", "t": NOW + 4, "how": HOSTILE, "exit": True},
    ]  # fmt: skip


def hostile_run(folder: Path) -> Path:
    return make_run(
        folder / "hostile", now=NOW, events=hostile_events(), program=HOSTILE, resume=HOSTILE, cwd=HOSTILE,
        settings={HOSTILE: HOSTILE}, state="ended", workers=[{**workers(1, NOW)[0], "state": "overdue", "task": HOSTILE}],
    )  # fmt: skip


def hostile_report(folder: Path) -> str:
    return report(read_run(hostile_run(folder)))


def large_run(folder: Path, tasks: int = 10_000) -> Path:
    """Tasks of a hundred workers: of a hundred, two fail and one times out; the last takes longest."""
    events: list[dict[str, Any]] = [{"kind": "pool", "t": NOW, "pool": "batch", "width": 100, "task_timeout": 600.0}]
    outcomes = {0: "failed", 50: "failed", 75: "timeout"}
    for place in range(tasks):
        outcome = outcomes.get(place % 100, "done")
        more: dict[str, Any] = {"worker": f"batch_{place % 100}", "phases": {"llm": 0.3, "search": 0.15}}
        if outcome != "done":
            more["error"] = {"type": "ValueError", "message": f"no answer for {place}", "where": ["runner.py", place % 7, "ask"]}
        if place == tasks - 1:
            more.update(start=NOW, took=place * 0.01)
        events.append(task(place, outcome, **more))
        if place % 100 == 0:
            events.append(tick(NOW + 1 + place * 0.01, 100 - place // 200 % 60, place * 97 // 100))
    return make_run(folder / "large", now=NOW, events=events, totals={}, pid=2**22 + 1)


def large_report(folder: Path) -> str:
    return report(read_run(large_run(folder)))


def replay_page(folder: Path) -> str:
    """Both sides, with the incident's marks."""
    where = folder / "replay"
    where.mkdir()
    recorder = Recorder(where, Plan(minute=1.0, workers=100, tasks=100, mix={"good": 50, "hang": 50}, limit=60.0))
    record_before(recorder)
    record_after(recorder)
    plan, results = read_results(where)
    return page(plan, results, check(plan, results["after"]))
