"""What the library promises, checked against what was seen of the run with the line."""

from __future__ import annotations

from dataclasses import dataclass

from threadsafe_timeout_legacy.replay._analysis import SideResult
from threadsafe_timeout_legacy.replay._plan import Plan

__all__ = ["Promise", "check"]

_RESULT_SECONDS = 2.0
_EXIT_SECONDS = 1.0


@dataclass(frozen=True)
class Promise:
    """One promise, whether it held, and the numbers that say so."""

    text: str
    held: bool
    seen: str


def check(plan: Plan, after: SideResult) -> list[Promise]:
    """Every promise, in the order a reader cares about them."""
    promises = [_results(plan, after), _late(after), _connections(plan, after), _disk(plan, after), _exit(after)]
    if plan.kill_at is not None:
        promises.append(_resume(after))
    return promises


def _results(plan: Plan, after: SideResult) -> Promise:
    late = after.database_late_seconds
    if late is None:
        seen = f"{after.database} of {plan.tasks} results in the database"
    else:
        seen = f"all {after.database}, {abs(late):.2f} s {'after' if late > 0 else 'before'} the last task's deadline"
    held = late is not None and late <= _RESULT_SECONDS and after.database == plan.tasks
    return Promise(f"every task has its result in the database within its deadline + {_RESULT_SECONDS:g} s", held, seen)


def _late(after: SideResult) -> Promise:
    return Promise("no request begins after its task's deadline", after.late_requests == 0 and after.requests > 0,
                   f"{after.late_requests} of {after.requests} requests")


def _connections(plan: Plan, after: SideResult) -> Promise:
    return Promise(f"no connection is held longer than the grace ({plan.grace:g} s) after a deadline",
                   after.over_grace_seconds == 0.0, f"{after.over_grace_seconds:.2f} connection-seconds")


def _disk(plan: Plan, after: SideResult) -> Promise:
    return Promise("every finished task is on disk", after.journal == plan.tasks,
                   f"{after.journal} of {plan.tasks} in the checkpoint")


def _exit(after: SideResult) -> Promise:
    seconds = after.exit_seconds
    if seconds is None:
        return Promise(f"the process exits within {_EXIT_SECONDS:g} s of the batch", False, "it had to be killed")
    held = seconds <= _EXIT_SECONDS and after.exit_code == 0
    return Promise(f"the process exits within {_EXIT_SECONDS:g} s of the batch", held,
                   f"{max(0.0, seconds):.2f} s, with status {after.exit_code}")


def _resume(after: SideResult) -> Promise:
    text = "killed and started again, nothing that was saved runs twice"
    if after.saved_at_kill is None:
        return Promise(text, True, "the batch was over before it could be killed")
    return Promise(text, after.rerun == 0, f"{after.saved_at_kill} saved at the kill, {after.rerun} of them run again")
