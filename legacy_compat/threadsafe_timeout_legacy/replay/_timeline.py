"""The incident's own timeline, to hold the replay against."""

from __future__ import annotations

from dataclasses import dataclass

from threadsafe_timeout_legacy.replay._analysis import SideResult

__all__ = ["INCIDENT", "Moment", "Row", "rows"]


@dataclass(frozen=True)
class Moment:
    """What was reported for one minute of the incident. `working`: workers still doing work, where it was said."""

    minute: float
    label: str
    text: str
    working: int | None = None


INCIDENT = (
    Moment(0, "0 min", "100 workers start on 100 tasks", 100),
    Moment(5, "5 min", "30 tasks done, 70 still running", 100),
    Moment(10, "10 min", "20 workers stuck in search loops: the timeout does not fire", 80),
    Moment(15, "15 min", "20 more workers stuck", 60),
    Moment(30, "30 min", "60 workers stuck, 40 working", 40),
    Moment(60, "1 h", "80 workers stuck, 20 working", 20),
    Moment(120, "2 h", "90 workers stuck, 10 working", 10),
    Moment(480, "8 h", "nearly all stuck or waiting; nothing was saved", None),
)


@dataclass(frozen=True)
class Row:
    """One side at one minute. All None: the replay did not look that far."""

    minute: float
    finished: int | None
    effective: int | None
    on_disk: int | None
    over: bool
    """The process had exited by itself by then: no workers any more, and nothing left to kill."""


def rows(result: SideResult) -> list[Row]:
    """`result` at each minute of the incident's timeline."""
    found = []
    for moment in INCIDENT:
        over = result.ending == "exited" and moment.minute >= result.end_minute
        # the process was killed at the limit: a hair later than the limit itself
        if moment.minute > result.end_minute + 0.01 and not over:
            found.append(Row(moment.minute, None, None, None, over=False))
            continue
        effective = None if over else result.effective_curve.at(moment.minute)
        found.append(Row(moment.minute, result.finished_curve.at(moment.minute), effective,
                         result.disk_curve.at(moment.minute), over))
    return found
