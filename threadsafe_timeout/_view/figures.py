"""The charts of the report, each with its numbers as a table."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from threadsafe_timeout._view.charts import (
    Axis,
    Panel,
    bar,
    duration_ticks,
    hatching,
    label,
    legend,
    logarithmic,
    percent,
    picture,
    rule,
    step_path,
    stretched,
    time_ticks,
)  # fmt: skip
from threadsafe_timeout._view.page import Html, element, folded, table
from threadsafe_timeout._view.page_words import duration
from threadsafe_timeout._view.summary import PHASES, Summary

__all__ = ["durations", "over_time", "where_the_time_went"]

_POINTS = 480  # more steps than a small screen has pixels
_MOMENTS = 12  # rows of the table beside a chart
_BINS = 32
_PHASE_WORDS = {
    "llm": "LLM calls", "search": "searching", "tools": "running tools", "sleep": "sleeping",
    "lock": "waiting for locks", "network": "other network", "process": "waiting for processes",
    "await": "awaiting something else", "python": "running Python code", "stuck": "stuck, past the deadline",
}  # fmt: skip


def over_time(summary: Summary, began: float, ended: float) -> Iterable[Html]:
    """Effective workers and finished tasks."""
    ticks, seconds = summary.ticks, max(ended - began, 0.001)
    if not ticks.t:
        yield element("p", "The run wrote no state of its pools: it was over, or killed, within its first second.")
        return
    axis = Axis(0.0, seconds)
    marks = time_ticks(seconds)
    effective = _columns(ticks.t, ticks.effective, began, seconds, min)  # a stall is not to be smoothed away
    finished = _columns(ticks.t, ticks.finished, began, seconds, max)  # it only grows: the last
    panels = (
        (Panel("Effective workers", 40, 130, max(ticks.effective)), effective),
        (Panel("Finished tasks", 248, 130, max(ticks.finished)), finished),
    )
    parts: list[Html] = []
    paths: list[Html] = []
    over: list[Html] = []
    for panel, points in panels:
        parts += panel.frame(axis, marks)
        paths.append(step_path(((share, panel.y(value)) for share, value in points), 1.0, "line"))
        over += panel.scale()
    yield element("p", "A worker is effective while it runs a task that is not overdue.", class_="soft")
    yield element("figure", picture(
        "over-time", "Effective workers and finished tasks over time",
        f"At most {max(ticks.effective):,} workers were effective, {ticks.effective[-1]:,} at the end; "
        f"{ticks.finished[-1]:,} tasks had finished by then.", 408, *parts, stretched(408, *paths), *over,
    ))  # fmt: skip
    yield folded("As a table", table(
        "Effective workers and finished tasks over time", ("after", "effective workers", "finished tasks"),
        [(duration(t - began), f"{ticks.effective[index]:,}", f"{ticks.finished[index]:,}")
         for index, t in _moments(ticks.t)], numbers=(1, 2),
    ))  # fmt: skip


def _columns(
    t: Sequence[float], values: Sequence[int], began: float, seconds: float, chosen: Callable[[int, int], int]
) -> list[tuple[float, float]]:
    """The steps of a line; `chosen` says which of two that fall together is drawn."""
    found: dict[int, int] = {}
    for moment, value in zip(t, values, strict=True):
        column = int(min(max((moment - began) / seconds, 0.0), 1.0) * _POINTS)
        found[column] = chosen(found.get(column, value), value)
    points = [(column / _POINTS, float(value)) for column, value in sorted(found.items())]
    return points if points[0][0] == 0 else [(0.0, 0.0), *points]


def _moments(t: Sequence[float]) -> list[tuple[int, float]]:
    last = len(t) - 1
    chosen = sorted({round(last * number / (_MOMENTS - 1)) for number in range(_MOMENTS)})
    return [(index, t[index]) for index in chosen]


def where_the_time_went(summary: Summary) -> Iterable[Html]:
    """Bars of what the tasks' time was spent in, the most first."""
    total = summary.took_with_phases
    parts = {_PHASE_WORDS[name]: float(summary.phases[name]) for name in PHASES if summary.phases[name]}
    rest = total - sum(parts.values())
    if rest > 0.005 * total:
        parts["not known"] = rest
    if not parts or total <= 0:
        yield element("p", "No task says what its time was spent in.")
        return
    rows = sorted(parts.items(), key=lambda one: -one[1])
    whole = max(total, sum(parts.values()))
    drawn: list[Html] = []
    for position, (name, seconds) in enumerate(rows):
        y = 16 + 40 * position
        drawn += [label(0, y, f"{name}: {duration(seconds)}, {percent(round(seconds / whole, 3))}", "name"),
                  bar(0, 1, y + 6, 10, "track"),
                  bar(0, seconds / whole, y + 6, 10, "bar")]  # fmt: skip
    yield element("figure", picture(
        "where", "Where the time of the tasks went", "; ".join(f"{name} {duration(seconds)}" for name, seconds in rows),
        40 * len(rows), *drawn,
    ))  # fmt: skip
    yield folded("As a table", table(
        "Where the time of the tasks went", ("spent in", "time", "share"),
        [(name, duration(seconds), percent(round(seconds / whole, 3))) for name, seconds in rows], numbers=(1, 2),
    ))  # fmt: skip
    if summary.without_phases:
        yield element("p", f"{summary.without_phases:,} tasks do not say, and are not in it.", class_="soft")


def durations(summary: Summary) -> Iterable[Html]:
    """How long the tasks took, with their deadlines. The axis is logarithmic: most runs have short and long tasks."""
    took = summary.tasks.took
    if not took:
        yield element("p", "No task has a line of its own.")
        return
    deadlines = sorted(limit for limit, _ in summary.deadlines.most_common(3) if limit > 0)
    axis = logarithmic(min(took), max(*took, *deadlines) * 1.05 if deadlines else max(took) * 1.05)
    good, bad = _binned(summary, axis)
    highest = max(good[place] + bad[place] for place in range(_BINS))
    panel = Panel("Tasks by how long they took", 40, 190, highest)
    parts, over = [*panel.frame(axis, duration_ticks(axis))], []
    for place in range(_BINS):
        left, right = place / _BINS + 0.002, (place + 1) / _BINS - 0.002
        for count, below, kind in ((good[place], 0, "done"), (bad[place], good[place], "hatched")):
            if count:
                top, bottom = panel.y(below + count), panel.y(below)
                height = max(bottom - top, 2.0)
                parts.append(bar(left, right, bottom - height, height, kind))
    for position, limit in enumerate(deadlines):
        over += [rule(axis.at(limit), panel.top, panel.top + panel.height, "deadline"),
                 _beside(axis.at(limit), panel.top + 12 + 16 * position, f"deadline {duration(limit)}")]  # fmt: skip
    swatches = [(element("path", class_="done", d="M2 0h26v12h-26z"), "done")]
    if bad.total():
        swatches.append((element("path", class_="hatched", d="M2 0h26v12h-26z"), "ended in another way"))
    yield legend(swatches)
    yield element("figure", picture(
        "durations", "Tasks by how long they took", _spread(summary), 260, hatching("hatching", "other"), *parts,
        *panel.scale(), *over,
    ))  # fmt: skip
    if len(summary.deadlines) > len(deadlines):
        yield element("p", f"Tasks had {len(summary.deadlines)} different deadlines; drawn are the most frequent.")
    yield folded("As a table", _durations_table(axis, good, bad))


def _beside(share: float, y: float, words: str) -> Html:
    """A text on that side of a line where there is more room."""
    kind = "deadline-text"
    return label(share - 0.01, y, words, kind, "end") if share > 0.5 else label(share + 0.01, y, words, kind, "start")


def _binned(summary: Summary, axis: Axis) -> tuple[Counter[int], Counter[int]]:
    """Tasks that were done, and others, in each bin of the axis."""
    edges = [_edge(axis, place) for place in range(1, _BINS)]
    good, bad = Counter[int](), Counter[int]()
    for seconds, outcome in zip(summary.tasks.took, summary.tasks.outcome, strict=True):
        (bad if outcome else good)[bisect_right(edges, seconds)] += 1
    return good, bad


def _edge(axis: Axis, place: int) -> float:
    return float(axis.low * (axis.high / axis.low) ** (place / _BINS))


def _spread(summary: Summary) -> str:
    ordered = sorted(summary.tasks.took)
    median = duration(ordered[len(ordered) // 2])
    return (f"Of {len(ordered):,} tasks, half took less than {median}, nine of ten less than "
            f"{duration(ordered[len(ordered) * 9 // 10])}; the longest took {duration(ordered[-1])}.")  # fmt: skip


def _durations_table(axis: Axis, good: Counter[int], bad: Counter[int]) -> Html:
    edges = [duration(_edge(axis, place)) for place in range(_BINS + 1)]
    rows = [(f"{edges[place]} to {edges[place + 1]}", f"{good[place]:,}", f"{bad[place]:,}")
            for place in range(_BINS) if good[place] or bad[place]]
    return table("Tasks by how long they took", ("took", "done", "ended in another way"), rows, numbers=(1, 2))
