"""The chart: three panels over one axis of legacy minutes, as inline SVG without script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

from threadsafe_timeout_legacy.replay._analysis import Curve, SideResult
from threadsafe_timeout_legacy.replay._facts import legacy_time
from threadsafe_timeout_legacy.replay._plan import DEADLINE_MINUTES, Plan
from threadsafe_timeout_legacy.replay._timeline import INCIDENT

__all__ = ["chart"]

_WIDTH, _LEFT, _RIGHT = 960, 52, 150
_PANEL, _GAP, _TOP = 150, 58, 34
_TICKS = (0, 1, 2, 5, 10, 15, 30, 60, 120, 240, 480)


@dataclass(frozen=True)
class _Axis:
    """Minutes to pixels. Logarithmic (of minute + 1): one run is over in minutes, the other lasts for hours."""

    limit: float

    def x(self, minute: float) -> float:
        inner = _WIDTH - _LEFT - _RIGHT
        share = math.log1p(min(max(minute, 0.0), self.limit)) / math.log1p(self.limit)
        return round(_LEFT + inner * share, 1)


@dataclass(frozen=True)
class _Panel:
    title: str
    curve: Callable[[SideResult], Curve]
    top: float
    highest: int
    incident: tuple[tuple[float, int], ...] = ()
    stays: bool = True
    """Whether the last value still holds after the process has exited."""

    def y(self, value: float) -> float:
        return round(self.top + _PANEL - _PANEL * value / self.highest, 1)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def chart(plan: Plan, results: dict[str, SideResult]) -> str:
    """The SVG element. Lines are steps: a value holds until the next one."""
    ends = [result.end_minute for result in results.values()]
    limit = max(plan.limit if "before" in results else 0.0, 12.0, *ends)
    axis = _Axis(limit)
    working = tuple((moment.minute, moment.working) for moment in INCIDENT
                    if moment.working is not None and moment.minute <= limit)
    comparable = plan.workers == 100  # the incident had a hundred workers
    tops = [_TOP + number * (_PANEL + _GAP) for number in range(3)]
    panels = (
        _Panel("Tasks finished", lambda side: side.finished_curve, tops[0], plan.tasks),
        _Panel("Workers still effective (not stuck on a task past its deadline)", lambda side: side.effective_curve,
               tops[1], plan.workers, incident=working if comparable else (), stays=False),
        _Panel("Results that survive if the process is killed at that moment", lambda side: side.disk_curve, tops[2],
               plan.tasks),
    )
    height = tops[2] + _PANEL + 52
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="chart-title">',
             '<title id="chart-title">Tasks finished, effective workers and saved results over legacy time, '
             'before and after</title>']
    for panel in panels:
        parts += _frame(panel, axis)
        parts += _incident(panel, axis)
        labels = []
        for side, result in results.items():
            curve = panel.curve(result)
            parts += _side(panel, axis, side, result, curve)
            labels.append((panel.y(curve.values[-1]), side, str(curve.values[-1])))
        parts += _end_labels(labels)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    caption = "legacy minutes since the first request (the scale stretches the first minutes)"
    parts.append(_text(middle, height - 8, caption, "axis", "middle"))
    return "\n".join([*parts, "</svg>"])


def _frame(panel: _Panel, axis: _Axis) -> Iterable[str]:
    yield _text(_LEFT, panel.top - 12, panel.title, "panel")
    for value in (0, panel.highest // 2, panel.highest):
        y = panel.y(value)
        yield _line(_LEFT, y, _WIDTH - _RIGHT, y, "grid")
        yield _text(_LEFT - 8, y + 4, str(value), "axis", "end")
    bottom = panel.top + _PANEL
    for tick in (tick for tick in _TICKS if tick <= axis.limit):
        x = axis.x(tick)
        yield _line(x, bottom, x, bottom + 5, "tick")
        label = f"{tick // 60} h" if tick >= 60 else f"{tick} min" if tick == 30 else str(tick)
        yield _text(x, bottom + 19, label, "axis", "middle")
    x = axis.x(DEADLINE_MINUTES)
    yield _line(x, panel.top, x, bottom, "deadline")
    yield _text(x - 5, bottom - 7, "first deadlines", "deadline-text", "end")


def _incident(panel: _Panel, axis: _Axis) -> Iterable[str]:
    for minute, value in panel.incident:
        yield (f'<circle class="incident" cx="{axis.x(minute)}" cy="{panel.y(value)}" r="5">'
               f"<title>the incident, {escape(legacy_time(minute))}: {value} working</title></circle>")


def _steps(panel: _Panel, axis: _Axis, curve: Curve, end: float) -> str:
    points = [f"M{axis.x(0)} {panel.y(curve.values[0])}"]
    for minute, value in zip(curve.minutes, curve.values, strict=True):
        points.append(f"H{axis.x(minute)}V{panel.y(value)}")
    return "".join([*points, f"H{axis.x(end)}"])


def _side(panel: _Panel, axis: _Axis, side: str, result: SideResult, curve: Curve) -> Iterable[str]:
    yield f'<path class="line {side}" d="{_steps(panel, axis, curve, curve.end)}"/>'
    if result.ending != "exited":
        return
    x, y = axis.x(curve.end), panel.y(curve.values[-1])
    if panel.stays:
        yield _line(x, y, _WIDTH - _RIGHT, y, f"stays {side}")
    words = f"{side}: the process exited by itself at {legacy_time(result.end_minute)}"
    yield f'<circle class="exit {side}" cx="{x}" cy="{y}" r="5.5"><title>{escape(words)}</title></circle>'
    if not panel.stays:
        yield _text(x + 10, y + 17, f"done, process exited ({legacy_time(result.end_minute)})", f"label {side}")


def _end_labels(labels: list[tuple[float, str, str]]) -> Iterable[str]:
    """Side and last value beside the right edge, moved apart where they would touch."""
    floor = -math.inf
    for y, side, value in sorted(labels):
        place = max(y + 5, floor)
        floor = place + 18
        yield _text(_WIDTH - _RIGHT + 10, place, f"{side}: {value}", f"label {side}")
