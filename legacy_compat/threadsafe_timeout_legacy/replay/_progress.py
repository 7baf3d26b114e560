"""Progress while a side runs: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from threadsafe_timeout_legacy.replay._driver import Show, Status
from threadsafe_timeout_legacy.replay._observe import Observation
from threadsafe_timeout_legacy.replay._plan import Plan
from threadsafe_timeout_legacy.replay._timeline import INCIDENT

__all__ = ["progress"]

_ENDINGS = {"exited": "exited by itself", "limit": "still running at the limit: killed", "killed": "killed"}


def _sentence(status: Status, plan: Plan) -> str:
    return (f"minute {status.minute:5.1f}   {status.finished:3d}/{plan.tasks} finished   "
            f"{status.effective:3d}/{plan.workers} workers effective   {status.on_disk:3d} on disk   "
            f"{status.threads:3d} threads")


class _Lines:
    def __init__(self, console: Console, plan: Plan) -> None:
        self._console, self._plan = console, plan
        self._due: list[float] = []

    def begin(self, side: str) -> None:
        self._due = [moment.minute for moment in INCIDENT]
        self._console.print(f"{side}: {self._plan.described(side)}", markup=False, soft_wrap=True)

    def status(self, status: Status) -> None:
        if self._due and status.minute >= self._due[0]:
            self._due = [minute for minute in self._due if minute > status.minute]
            self._console.print("  " + _sentence(status, self._plan), markup=False, soft_wrap=True)

    def end(self, observation: Observation) -> None:
        self._console.print(f"  {_ENDINGS[observation.ending]}", markup=False, soft_wrap=True)


class _Bars:
    def __init__(self, bars: Progress, plan: Plan) -> None:
        self._bars, self._plan = bars, plan
        self._current: TaskID | None = None

    def begin(self, side: str) -> None:
        self._current = self._bars.add_task(
            f"{side}: {self._plan.described(side)}", total=self._plan.limit, seen="starting"
        )

    def status(self, status: Status) -> None:
        assert self._current is not None
        self._bars.update(self._current, completed=min(status.minute, self._plan.limit),
                          seen=_sentence(status, self._plan))

    def end(self, observation: Observation) -> None:
        assert self._current is not None
        task = self._bars.tasks[self._current]
        self._bars.update(self._current, completed=self._plan.limit,
                          seen=f"{task.fields['seen']}   {_ENDINGS[observation.ending]}")


@contextmanager
def progress(console: Console, plan: Plan) -> Iterator[Show]:
    """A display of the kind `console` can show."""
    if not console.is_terminal:
        yield _Lines(console, plan)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[seen]}"))
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars, plan)
