"""Charts as inline SVG that is as wide as the page, whatever that is.

Places along x are shares of the width (0 to 1), places along y are pixels. So the lines and bars of a chart get
narrower on a small screen, and its texts stay as large as they were. Labels of the y axis stand inside, on their lines:
a margin would be too wide on a small screen or too narrow on a large one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from threadsafe_timeout._view.page import Html, element

__all__ = [
    "Axis", "Panel", "bar", "count_ticks", "dot", "duration_ticks", "hatching", "label", "legend", "level",
    "logarithmic", "percent", "picture", "rule", "short_seconds", "step_path", "stretched", "time_ticks",
]  # fmt: skip

_COLUMNS = 1000  # units that the whole width has inside `stretched`
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600,
          7200, 14400, 28800, 43200, 86400)  # fmt: skip
_ROUND = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000)
_FINER = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800,
          3600, 7200, 18000, 36000, 86400)  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """Values to shares of the width."""

    low: float
    high: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.high <= self.low:
            return 0.0
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def logarithmic(low: float, high: float) -> Axis:
    """An axis from `low`, but at least a millisecond, to `high`."""
    low = max(low, 0.001)
    return Axis(low, max(high, low * 2), logarithmic=True)


def percent(share: float) -> str:
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def picture(name: str, title: str, description: str, height: float, *parts: object, kind: str = "chart") -> Html:
    """The SVG element. `name` is unique on the page; title and description are for those who do not see it."""
    return element(
        "svg", element("title", title, id=f"{name}-title"), element("desc", description, id=f"{name}-desc"), *parts,
        class_=kind, width="100%", height=height, role="img", aria_labelledby=f"{name}-title {name}-desc",
    )  # fmt: skip


def stretched(height: float, *parts: object) -> Html:
    """Paths, whose places along x are thousandths of the width: only they cannot be given in percent."""
    return element("svg", *parts, class_="stretched", viewBox=f"0 0 {_COLUMNS} {height}", preserveAspectRatio="none",
                   width="100%", height=height)


def label(share: float, y: float, words: str, kind: str, anchor: str | None = None) -> Html:
    """A text in the middle of its place; near an edge, on the inner side of it."""
    if anchor is None:
        anchor = "start" if share < 0.06 else "end" if share > 0.94 else "middle"
    return element("text", words, class_=kind, x=percent(share), y=round(y, 1), text_anchor=anchor)


def rule(share: float, top: float, bottom: float, kind: str) -> Html:
    """A line from above to below."""
    return element("line", class_=kind, x1=percent(share), y1=top, x2=percent(share), y2=bottom)


def level(y: float, kind: str, start: float = 0.0, end: float = 1.0) -> Html:
    """A line from the left to the right."""
    return element("line", class_=kind, x1=percent(start), y1=y, x2=percent(end), y2=y)


def dot(share: float, y: float, kind: str, radius: float, title: str) -> Html:
    return element("circle", element("title", title), class_=kind, cx=percent(share), cy=y, r=radius)


def bar(start: float, end: float, y: float, height: float, kind: str) -> Html:
    """A bar that can be seen however short it is."""
    width = max(end - start, 0.002)
    return element("rect", class_=kind, x=percent(start), y=round(y, 1), width=percent(width), height=round(height, 1))


def step_path(points: Iterable[tuple[float, float]], end: float, kind: str) -> Html:
    """A line of steps, for `stretched`: a value (in pixels) holds from its place (a share) until the next one."""
    parts: list[str] = []
    for share, y in points:
        parts.append(f"H{_units(share)}V{y:g}" if parts else f"M{_units(share)} {y:g}")
    return element("path", class_=kind, d="".join([*parts, f"H{_units(end)}"]) if parts else "M0 0")


def _units(share: float) -> str:
    return f"{_COLUMNS * share:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Panel:
    """One of the charts over one axis, one below the other."""

    title: str
    top: float
    height: float
    highest: float

    def y(self, value: float) -> float:
        return round(self.top + self.height - self.height * value / max(self.highest, 1), 1)

    def frame(self, axis: Axis, ticks: Iterable[tuple[float, str]]) -> Iterable[Html]:
        """The title, the lines of the y axis and the ticks of the x axis."""
        yield element("text", self.title, class_="panel", x=0, y=self.top - 24)
        bottom = self.top + self.height
        for value in count_ticks(self.highest):
            yield level(self.y(value), "grid")
        for moment, words in ticks:
            yield rule(axis.at(moment), bottom, bottom + 5, "tick")
            yield label(axis.at(moment), bottom + 19, words, "axis")

    def scale(self) -> Iterable[Html]:
        """The numbers of the y axis, to be drawn over the rest."""
        for value in count_ticks(self.highest)[1:]:
            yield label(0.0, self.y(value) - 4, f"{value:,}", "axis")


def count_ticks(highest: float) -> list[int]:
    """Zero, the middle and the top of an axis of counts."""
    top = max(math.ceil(highest), 1)
    return sorted({0, top // 2, top})


def time_ticks(seconds: float, most: int = 5) -> list[tuple[float, str]]:
    """Round moments of a time that begins at zero, with what to write at them."""
    step = next((step for step in _STEPS if seconds / step <= most), None) or 86400 * math.ceil(seconds / 86400 / most)
    return [(number * step, short_seconds(number * step)) for number in range(int(seconds / step + 1e-9) + 1)]


def duration_ticks(axis: Axis, most: int = 6) -> list[tuple[float, str]]:
    """Round durations on a logarithmic axis."""
    for known in (_ROUND, _FINER):
        found = [value for value in known if axis.low <= value <= axis.high]
        if len(found) >= 3:
            break
    every = math.ceil(len(found) / most) if found else 1
    return [(value, short_seconds(value)) for value in found[::every]]


def short_seconds(seconds: float) -> str:
    """A round duration, as short as a label of an axis is."""
    if seconds >= 3600 and seconds % 1800 == 0:
        return f"{seconds / 3600:g} h"
    if seconds >= 60 and seconds % 30 == 0:
        return f"{seconds / 60:g} min"
    return f"{seconds * 1000:g} ms" if 0 < seconds < 0.1 else f"{seconds:g} s" if seconds else "0"


def hatching(name: str, kind: str) -> Html:
    """A pattern to fill with, so that colour alone says nothing."""
    return element("defs", element(
        "pattern", element("rect", class_=kind, width=6, height=6, opacity="0.35"),
        element("path", class_=kind, d="M0 0h3v6h-3z"),
        id=name, width=6, height=6, patternUnits="userSpaceOnUse", patternTransform="rotate(45)",
    ))  # fmt: skip


def legend(entries: Sequence[tuple[Html, str]]) -> Html:
    """What the marks mean. Each mark is drawn in a box of 30 by 12."""
    return element("p", *(
        element("span", element("svg", mark, viewBox="0 0 30 12", aria_hidden="true"), words) for mark, words in entries
    ), class_="legend")  # fmt: skip
