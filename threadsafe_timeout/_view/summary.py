"""What the events of a run add up to, one event at a time: a run of a hundred thousand tasks is not held in memory.

What is kept for each task is a few numbers. Everything else is counted in groups, and of what may come in any number,
the first or the worst are kept and the rest is counted: `MOST` says how many.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Any

from threadsafe_timeout._view.fields import mapping, number, objects, place, places, text, whole

__all__ = ["MOST", "OUTCOMES", "PHASES", "TOTALS", "ErrorGroup", "Loop", "StuckGroup", "Summary", "Tasks",
           "Ticks", "name_of", "running_tasks"]

OUTCOMES = ("done", "failed", "timeout", "loop", "cancelled", "abandoned", "poison")
PHASES = ("llm", "search", "tools", "sleep", "lock", "network", "process", "await", "python", "stuck")
TOTALS = ("submitted", "done", "failed", "timed_out", "loops", "abandoned", "cancelled", "pending", "running", "saved",
          "scopes")
MOST = {"slowest": 20, "groups": 500, "loops": 200, "notable": 50, "longest text": 2000}

Place = tuple[str, int, str]
_FINISHED = ("completed", "failed", "cancelled", "abandoned")  # what timed out failed or was abandoned
_NOTABLE = ("respawned", "exhausted", "limit", "interrupted", "processes", "late", "overran", "stalled")


@dataclass
class Tasks:
    """A row for each task that has a line of its own. `outcome` and `worker` are places in `OUTCOMES` and `workers`."""

    start: array[float] = field(default_factory=lambda: array("d"))
    end: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("f"))
    outcome: array[int] = field(default_factory=lambda: array("B"))
    worker: array[int] = field(default_factory=lambda: array("L"))
    workers: dict[tuple[str, str], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start)


@dataclass
class Ticks:
    """The state of all pools together, once a second while something changed."""

    t: array[float] = field(default_factory=lambda: array("d"))
    effective: array[int] = field(default_factory=lambda: array("l"))
    finished: array[int] = field(default_factory=lambda: array("l"))
    pools: dict[str, dict[str, Any]] = field(default_factory=dict)
    saved: int = 0


@dataclass
class ErrorGroup:
    """Errors of one type from one place."""

    count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    message: str = ""
    task: str = ""


@dataclass
class StuckGroup:
    """Tasks that did not end where they were, by the frame that they were in."""

    interrupted: int = 0
    abandoned: int = 0
    now: int = 0
    longest: float = 0.0
    task: str = ""
    stack: list[Place] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    t: float
    task: str
    loop: str
    detail: str
    queries: tuple[str, ...]
    action: str


def name_of(event: dict[str, Any]) -> str:
    """What a task is called: its name, and its key where that says more."""
    name, key = text(event.get("task")), text(event.get("key"))
    return name if not key or key == name else f"{name} [{key}]" if name else key


class Summary:
    """Everything the report needs of the events. `add` takes them in the order of the file."""

    def __init__(self) -> None:
        self.run: dict[str, Any] = {}
        self.end: dict[str, Any] | None = None
        self.pools: dict[str, dict[str, Any]] = {}
        self.tasks = Tasks()
        self.ticks = Ticks()
        self.counts: Counter[str] = Counter()
        self.saved = self.calls = self.retried = self.without_phases = 0
        self.phases: Counter[str] = Counter()
        self.took = self.took_with_phases = 0.0
        self.deadlines: Counter[float] = Counter()
        self.errors: dict[tuple[str, Place | None], ErrorGroup] = {}
        self.stuck: dict[Place | None, StuckGroup] = {}
        self.scopes: Counter[tuple[str, Place | None]] = Counter()
        self.loops: list[Loop] = []
        self.loop_kinds: Counter[str] = Counter()
        self.notable: list[tuple[float, str, str, str]] = []
        self.kinds: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()  # outcomes of task lines that were left out
        self.beyond: Counter[str] = Counter()  # what came after the most that is kept
        self.last: float | None = None
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []

    def add(self, event: dict[str, Any]) -> None:
        kind = text(event.get("kind"))
        self.kinds[kind] += 1
        t = number(event.get("t"))
        if t is not None:
            self.last = t if self.last is None else max(self.last, t)
        take = getattr(self, f"_take_{kind}", None) if kind.isidentifier() else None
        if take is not None:
            take(event)
        elif kind in _NOTABLE:
            self._take_notable(kind, event)

    def slowest(self) -> list[dict[str, Any]]:
        """The events of the tasks that took longest, the slowest first."""
        return [event for _, _, event in sorted(self._slowest, key=lambda one: (-one[0], one[1]))]

    def _take_run(self, event: dict[str, Any]) -> None:
        self.run = self.run or event

    def _take_end(self, event: dict[str, Any]) -> None:
        self.end = event

    def _take_pool(self, event: dict[str, Any]) -> None:
        self.pools[text(event.get("pool"))] = event

    def _take_task(self, event: dict[str, Any]) -> None:
        outcome = text(event.get("outcome"))
        end, took = number(event.get("t")), number(event.get("took"))
        start = number(event.get("start"))
        if outcome not in OUTCOMES or end is None:
            known = len(self.unknown) < MOST["groups"] or outcome in self.unknown
            self.unknown[outcome[: MOST["longest text"]] if known else "others"] += 1
            return
        start = end - (took or 0.0) if start is None else start
        took = max(end - start, 0.0) if took is None else took
        self.counts[outcome] += 1
        tasks, worker = self.tasks, (text(event.get("pool")), text(event.get("worker")))
        tasks.start.append(start)
        tasks.end.append(end)
        tasks.took.append(took)
        tasks.outcome.append(OUTCOMES.index(outcome))
        tasks.worker.append(tasks.workers.setdefault(worker, len(tasks.workers)))
        self.saved += event.get("saved") is True
        self.calls += whole(event.get("calls"))
        self.retried += whole(event.get("attempts")) > 1
        allowed = number(event.get("deadline"))
        if allowed is not None and (len(self.deadlines) < MOST["groups"] or round(allowed, 3) in self.deadlines):
            self.deadlines[round(allowed, 3)] += 1
        self._count_phases(event, took)
        self._count_error(event, outcome)
        self._keep_slow(event, took)

    def _count_phases(self, event: dict[str, Any], took: float) -> None:
        self.took += took
        found = mapping(event.get("phases"))
        if not found:
            self.without_phases += 1
            return
        self.took_with_phases += took
        for name in PHASES:
            seconds = number(found.get(name))
            if seconds is not None and seconds > 0:
                self.phases[name] += seconds  # type: ignore[assignment]  # of seconds, not of pieces

    def _count_error(self, event: dict[str, Any], outcome: str) -> None:
        error = mapping(event.get("error"))
        if not error:
            return
        at = place(error.get("where")) or place(event.get("where"))
        key = (text(error.get("type")) or "?", at)
        if key not in self.errors and len(self.errors) >= MOST["groups"]:
            self.beyond["errors"] += 1
            return
        group = self.errors.setdefault(key, ErrorGroup())
        if not group.count:
            group.message, group.task = text(error.get("message"))[: MOST["longest text"]], name_of(event)
        group.count += 1
        group.outcomes[outcome] += 1

    def _keep_slow(self, event: dict[str, Any], took: float) -> None:
        entry = (took, -len(self.tasks), event)
        if len(self._slowest) < MOST["slowest"]:
            heappush(self._slowest, entry)
        elif took > self._slowest[0][0]:
            heappushpop(self._slowest, entry)

    def _take_tick(self, event: dict[str, Any]) -> None:
        t = number(event.get("t"))
        for name, pool in mapping(event.get("pools")).items():
            self.ticks.pools[name] = mapping(pool)
        self.ticks.saved = max(self.ticks.saved, whole(event.get("saved")))
        if t is None:
            return
        pools = self.ticks.pools.values()
        self.ticks.t.append(t)
        self.ticks.effective.append(sum(whole(pool.get("effective")) for pool in pools))
        self.ticks.finished.append(sum(whole(pool.get(name)) for pool in pools for name in _FINISHED))

    def _take_interrupting(self, event: dict[str, Any]) -> None:
        group = self._stuck(event)
        if group is not None:
            group.interrupted += 1

    def _take_abandoned(self, event: dict[str, Any]) -> None:
        group = self._stuck(event)
        if group is not None:
            group.abandoned += 1

    def add_stuck_now(self, workers: list[dict[str, Any]]) -> None:
        """What the last snapshot says of workers that are in trouble."""
        for worker in workers:
            if text(worker.get("state")) not in ("idle", "running", "abandoned"):
                group = self._stuck(worker)
                if group is not None:
                    group.now += 1

    def _stuck(self, event: dict[str, Any]) -> StuckGroup | None:
        stack = places(event.get("stack"))
        at = place(event.get("where")) or (stack[-1] if stack else None)
        if at not in self.stuck and len(self.stuck) >= MOST["groups"]:
            self.beyond["stuck"] += 1
            return None
        group = self.stuck.setdefault(at, StuckGroup())
        elapsed = number(event.get("elapsed")) or 0.0
        if not group.task or elapsed > group.longest:
            group.task, group.longest = name_of(event), elapsed
        if len(stack) > len(group.stack):
            group.stack = stack
        return group

    def _take_loop(self, event: dict[str, Any]) -> None:
        self.loop_kinds[text(event.get("loop")) or "?"] += 1
        if len(self.loops) >= MOST["loops"]:
            self.beyond["loops"] += 1
            return
        queries = event.get("queries")
        kept = tuple(text(query) for query in queries[:10]) if isinstance(queries, list) else ()
        self.loops.append(Loop(number(event.get("t")) or 0.0, name_of(event), text(event.get("loop")),
                               text(event.get("detail")), kept, text(event.get("action"))))

    def _take_scope(self, event: dict[str, Any]) -> None:
        key = (text(event.get("name")), place(event.get("where")))
        if key in self.scopes or len(self.scopes) < MOST["groups"]:
            self.scopes[key] += 1
        else:
            self.beyond["scopes"] += 1

    def _take_notable(self, kind: str, event: dict[str, Any]) -> None:
        if len(self.notable) >= MOST["notable"]:
            self.beyond["notable"] += 1
            return
        self.notable.append((number(event.get("t")) or 0.0, kind, name_of(event), text(event.get("reason"))))

    def totals(self, status: dict[str, Any]) -> Counter[str]:
        """How many tasks there are of each kind, by the newest that says so: numbers that only grow, so the largest.
        `pending` and `running` are those of the snapshot. Each task that has ended is `done`, `failed`, `timed_out` or
        `cancelled`; `abandoned` are among those that timed out, and `loops` were ended in tasks of any kind."""
        last = self.ticks.pools.values()
        ticks = {name: sum(whole(pool.get(name)) for pool in last) for name in TOTALS}
        ticks["saved"] = self.ticks.saved
        ticks["done"] = sum(whole(pool.get("completed")) for pool in last)
        ticks["failed"] = max(0, ticks["failed"] + ticks["abandoned"] - ticks["timed_out"])  # not in time
        counts = self.counts
        # A task that a guard has ended, and that raises so, has failed; abandoned ones have timed out.
        lines = {"done": counts["done"], "failed": counts["failed"] + counts["loop"],
                 "timed_out": counts["timeout"] + counts["abandoned"], "cancelled": counts["cancelled"],
                 "loops": max(counts["loop"], self.loop_kinds.total()), "abandoned": counts["abandoned"],
                 "saved": self.saved, "scopes": self.scopes.total()}
        known = mapping(status.get("totals"))
        sources = (ticks, lines, known, mapping((self.end or {}).get("totals")))
        found = Counter({name: max(whole(source.get(name)) for source in sources) for name in TOTALS})
        for name in ("pending", "running"):
            found[name] = whole(known.get(name)) if known else ticks[name]
        return found

    def unlisted(self) -> int:
        """How many finished tasks have no line of their own."""
        return sum(whole(pool.get("unlisted")) for pool in self.ticks.pools.values())


def running_tasks(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The workers that had a task when the last snapshot was taken."""
    return [worker for worker in objects(status.get("workers")) if text(worker.get("state")) != "idle"]
