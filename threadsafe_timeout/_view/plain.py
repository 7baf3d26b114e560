"""A picture of a run as plain lines, for pipes, log files and terminals without rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from threadsafe_timeout._view.picture import Picture, Row, important
from threadsafe_timeout._view.words import at_place, duration, event_line, rate_in_words, sparkline

__all__ = ["counts_line", "eta_words", "header_lines", "lines_of", "pace_line", "row_line"]

# In the order in which they are shown: the name in the file, the words, and whether it is shown when it is 0. Each task
# is in one of the first six; the next two are of the same tasks.
_COUNTS = (
    ("done", "done", True), ("failed", "failed", True), ("timed_out", "timed out", True),
    ("cancelled", "cancelled", False), ("running", "running", True), ("pending", "pending", True),
    ("saved", "saved", True), ("loops", "loops ended", False),
    ("scopes", "deadlines of blocks passed", False),
)  # fmt: skip
_EVENTS = 15


def counts_line(picture: Picture) -> str:
    """`done 812 · failed 3 · timed out 5 (abandoned 1) · running 100 · pending 180 · saved 812`."""
    totals = picture.totals
    shown = [f"{words} {totals.get(name, 0)}" + _of_which(name, totals) for name, words, always in _COUNTS
             if always or totals.get(name)]  # fmt: skip
    return " · ".join(shown)


def _of_which(name: str, totals: dict[str, int]) -> str:
    abandoned = totals.get("abandoned") if name == "timed_out" else 0
    return f" (abandoned {abandoned})" if abandoned else ""


def eta_words(picture: Picture) -> str:
    """When the rest is done at this pace, and what is not counted in that."""
    if picture.eta is None:
        return ""
    left_out = f" ({picture.stragglers} not counted)" if picture.stragglers else ""
    return f"{duration(picture.eta)} left without stragglers{left_out}"


def pace_line(picture: Picture) -> str:
    """Rate and time left; nothing for a run that is over."""
    if picture.run.state != "running":
        return ""
    eta = eta_words(picture)
    return rate_in_words(picture.rate) + (eta and f" · {eta}")


def effective_line(picture: Picture, columns: int, ascii_only: bool) -> str:
    """How many workers made progress in each of the last seconds, as bars."""
    if not picture.effective or not picture.width:
        return ""
    words = f"effective workers {picture.effective[-1]:g} of {picture.width} "
    bars = sparkline(picture.effective, picture.width, max(0, columns - len(words)), ascii_only)
    return words + bars


def header_lines(picture: Picture, columns: int = 100, ascii_only: bool = False) -> Iterator[str]:
    """What is above the table."""
    yield f"{picture.title} · {picture.state}"
    yield from (f"! {note}" for note in picture.notes)
    yield counts_line(picture)
    for line in (pace_line(picture), effective_line(picture, min(columns, 100), ascii_only)):
        if line:
            yield line


def row_line(row: Row) -> str:
    """A worker."""
    parts = [row.worker, row.state, row.task]
    for words, value in (("age", row.age), ("idle", row.idle), ("left", row.left)):
        if value is not None and row.state != "idle":
            parts.append(f"{words} {duration(value)}")
    if row.rung:
        parts.append(f"rung {row.rung}")
    parts += [row.phase, at_place(row.where)]
    return "  ".join(part for part in parts if part)


def lines_of(picture: Picture, events: Sequence[dict[str, Any]], ascii_only: bool = False) -> Iterator[str]:
    """All of it. Idle workers are only counted."""
    yield from header_lines(picture, ascii_only=ascii_only)
    busy = [row for row in picture.rows if row.state != "idle"]
    if busy:
        yield ""
        yield from map(row_line, busy)
    if len(busy) < len(picture.rows):
        yield f"idle workers: {len(picture.rows) - len(busy)}"
    told = important(events, _EVENTS)
    if told:
        yield ""
        yield from (event_line(event, picture.now) for event in told)
