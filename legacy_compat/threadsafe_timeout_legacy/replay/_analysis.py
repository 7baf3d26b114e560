"""From what the server and the files saw to the numbers that are shown. Nothing here asks the runner.

Definitions:

- A run's clock starts (minute 0) when its first request reaches the server.
- A task's deadline is `plan.deadline` seconds after its own first request.
- A task is finished when its last request has ended and no other follows. A request that is still open when the
  process is killed has not ended.
- Effective workers: the workers, less the tasks that are past their deadline and not finished.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from threadsafe_timeout.testing.fake_llm import RequestRecord, ServerLog
from threadsafe_timeout_legacy.replay._observe import Observation
from threadsafe_timeout_legacy.replay._plan import Plan

__all__ = ["Curve", "Kind", "SideResult", "TaskRun", "analyse", "now_finished", "task_runs"]

# When a killed process's sockets are seen to close: a request that ends this close to the kill was cut off by it.
_KILL_SECONDS = 0.05


@dataclass
class TaskRun:
    """One task in one process."""

    task: str
    behaviour: str
    first: float
    deadline_at: float
    last_end: float | None
    """None: a request was open at the end."""
    requests: int = 0
    late: int = 0
    held: float = 0.0
    """Connection-seconds after the deadline."""
    over_grace: float = 0.0
    """Connection-seconds after the deadline and the grace."""
    held_until: float = 0.0
    completed: bool = False


@dataclass(frozen=True)
class Curve:
    """A step function: `values[i]` holds from minute `minutes[i]` on, until `end` (legacy minutes)."""

    minutes: list[float]
    values: list[int]
    end: float

    def at(self, minute: float) -> int:
        place = bisect_right(self.minutes, minute) - 1
        return self.values[max(place, 0)]


@dataclass
class Kind:
    """The tasks of one behaviour."""

    tasks: int = 0
    finished: int = 0
    completed: int = 0
    """Tasks whose last answer, that the task is completed, was sent."""
    requests: int = 0
    late: int = 0


@dataclass
class SideResult:
    """All numbers of one side. Minutes are legacy minutes; seconds are real."""

    side: str
    tasks: int
    seen: int
    """Tasks that reached the server."""
    finished: int
    finished_curve: Curve
    effective_curve: Curve
    disk_curve: Curve
    """Results in the database or in the checkpoint, whichever holds more."""
    database_curve: Curve
    kinds: dict[str, Kind]
    requests: int
    late_requests: int
    held_seconds: float
    over_grace_seconds: float
    end_minute: float
    ending: str
    exit_code: int | None
    threads_at_end: int
    start_up_seconds: float
    """From the start of the process to its first request."""
    spread_minutes: float
    """From the first task's first request to the last task's."""
    makespan_minutes: float | None
    """When the last task's result was in the database; None: never."""
    database_late_seconds: float | None
    """How long after the last task's deadline that was (negative: before); None: never."""
    exit_seconds: float | None
    """From the end of the batch (the last result written, or the last request ended) to the exit; None: it did not."""
    database: int
    successes: int
    journal: int
    rerun: int = 0
    """After a kill: tasks asked about again although their result was saved."""
    load: float = 0.0
    """Processes that wanted a core when it started, for each core of the machine."""
    killed_minute: float | None = None
    saved_at_kill: int | None = None
    command: list[str] = field(default_factory=list)
    difference: str = ""


def task_runs(requests: Iterable[RequestRecord], plan: Plan, stopped: float, killed: bool) -> dict[str, TaskRun]:
    """The tasks of one process that ended, or is looked at, at `stopped`."""
    tasks: dict[str, TaskRun] = {}
    for request in sorted(requests, key=lambda request: request.start):
        if request.task == "classifier" or request.start > stopped:
            continue
        task = tasks.get(request.task)
        if task is None:
            task = tasks[request.task] = TaskRun(
                request.task, request.behaviour, request.start, request.start + plan.deadline, request.start
            )
        cut = stopped - (_KILL_SECONDS if killed else 0.0)
        is_open = request.end is None or request.outcome == "server_stopped" or (
            request.outcome == "client_closed" and request.end > cut
        )
        end = stopped if request.end is None else min(request.end, stopped)
        _add(task, request.start, end, plan.grace, is_open=is_open)
        task.completed |= request.closing
    return tasks


def _add(task: TaskRun, start: float, end: float, grace: float, *, is_open: bool) -> None:
    task.requests += 1
    task.late += start > task.deadline_at
    task.held += max(0.0, end - max(start, task.deadline_at))
    task.over_grace += max(0.0, end - max(start, task.deadline_at + grace))
    task.held_until = max(task.held_until, end)
    if is_open or task.last_end is None:
        task.last_end = None
    else:
        task.last_end = max(task.last_end, end)


def now_finished(tasks: dict[str, TaskRun], now: float, plan: Plan) -> tuple[int, int]:
    """Tasks finished and effective workers at `now`, while the process runs.

    A task that has just had an answer may ask again: here it counts once it has been silent for a legacy minute.
    """
    finished = sum(task.last_end is not None and task.last_end < now - plan.minute for task in tasks.values())
    overdue = sum(task.last_end is None and task.deadline_at < now for task in tasks.values())
    return finished, max(0, plan.workers - overdue)


def analyse(plan: Plan, side: str, log: ServerLog, observations: list[Observation]) -> SideResult:
    """The numbers of one side: one process, or two if it was killed and started again."""
    by_run = {seen.run: [request for request in log.requests if request.run == seen.run] for seen in observations}
    parts = [task_runs(by_run[seen.run], plan, seen.stopped, seen.ending != "exited") for seen in observations]
    last, ended = observations[-1], parts[-1]
    tasks: dict[str, TaskRun] = {}
    for part in parts:
        tasks |= part
    zero = min((task.first for task in parts[0].values()), default=observations[0].started)
    clock = _LegacyClock(zero, plan.minute)
    finished = sorted(task.last_end for task in tasks.values() if task.last_end is not None)
    end = clock(last.stopped)
    complete = _database_complete(plan, observations)
    firsts = [task.first for task in ended.values()]
    batch_end = complete or max((task.held_until for task in ended.values()), default=last.stopped)
    samples = [sample for seen in observations for sample in seen.samples]
    disk = [(clock(sample.t), max(sample.database, sample.journal)) for sample in samples]
    killed_minute, saved_at_kill = _at_the_kill(observations, clock)
    return SideResult(
        side=side, tasks=plan.tasks, seen=len(tasks), finished=len(finished),
        finished_curve=_counting(map(clock, finished), end),
        effective_curve=_effective(plan, parts, observations, clock, end),
        disk_curve=_running_maximum(disk, end),
        database_curve=_running_maximum(((clock(sample.t), sample.database) for sample in samples), end),
        kinds=_kinds(parts), requests=sum(map(len, by_run.values())),
        late_requests=sum(task.late for part in parts for task in part.values()),
        held_seconds=sum(task.held for part in parts for task in part.values()),
        over_grace_seconds=sum(task.over_grace for part in parts for task in part.values()),
        end_minute=end, ending=last.ending, exit_code=last.exit_code, threads_at_end=last.threads_at_end,
        start_up_seconds=zero - observations[0].started,
        spread_minutes=clock(max((task.first for task in parts[0].values()), default=zero)),
        makespan_minutes=None if complete is None else clock(complete),
        database_late_seconds=None if complete is None else complete - (max(firsts, default=zero) + plan.deadline),
        exit_seconds=last.stopped - batch_end if last.ending == "exited" else None,
        database=max((sample.database for sample in samples), default=0), successes=last.successes,
        journal=max((sample.journal for sample in samples), default=0),
        rerun=_rerun(plan, observations, ended), load=observations[0].load,
        killed_minute=killed_minute, saved_at_kill=saved_at_kill,
        command=last.command, difference=last.difference,
    )


def _at_the_kill(observations: list[Observation], clock: _LegacyClock) -> tuple[float | None, int | None]:
    """When the first process was killed, if there is a second, and how many results were saved by then."""
    if len(observations) == 1:
        return None, None
    killed = observations[0]
    return clock(killed.stopped), max((sample.done for sample in killed.samples), default=0)


@dataclass(frozen=True)
class _LegacyClock:
    zero: float
    minute: float

    def __call__(self, t: float) -> float:
        return (t - self.zero) / self.minute


def _database_complete(plan: Plan, observations: list[Observation]) -> float | None:
    """When the database held a result of every task."""
    return next((sample.t for seen in observations for sample in seen.samples if sample.database >= plan.tasks), None)


def _rerun(plan: Plan, observations: list[Observation], resumed: dict[str, TaskRun]) -> int:
    """Tasks that were asked about after the restart beyond those whose result was not saved before it."""
    if len(observations) < 2:
        return 0
    saved = max((sample.done for sample in observations[0].samples), default=0)
    return max(0, len(resumed) - (plan.tasks - saved))


def _kinds(parts: list[dict[str, TaskRun]]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    last: dict[str, TaskRun] = {}
    for part in parts:
        last |= part
        for task in part.values():
            kind = kinds.setdefault(task.behaviour, Kind())
            kind.requests += task.requests
            kind.late += task.late
    for task in last.values():
        kinds[task.behaviour].tasks += 1
        kinds[task.behaviour].finished += task.last_end is not None
        kinds[task.behaviour].completed += task.completed
    return kinds


def _counting(minutes: Iterable[float], end: float) -> Curve:
    times = sorted(minutes)
    return Curve([0.0, *times], list(range(len(times) + 1)), end)


def _running_maximum(points: Iterable[tuple[float, int]], end: float) -> Curve:
    """What is on disk stays on disk: a file read in the middle of a write does not take it back."""
    minutes, values = [0.0], [0]
    for minute, value in sorted(points):
        if value > values[-1]:
            minutes.append(max(minute, 0.0))
            values.append(value)
    return Curve(minutes, values, end)


def _effective(
    plan: Plan, parts: list[dict[str, TaskRun]], observations: list[Observation], clock: _LegacyClock, end: float
) -> Curve:
    changes: list[tuple[float, int]] = []
    for part, seen in zip(parts, observations, strict=True):
        for task in part.values():
            over = seen.stopped if task.last_end is None else task.last_end
            if over > task.deadline_at:
                changes.append((task.deadline_at, -1))
                if task.last_end is not None or seen is not observations[-1]:
                    changes.append((over, 1))
    minutes, values = [0.0], [plan.workers]
    for t, change in sorted(changes):
        minutes.append(clock(t))
        values.append(values[-1] + change)
    return Curve(minutes, [max(0, value) for value in values], end)
