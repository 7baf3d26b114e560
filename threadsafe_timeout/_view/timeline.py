"""The workers' rows: what each did, over time. Bars that would be narrower than a pixel are drawn as one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from threadsafe_timeout._view.charts import Axis, label, legend, picture, rule, short_seconds, time_ticks
from threadsafe_timeout._view.fields import number, text
from threadsafe_timeout._view.page import Html, element, folded, table
from threadsafe_timeout._view.page import text as escaped
from threadsafe_timeout._view.page_words import duration
from threadsafe_timeout._view.summary import OUTCOMES, Summary, running_tasks

__all__ = ["OUTCOME_WORDS", "swatch", "timeline"]

OUTCOME_WORDS = {
    "done": "done", "failed": "failed", "timeout": "timed out", "loop": "loop ended", "cancelled": "cancelled",
    "abandoned": "given up, and stuck", "poison": "poison, not run", "unfinished": "not ended when this was written",
}  # fmt: skip
_ROWS = 200
_NAMES = 0.09  # of the width
_COLUMNS = 1000
# Where a bar begins and ends in its row: its shape says what its colour says.
_SHAPES = {"done": (0.3, 0.7), "failed": (0.0, 0.5), "timeout": (0.0, 1.0), "loop": (0.5, 1.0),
           "cancelled": (0.42, 0.58), "abandoned": (0.0, 1.0), "poison": (0.0, 0.25),
           "unfinished": (0.12, 0.88)}  # fmt: skip
_Row = tuple[str, str]
_Spans = dict[str, list[tuple[int, int]]]


def swatch(outcome: str) -> Html:
    """The mark of an outcome, for a legend."""
    first, last = _SHAPES[outcome]
    return element("path", class_=outcome, d=_bar(2, 26, 12 * first, 12 * (last - first), outcome))


def _bar(x: int, width: int, y: float, height: float, outcome: str) -> str:
    if outcome == "abandoned":  # two bars with a gap: also where it is one pixel wide
        third = round(height * 0.4, 1)
        return _bar(x, width, y, third, "") + _bar(x, width, y + height - third, third, "")
    return f"M{x} {y:.4g}h{width}v{height:.3g}h-{width}z"


def timeline(summary: Summary, status: dict[str, Any], began: float, ended: float) -> Iterable[Html]:
    """The picture, its legend, and its numbers as a table."""
    rows = _rows(summary, status, began, max(ended, began + 0.001))
    if not rows:
        yield element("p", "No task has a line of its own: there is nothing to draw.")
        return
    shown = _chosen(rows)
    seen = [name for name in _SHAPES if any(name in rows[row] for row in shown)]
    yield legend([(swatch(name), OUTCOME_WORDS[name]) for name in seen])
    if len(shown) < len(rows):
        yield element("p", f"{len(rows):,} workers had tasks. Shown are the {len(shown)} that had most trouble.")
    yield _picture(rows, shown, max(ended - began, 0.001))
    yield folded("The workers as a table", _table(summary, shown))


def _rows(summary: Summary, status: dict[str, Any], began: float, ended: float) -> dict[_Row, _Spans]:
    scale = _COLUMNS / (ended - began)

    def column(t: float) -> int:
        return min(max(int((t - began) * scale), 0), _COLUMNS - 1)

    tasks = summary.tasks
    names = list(tasks.workers)
    rows: dict[_Row, _Spans] = {name: defaultdict(list) for name in names}
    for start, end, outcome, worker in zip(tasks.start, tasks.end, tasks.outcome, tasks.worker, strict=True):
        rows[names[worker]][OUTCOMES[outcome]].append((column(start), column(end)))
    for one in running_tasks(status):
        started = number(one.get("started"))
        if started is not None:
            row = (text(one.get("pool")), text(one.get("worker")))
            rows.setdefault(row, defaultdict(list))["unfinished"].append((column(started), _COLUMNS - 1))
    return rows


def _chosen(rows: dict[_Row, _Spans]) -> list[_Row]:
    """All rows, or those with most trouble, in the order of their names."""
    found = list(rows)
    if len(found) > _ROWS:
        def trouble(row: _Row) -> int:
            return sum(1 + end - start for name, spans in rows[row].items() if name != "done" for start, end in spans)

        found = sorted(found, key=trouble, reverse=True)[:_ROWS]
    return sorted(found, key=lambda row: [(len(part), part) if part.isdigit() else (0, part)
                                          for part in re.split(r"(\d+)", "\0".join(row))])


def _merged(spans: list[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """Bars of a pixel at least. A wide one leaves a gap to the next; those that touch are one."""
    left = right = -1
    for start, end in sorted(spans):
        stop = end if end - start >= 3 else max(end, start + 1)
        if right < 0:
            left, right = start, stop
        elif start <= right and (stop - start < 3 or start < right):
            right = max(right, stop)
        else:
            yield left, right
            left, right = start, stop
    if right >= 0:
        yield left, right


def _picture(rows: dict[_Row, _Spans], shown: list[_Row], seconds: float) -> Html:
    height = 16 if len(shown) <= 40 else 10
    paths: dict[str, list[str]] = defaultdict(list)
    for position, row in enumerate(shown):
        for name, spans in rows[row].items():
            first, last = _SHAPES[name]
            top, tall = position * height + 1 + first * (height - 2), (last - first) * (height - 2)
            paths[name] += [
                _bar(left, max(right - left - (right - left >= 3), 1), top, tall, name)
                for left, right in _merged(spans)
            ]
    total = height * len(shown)
    drawn = [element("path", class_=name, d="".join(paths[name])) for name in _SHAPES if paths[name]]
    plot = element("svg", *drawn, class_="stretched", x=f"{_NAMES * 100:g}%", viewBox=f"0 0 {_COLUMNS} {total}",
                   preserveAspectRatio="none", width=f"{(1 - _NAMES) * 100:g}%", height=total)
    axis = Axis(0, seconds)
    ticks: list[Html] = []
    for value, words in time_ticks(seconds):
        share = _NAMES + (1 - _NAMES) * axis.at(value)
        ticks += [rule(share, 0, total + 5, "grid"), label(share, total + 19, words, "axis")]
    every = 1 if height > 12 else 5
    labels = [
        element("text", _short(row[1], position), class_="axis", x=f"{(_NAMES - 0.012) * 100:.1f}%",
                y=position * height + height / 2 + 4, text_anchor="end")
        for position, row in enumerate(shown) if position % every == 0
    ]  # fmt: skip
    tasks = sum(len(spans) for row in shown for spans in rows[row].values())
    return element("figure", picture(
        "timeline", "Worker timeline",
        f"{len(shown)} workers, one row each, and {tasks:,} tasks over {short_seconds(round(seconds))}. The table "
        "below has the numbers.", total + 26, *ticks, plot, *labels,
    ))  # fmt: skip


def _short(name: str, position: int) -> str:
    """The number at the end of a worker's name: there is no room for more."""
    found = re.search(r"\d{1,5}$", name)
    return found[0] if found else f"#{position + 1}"


def _table(summary: Summary, shown: list[_Row]) -> Html:
    tasks = summary.tasks
    counts: list[Counter[int]] = [Counter() for _ in tasks.workers]
    busy = [0.0] * len(tasks.workers)
    for outcome, worker, took in zip(tasks.outcome, tasks.worker, tasks.took, strict=True):
        counts[worker][outcome] += 1
        busy[worker] += took
    rows = []
    for row in shown:
        number_ = tasks.workers.get(row)
        of_row = counts[number_] if number_ is not None else Counter[int]()
        cells = [of_row[place] or "" for place in range(len(OUTCOMES))]
        rows.append([escaped(row[1]), of_row.total(), *cells, duration(busy[number_]) if number_ is not None else ""])
    head = ["worker", "tasks", *(OUTCOME_WORDS[name] for name in OUTCOMES), "time in tasks"]
    return table("The workers and how their tasks ended", head, rows, numbers=range(1, len(head)))
