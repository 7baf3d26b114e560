"""A run at one moment, as `watch` shows it: its numbers, its workers in order, what is to be said about it.

All texts are escaped. `as_json` gives the same for programs, with the texts as they are.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from threadsafe_timeout._text import escaped, shown
from threadsafe_timeout._view.fields import mapping, number, objects, place, places, text, whole
from threadsafe_timeout._view.reading import Run
from threadsafe_timeout._view.words import ago, clock_time, duration

__all__ = ["ORDERS", "Picture", "Row", "as_json", "important", "picture_of"]

_TROUBLE = ("abandoned", "interrupting", "overdue", "running", "idle")
_SILENT = 10.0  # seconds without a status, while tasks run, after which something holds the run up
_FAR_ABOVE = 4  # times the median of the tasks that ended lately: a straggler
_FEW = 5  # ended tasks that make no median


@dataclass(frozen=True, slots=True)
class Row:
    """One worker. Times are seconds."""

    worker: str
    pool: str
    state: str
    task: str
    key: str
    phase: str
    age: float | None
    idle: float | None
    left: float | None
    rung: int
    where: tuple[str, int, str] | None
    stack: list[tuple[str, int, str]]
    ident: int
    straggler: bool

    def matches(self, wanted: str) -> bool:
        """Whether a text is anywhere in it."""
        place_words = "" if self.where is None else f"{self.where[0]} {self.where[2]}"
        words = (self.worker, self.pool, self.state, self.task, self.key, self.phase, place_words)
        return wanted.lower() in " ".join(words).lower()


@dataclass(frozen=True, slots=True)
class Picture:
    """The run. `eta` is seconds, or None if it cannot be told; `stragglers` is how many tasks it does not count."""

    run: Run
    now: float
    title: str
    state: str
    notes: list[str]
    totals: dict[str, int]
    rate: float | None
    eta: float | None
    stragglers: int
    effective: list[float]
    width: int
    rows: list[Row]


def _most_trouble(row: Row) -> tuple[Any, ...]:
    return _rank(row.state), -(row.age or 0.0) if row.idle is None else -row.idle, row.worker


def _rank(state: str) -> int:
    return _TROUBLE.index(state) if state in _TROUBLE else 3  # one of a newer version: at work


# What the rows are sorted by, in the order in which a key goes through them. Idle workers are always last.
ORDERS: dict[str, Callable[[Row], Any]] = {
    "trouble": _most_trouble,
    "age": lambda row: -(row.age or 0.0),
    "idle": lambda row: -(row.idle or 0.0),
    "deadline": lambda row: row.left if row.left is not None else float("inf"),
    "task": lambda row: row.task,
    "worker": lambda row: row.worker,
}


def picture_of(run: Run, events: Iterable[dict[str, Any]], now: float, order: str = "trouble") -> Picture:
    """The run, with its latest events (for the median), at `now`: seconds since the epoch."""
    status = run.status
    at = now if run.state == "running" else (run.since or now)
    median = _median(events)
    rows = [_row(one, at, run.since or at, median) for one in objects(status.get("workers"))]
    rows.sort(key=lambda row: (row.state == "idle", ORDERS[order](row)))
    totals = {name: whole(value) for name, value in mapping(status.get("totals")).items() if number(value) is not None}
    stragglers = sum(row.straggler for row in rows)
    rate = number(status.get("rate")) if run.state == "running" else None
    return Picture(
        run, now, _title(run, at), _state(run, now), _notes(run, totals, now), totals, rate,
        _eta(totals, stragglers, rate), stragglers,
        [one for value in _list(status.get("effective")) if (one := number(value)) is not None],
        sum(whole(pool.get("width")) for pool in objects(status.get("pools"))), rows,
    )  # fmt: skip


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _median(events: Iterable[dict[str, Any]]) -> float | None:
    """How long a task takes that ends by itself; None if too few have."""
    took = [
        seconds for event in events
        if event.get("kind") == "task" and event.get("outcome") in ("done", "failed")
        and (seconds := number(event.get("took"))) is not None
    ]  # fmt: skip
    return statistics.median(took) if len(took) >= _FEW else None


def _row(one: dict[str, Any], at: float, written: float, median: float | None) -> Row:
    state = text(one.get("state")) or "?"
    passed = max(0.0, at - written)  # since the status was written
    started, elapsed = number(one.get("started")), number(one.get("elapsed"))
    age = max(0.0, at - started) if started is not None else (None if elapsed is None else elapsed + passed)
    idle, left = number(one.get("idle")), number(one.get("deadline_left"))
    left = None if left is None else left - passed
    # The task of an abandoned worker is over, as far as the run is concerned.
    straggler = state not in ("idle", "running", "abandoned") or (state == "running" and (left or 0.0) < 0)
    if state == "running" and median is not None and age is not None:
        straggler = straggler or age > max(1.0, _FAR_ABOVE * median)
    return Row(
        shown(text(one.get("worker"))), shown(text(one.get("pool"))), shown(state), shown(text(one.get("task"))),
        shown(text(one.get("key"))), _phase(one, at), age, None if idle is None else idle + passed, left,
        whole(one.get("rung")), place(one.get("where")), places(one.get("stack")), whole(one.get("ident")), straggler,
    )  # fmt: skip


def _phase(one: dict[str, Any], at: float) -> str:
    """`LLM call 0:41, attempt 2`, `search ×3 0:05`, `sleep 0:12`."""
    name, comma, more = text(one.get("phase")).partition(", ")
    since = number(one.get("phase_since"))
    if not name:
        return ""
    return shown(f"{name} {duration(max(0.0, at - since))}{comma}{more}" if since is not None else name + comma + more)


def _eta(totals: dict[str, int], stragglers: int, rate: float | None) -> float | None:
    if not rate or rate < 0:
        return None
    return max(0, totals.get("pending", 0) + totals.get("running", 0) - stragglers) / rate


def _title(run: Run, at: float) -> str:
    started = number(run.status.get("started"))
    program = shown(text(run.status.get("program")) or "a run")
    return f"{program} · pid {run.pid}" + ("" if started is None else f" · {duration(at - started)}")


def _state(run: Run, now: float) -> str:
    if run.state == "running":
        return "running"
    word = "ended at" if run.state == "ended" else "dead since"
    return f"{word} {clock_time(run.since, now)}" + (f" ({ago(run.since, now)})" if run.since is not None else "")


def _notes(run: Run, totals: dict[str, int], now: float) -> list[str]:
    notes = [run.problem] if run.problem else []
    resume = escaped(text(run.status.get("resume")))
    if run.state == "dead":
        notes.append(f"its process {run.pid} is gone and did not say that it ended"
                     + (f"; to go on: {resume}" if resume else ""))  # fmt: skip
    elif run.state == "running":
        silent = now - (run.since if run.since is not None else now)
        if silent >= _SILENT and (totals.get("running") or totals.get("pending")):
            notes.append(f"no sign for {int(silent)} s: the interpreter may be held by C code; "
                         f"see `threadsafe-timeout stacks {run.pid}`")  # fmt: skip
        stalled = number(run.status.get("interpreter_stalled_since"))
        if stalled is not None:
            notes.append(f"the interpreter is stalled since {clock_time(stalled, now)}")
    return notes


def important(events: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The latest `most` events, in their order: those about tasks that just ended well only where there is room."""
    told = [(number_, event) for number_, event in enumerate(events) if event.get("kind") not in ("tick", "run")]
    dull = [pair for pair in told if _is_dull(pair[1])]
    chosen = [pair for pair in told if not _is_dull(pair[1])][-most:] if most > 0 else []
    if len(chosen) < most:
        chosen += dull[len(chosen) - most :]
    return [event for _, event in sorted(chosen, key=lambda pair: pair[0])]


def _is_dull(event: dict[str, Any]) -> bool:
    return event.get("kind") == "task" and event.get("outcome") == "done"


def as_json(picture: Picture, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For programs. `workers` are as the run wrote them, those in trouble first."""
    run = picture.run
    rank = {row.worker: place_ for place_, row in enumerate(picture.rows)}
    workers = objects(run.status.get("workers"))
    workers.sort(key=lambda one: rank.get(shown(text(one.get("worker"))), len(rank)))
    return {
        "schema": 1, "folder": str(run.folder), "run": run.folder.name, "state": run.state, "since": run.since,
        "now": picture.now, "pid": run.pid, "program": text(run.status.get("program")),
        "resume": text(run.status.get("resume")), "journal": run.status.get("journal"), "notes": picture.notes,
        "totals": picture.totals, "rate": picture.rate, "eta_without_stragglers": picture.eta,
        "stragglers": picture.stragglers, "width": picture.width, "effective": picture.effective,
        "workers": workers, "events": list(events),
    }  # fmt: skip
