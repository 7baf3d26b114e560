"""Runs the sides of a replay one after the other, against one server, and leaves everything in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from threadsafe_timeout.testing.fake_llm import FakeLLM, read_log
from threadsafe_timeout_legacy.replay._analysis import SideResult, analyse, now_finished, task_runs
from threadsafe_timeout_legacy.replay._observe import Observation, Watched, load_observations, observe
from threadsafe_timeout_legacy.replay._plan import Plan, load_plan, save_plan
from threadsafe_timeout_legacy.replay._workspace import Workspace, prepare

__all__ = ["Show", "Status", "read_results", "replay"]

_LOG = "server.jsonl"
_LIVE_SECONDS = 0.25
_START_UP_SECONDS = 120.0  # a runner that has asked nothing by then never will


class Status:
    """What a display shows of a running side. Minutes are legacy minutes."""

    def __init__(self, side: str, minute: float, finished: int, effective: int, watched: Watched) -> None:
        self.side = side
        self.minute = minute
        self.finished = finished
        self.effective = effective
        self.on_disk = max(watched.database, watched.saved)
        self.threads = watched.threads


class Show(Protocol):
    """Where progress goes."""

    def begin(self, side: str) -> None: ...
    def status(self, status: Status) -> None: ...
    def end(self, observation: Observation) -> None: ...


class _Decision:
    """Called at every look: shows progress, and says when to end the process."""

    def __init__(self, plan: Plan, side: str, run: str, log: Path, show: Show, kill_at: float | None) -> None:
        self._plan, self._side, self._run, self._log, self._show = plan, side, run, log, show
        self._kill_at = kill_at
        self._zero: float | None = None
        self._began: float | None = None
        self._looked = 0.0

    def __call__(self, watched: Watched) -> str | None:
        if self._began is None:
            self._began = watched.now
        if watched.now - self._looked >= _LIVE_SECONDS:
            self._looked = watched.now
            self._look(watched)
        if self._zero is None:
            return "limit" if watched.now - self._began > _START_UP_SECONDS else None
        minute = (watched.now - self._zero) / self._plan.minute
        if self._kill_at is not None and minute >= self._kill_at:
            return "killed"
        return "limit" if minute >= self._plan.limit else None

    def _look(self, watched: Watched) -> None:
        requests = [request for request in read_log(self._log).requests if request.run == self._run]
        if not requests:
            return
        self._zero = requests[0].start
        tasks = task_runs(requests, self._plan, watched.now, killed=False)
        finished, effective = now_finished(tasks, watched.now, self._plan)
        minute = (watched.now - self._zero) / self._plan.minute
        self._show.status(Status(self._side, minute, finished, effective, watched))


def replay(plan: Plan, folder: Path, show: Show) -> None:
    """Run what `plan` says in `folder` (empty), which then holds all that `read_results` needs.

    Every process this starts has ended when it returns or raises.
    """
    save_plan(plan, folder)
    log = folder / _LOG
    with FakeLLM(mix=plan.mix, seed=plan.seed, minute=plan.minute, deadline=plan.deadline, log=log,
                 tasks=plan.tasks) as llm:
        for side in plan.sides:
            show.begin(side)
            place = folder / side
            place.mkdir()
            workspace = prepare(place, plan, side, llm.base_url)
            kill_at = plan.kill_at if side == "after" else None
            first = _run(plan, side, side, workspace, llm, show, kill_at)
            if first.ending == "killed":
                first = _run(plan, side, f"{side}-resumed", workspace, llm, show, None)
            show.end(first)


def _run(
    plan: Plan, side: str, run: str, workspace: Workspace, llm: FakeLLM, show: Show, kill_at: float | None
) -> Observation:
    llm.begin_run(run)
    return observe(run, workspace, _Decision(plan, side, run, llm.log_path, show, kill_at))


def read_results(folder: Path) -> tuple[Plan, dict[str, SideResult]]:
    """The plan and the numbers of a replay, from the files it left in `folder`. ValueError if it left none."""
    try:
        plan, log = load_plan(folder), read_log(folder / _LOG)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder} does not hold a replay: {error}") from error
    observed = {side: load_observations(folder / side) for side in plan.sides}
    return plan, {side: analyse(plan, side, log, seen) for side, seen in observed.items() if seen}
