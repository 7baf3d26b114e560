"""`watch` on a terminal: what keys do, and when the screen is drawn. Needs rich."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.text import Text

from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._view.picture import Picture, Row
from threadsafe_timeout._view.stacks import Inquiry, part_about
from threadsafe_timeout._view.watch_screen import StackView, View, chosen_row, screen_lines, visible_rows
from threadsafe_timeout._view.words import at_place

if TYPE_CHECKING:
    from threadsafe_timeout._view.keys import Keys
    from threadsafe_timeout._view.watch import Follower

__all__ = ["Session"]

_ASKING = 0.1  # seconds between two looks for an answer


class Session:
    """One person in front of one run."""

    def __init__(self, follower: Follower, ascii_only: bool) -> None:
        self._follower = follower
        self._ascii_only = ascii_only
        self._console = Console(markup=False, highlight=False, emoji=False, _environ=_without_size())
        self._view = View()
        self._inquiry: Inquiry | None = None
        self._picture = follower.picture()

    def run(self, keys: Keys, refresh: float) -> None:
        """Until q, or EOFError when the terminal is gone."""
        with self._console.screen(hide_cursor=True) as screen:
            due = _clock.monotonic() + refresh
            while True:
                screen.update(Group(*self._lines(self._picture)))
                typed = keys.read(min(due - _clock.monotonic(), _ASKING if self._inquiry else refresh))
                if not all(map(self._press, typed)):
                    break
                if _clock.monotonic() >= due:
                    self._follower.refresh()
                    due = _clock.monotonic() + refresh
                if self._inquiry is not None:
                    self._look_for_answer()
                self._picture = self._follower.picture(self._view.order)
        if self._inquiry is not None:
            self._inquiry.close()

    def _lines(self, picture: Picture) -> list[Text]:
        columns, height = self._console.size
        events = list(self._follower.events)
        return screen_lines(picture, events, self._view, columns, height, self._ascii_only)

    # Keys

    def _press(self, key: str) -> bool:
        """False to quit."""
        view = self._view
        if not key:  # the terminal has a new size
            return True
        if view.help:
            view.help = False
        elif view.stack is not None:
            self._press_in_stack(view.stack, key)
        elif view.typing:
            self._type(key)
        elif key == "q":
            return False
        else:
            self._press_in_table(key)
        return True

    def _type(self, key: str) -> None:
        view = self._view
        if key in ("enter", "escape"):
            view.typing = False
            view.wanted = "" if key == "escape" else view.wanted
        elif key == "backspace":
            view.wanted = view.wanted[:-1]
        elif len(key) == 1:
            view.wanted += key

    def _press_in_table(self, key: str) -> None:
        view = self._view
        rows = visible_rows(self._picture, view)
        if key == "s":
            view.next_order()
        elif key == "?":
            view.help = True
        elif key == "/":
            view.typing, view.wanted = True, ""
        elif key == "escape":
            view.wanted = ""
        elif rows:
            place = chosen_row(rows, view)
            if key == "enter":
                self._open(rows[place])
            view.worker = rows[_moved(key, place, len(rows), view.page)].worker

    def _press_in_stack(self, stack: StackView, key: str) -> None:
        if key in ("q", "escape", "enter"):
            self._view.stack = None
            if self._inquiry is not None:
                self._inquiry.close()
                self._inquiry = None
        else:
            stack.top = _moved(key, stack.top, len(stack.lines), 10)

    # The stack of a worker

    def _open(self, row: Row) -> None:
        words = [row.state, row.task and f"task {row.task}", row.phase, at_place(row.where, True)]
        note = " · ".join(word for word in words if word)
        self._view.stack = StackView(row.worker, note)
        if row.stack:
            self._view.stack.lines = _as_traceback(row.stack)
        elif self._picture.run.state != "running":
            self._view.stack.lines = ["The run is over, and it had not written the stack of this worker."]
        elif row.state == "idle":
            self._view.stack.lines = ["It waits for a task."]
        else:
            self._ask(self._view.stack)

    def _ask(self, stack: StackView) -> None:
        try:
            self._inquiry = Inquiry(self._picture.run)
            stack.lines = ["asking the run for its stacks ..."]
        except OSError as error:
            stack.lines = [f"the run cannot be asked for its stacks: {error.strerror}"]

    def _look_for_answer(self) -> None:
        answer = self._inquiry.poll() if self._inquiry is not None else None
        if answer is None:
            return
        self._inquiry = None
        stack = self._view.stack
        if stack is not None:
            lines = part_about(stack.worker, answer.text).splitlines() if answer.text else []
            stack.lines = ([answer.note, ""] if answer.note else []) + lines


def _without_size() -> dict[str, str]:
    """The environment without the size that somebody has exported: rich would take that for the terminal's, and keep to
    it when the terminal gets another one."""
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}


def _as_traceback(stack: list[tuple[str, int, str]]) -> list[str]:
    return [f'  File "{file}", line {line}, in {function}' for file, line, function in stack]


def _moved(key: str, place: int, length: int, page: int) -> int:
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, "home": -length, "end": length}
    return max(0, min(place + steps.get(key, 0), length - 1))
