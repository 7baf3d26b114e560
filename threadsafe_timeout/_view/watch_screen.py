"""What `watch` puts on a terminal: lines of a given number of columns, for rich to print.

It promises no line that is wider than the terminal, from 40 columns on, and no more lines than there is room for: what
matters least is left out first (events, details, the pace).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import chop_cells, set_cell_size
from rich.text import Text

from threadsafe_timeout._text import escaped
from threadsafe_timeout._view.picture import ORDERS, Picture, Row, important
from threadsafe_timeout._view.plain import counts_line, effective_line, pace_line
from threadsafe_timeout._view.words import at_place, duration, event_line

__all__ = ["StackView", "View", "chosen_row", "screen_lines", "visible_rows"]

_STYLES = {"abandoned": "bold red", "interrupting": "red", "overdue": "yellow", "idle": "dim"}
_STATES = {"ended": "bold green", "dead": "bold red", "running": "green"}
_DURATIONS = ("age", "idle", "left")  # to the right, under their titles
HELP = """\
watch shows a run by its files; it changes nothing in it.

  up, down, j, k      choose a worker (page up, page down, home, end)
  enter               the stack of the chosen worker, now
  s                   sort by trouble, age, idle, deadline, task, worker
  /                   show only workers with a text in task, key, state, phase or place; escape ends it
  q                   quit

age: since the task started. idle: since it last reached a call or a check that this library sees.
left: until its deadline. rung: 1 cancelled, 2 interrupted, 3 given up.
effective workers: those that made progress in a second.
stragglers: tasks past their limit, or that take more than four times as long as the others.
"""


@dataclass
class StackView:
    """The stack of one worker, being asked for or there."""

    worker: str
    note: str
    lines: list[str] = field(default_factory=list)
    top: int = 0


@dataclass
class View:
    """What was chosen with keys."""

    order: str = "trouble"
    wanted: str = ""
    typing: bool = False
    help: bool = False
    worker: str | None = None
    top: int = 0
    page: int = 1
    stack: StackView | None = None

    def next_order(self) -> None:
        orders = list(ORDERS)
        self.order = orders[(orders.index(self.order) + 1) % len(orders)]


def visible_rows(picture: Picture, view: View) -> list[Row]:
    """Those that match the filter."""
    return [row for row in picture.rows if row.matches(view.wanted)] if view.wanted else picture.rows


def chosen_row(rows: Sequence[Row], view: View) -> int:
    """The place of the chosen worker among them; the first if it is not there any more."""
    return next((place for place, row in enumerate(rows) if row.worker == view.worker), 0)


def screen_lines(
    picture: Picture, events: Sequence[dict[str, Any]], view: View, columns: int, height: int, ascii_only: bool
) -> list[Text]:
    """The screen. It notes in `view` what part of the table it shows."""
    if view.help:
        return _page(HELP.splitlines(), columns, height, "any key: back")
    if view.stack is not None:
        return _stack_page(view.stack, columns, height)
    top = [_title(picture, columns), *_wrapped((f"! {note}" for note in picture.notes), columns, "bold yellow")]
    counts = _wrapped([counts_line(picture)], columns)
    pace = _wrapped([pace_line(picture), effective_line(picture, columns, ascii_only)], columns)
    rows = visible_rows(picture, view)
    room = height - len(top) - 2  # the table's head and the foot
    wanted = min(len(rows), 3)
    detail = _detail(rows, view, columns)
    told = [_line(event_line(event, picture.now), columns, "dim") for event in important(events, max(3, height // 5))]
    below: list[Text] = []
    for part, is_above in ((counts, True), (pace, True), (detail, False), ([Text(""), *told], False)):
        if room - len(part) >= wanted and part:
            room -= len(part)
            (top if is_above else below).extend(part)
    table = _table(rows, view, columns, max(0, room))
    empty = [Text("")] * max(0, height - 1 - len(top) - len(table) - len(below))
    whole = [*top, *table, *empty, *below][: height - 1]
    return [*whole, _foot(view, len(rows), len(picture.rows), columns)]


def _title(picture: Picture, columns: int) -> Text:
    """The state comes first where there is no room for both."""
    state = Text(picture.state, style=_STATES.get(picture.run.state, ""), no_wrap=True)
    if columns >= len(picture.title) + len(picture.state) + 3:
        return Text.assemble((picture.title, "bold"), " · ", state, no_wrap=True)
    line = Text.assemble(state, " · ", (picture.title, "bold"), no_wrap=True)
    line.truncate(columns, overflow="ellipsis")
    return line


def _line(text: str, columns: int, style: str = "") -> Text:
    line = Text(text, style=style, no_wrap=True)
    line.truncate(columns, overflow="ellipsis")
    return line


def _wrapped(lines: Iterable[str], columns: int, style: str = "") -> list[Text]:
    pieces = (piece for line in lines for piece in textwrap.wrap(line, columns, break_on_hyphens=False))
    return [Text(cut, style=style, no_wrap=True) for piece in pieces for cut in chop_cells(piece, columns)]


def _columns(columns: int) -> list[tuple[str, int]]:
    """The columns of the table and how wide each is, for a terminal of so many."""
    found = [("state", 12 if columns >= 100 else 9), ("age", 7)]
    found += [("idle", 7)] if columns >= 90 else []
    found += [("left", 7)] if columns >= 64 else []
    found += [("rung", 4)] if columns >= 100 else []
    found += [("phase", 24 if columns >= 100 else 15)] if columns >= 50 else []
    found += [("worker", 20)] if columns >= 140 else []
    rest = columns - 2 - sum(width + 1 for _, width in found)
    if columns < 72:
        return [found[0], ("task", rest - 1), *found[1:]]
    task = rest * 11 // 20
    return [found[0], ("task", task), *found[1:], ("where", rest - task - 2)]


def _cell(row: Row, name: str) -> str:
    if name in _DURATIONS:
        return duration(getattr(row, name)).rjust(6) if row.state != "idle" else ""
    if name == "rung":
        return str(row.rung) if row.rung else ""
    if name == "where":
        return at_place(row.where)
    return str(getattr(row, name))


def _table(rows: Sequence[Row], view: View, columns: int, height: int) -> list[Text]:
    layout = _columns(columns)
    view.page = max(1, height)
    chosen = chosen_row(rows, view)
    view.top = max(min(view.top, chosen, len(rows) - height), chosen - view.page + 1, 0)
    titles = (set_cell_size(name.rjust(6) if name in _DURATIONS else name, width) for name, width in layout)
    found = [_line("  " + " ".join(titles), columns, "bold underline")]
    for place, row in enumerate(rows[view.top : view.top + height], view.top):
        cells = (_fit(_cell(row, name), width) for name, width in layout)
        mark = "> " if place == chosen else "  "
        style = _STYLES.get(row.state, "") + (" reverse" if place == chosen else "")
        found.append(_line(mark + " ".join(cells), columns, style.strip()))
    return found


def _fit(text: str, width: int) -> str:
    cut = Text(text, no_wrap=True)
    cut.truncate(width, overflow="ellipsis", pad=True)
    return cut.plain


def _detail(rows: Sequence[Row], view: View, columns: int) -> list[Text]:
    """All of the chosen worker that may be cut off in the table, in three lines at most."""
    if not rows:
        return []
    row = rows[chosen_row(rows, view)]
    task, key = row.task and f"task {row.task}", row.key and f"key {row.key}"
    words = [row.worker, task, key, row.phase, at_place(row.where, True)]
    return _wrapped([" · ".join(one for one in words if one)], columns, "italic")[:3]


def _foot(view: View, shown: int, all_of_them: int, columns: int) -> Text:
    if view.typing:
        return _line(f"filter: {view.wanted}_   enter: keep, escape: none", columns, "reverse")
    matching = f" ({shown} of {all_of_them} with {escaped(view.wanted)!r})" if view.wanted else ""
    words = f"q quit  ? help  enter stack  s sort: {view.order}  / filter{matching}"
    return _line(words, columns, "reverse")


def _page(
    lines: Iterable[str], columns: int, height: int, foot: str, top: int = 0, head: Sequence[Text] = ()
) -> list[Text]:
    folded = [cut for line in lines for cut in chop_cells(line, columns) or [""]]
    room = max(0, height - 1 - len(head))
    shown = [Text(line, no_wrap=True) for line in folded[top : top + room]]
    return [*head, *shown, *[Text("")] * (room - len(shown)), _line(foot, columns, "reverse")][:height]


def _stack_page(stack: StackView, columns: int, height: int) -> list[Text]:
    head = [*_wrapped([f"worker {stack.worker}"], columns, "bold"), *_wrapped([stack.note], columns)]
    stack.top = max(0, min(stack.top, len(stack.lines) - 1))
    return _page(map(escaped, stack.lines), columns, height, "q or escape: back   up, down: scroll", stack.top, head)
