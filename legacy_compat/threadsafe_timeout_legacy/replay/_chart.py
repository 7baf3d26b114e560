"""The chart: three panels over one axis of legacy minutes, of the parts that every page has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from threadsafe_timeout._view.charts import (
    Axis,
    Panel,
    dot,
    label,
    level,
    picture,
    rule,
    step_path,
    stretched,
)  # fmt: skip
from threadsafe_timeout._view.page import Html
from threadsafe_timeout_legacy.replay._analysis import Curve, SideResult
from threadsafe_timeout_legacy.replay._facts import legacy_time
from threadsafe_timeout_legacy.replay._plan import DEADLINE_MINUTES, Plan
from threadsafe_timeout_legacy.replay._timeline import INCIDENT

__all__ = ["chart"]

_PANEL, _GAP, _TOP = 150, 64, 34
_TICKS = (0, 1, 2, 5, 10, 15, 30, 60, 120, 240, 480)
_LINE = 18  # pixels between two labels


@dataclass(frozen=True)
class _Curves:
    """A panel, and what is drawn in it."""

    panel: Panel
    curve: Callable[[SideResult], Curve]
    incident: tuple[tuple[float, int], ...] = ()
    stays: bool = True
    """Whether the last value still holds after the process has exited."""


class _Minutes:
    """Minutes to shares of the width. Logarithmic (of minute + 1): one run is over in minutes, the other lasts for
    hours."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.axis = Axis(1.0, limit + 1.0, logarithmic=True)

    def at(self, minute: float) -> float:
        return self.axis.at(minute + 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        return [(tick + 1.0, f"{tick // 60} h" if tick >= 60 else str(tick)) for tick in _TICKS if tick <= self.limit]


def chart(plan: Plan, results: dict[str, SideResult]) -> Html:
    """The SVG element. Lines are steps: a value holds until the next one."""
    ends = [result.end_minute for result in results.values()]
    minutes = _Minutes(max(plan.limit if "before" in results else 0.0, 12.0, *ends))
    panels = _panels(plan, minutes.limit)
    height = panels[-1].panel.top + _PANEL + 26
    frames = [part for one in panels for part in one.panel.frame(minutes.axis, minutes.ticks())]
    paths = [path for one in panels for path in _paths(one, minutes, results)]
    marks = [part for one in panels for part in _marks(one, minutes, results)]
    return picture(
        "replay", "Before and after", "Tasks finished, effective workers and saved results over legacy time", height,
        *frames, stretched(height, *paths), *marks,
    )  # fmt: skip


def _panels(plan: Plan, limit: float) -> tuple[_Curves, ...]:
    working = tuple((moment.minute, moment.working) for moment in INCIDENT
                    if moment.working is not None and moment.minute <= limit)
    comparable = plan.workers == 100  # the incident had a hundred workers

    def panel(number: int, title: str, highest: int) -> Panel:
        return Panel(title, _TOP + number * (_PANEL + _GAP), _PANEL, highest)

    return (
        _Curves(panel(0, "Tasks finished", plan.tasks), lambda side: side.finished_curve),
        _Curves(panel(1, "Workers still effective", plan.workers), lambda side: side.effective_curve,
                incident=working if comparable else (), stays=False),
        _Curves(panel(2, "Results that survive a kill", plan.tasks), lambda side: side.disk_curve),
    )


def _paths(one: _Curves, minutes: _Minutes, results: dict[str, SideResult]) -> Iterable[Html]:
    for side, result in results.items():
        curve = one.curve(result)
        points = [(minutes.at(0), one.panel.y(curve.values[0]))]
        points += [(minutes.at(minute), one.panel.y(value))
                   for minute, value in zip(curve.minutes, curve.values, strict=True)]
        yield step_path(points, minutes.at(curve.end), f"line {side}")


def _marks(one: _Curves, minutes: _Minutes, results: dict[str, SideResult]) -> Iterable[Html]:
    panel = one.panel
    deadline, bottom = minutes.at(DEADLINE_MINUTES), panel.top + _PANEL
    yield rule(deadline, panel.top, bottom, "deadline")
    yield label(deadline - 0.01, bottom - 7, "first deadlines", "deadline-text", "end")
    for minute, value in one.incident:
        words = f"the incident, {legacy_time(minute)}: {value} working"
        yield dot(minutes.at(minute), panel.y(value), "incident", 5, words)
    labels = []
    for side, result in results.items():
        curve = one.curve(result)
        last = panel.y(curve.values[-1])
        if result.ending == "exited":
            yield from _exit(one, side, result, minutes.at(curve.end), last)
        labels.append((last, side, str(curve.values[-1])))
    yield from panel.scale()
    yield from _end_labels(labels)


def _exit(one: _Curves, side: str, result: SideResult, share: float, y: float) -> Iterable[Html]:
    if one.stays:
        yield level(y, f"stays {side}", share)
    words = f"{side}: the process exited by itself at {legacy_time(result.end_minute)}"
    yield dot(share, y, f"exit {side}", 5.5, words)
    if not one.stays:
        yield label(share, y - 10, "exited", f"label {side}")


def _end_labels(labels: list[tuple[float, str, str]]) -> Iterable[Html]:
    """Side and last value at the right edge, over the line's end, moved up where they would touch."""
    lowest = math.inf
    for y, side, value in sorted(labels, reverse=True):
        lowest = min(y - 6, lowest - _LINE)
        yield label(1.0, lowest, f"{side}: {value}", f"label {side}")
