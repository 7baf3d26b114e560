"""What a bar looks like: as tqdm's does in a program that uses tqdm, else as rich's. Nothing is written here."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from threadsafe_timeout._timing import clock as _clock

__all__ = ["Bar", "NoBarError", "in_words", "new_bar"]

Bar = Callable[[Counter[str]], str]
"""The line that shows these counts, no wider than the terminal."""
_WIDTH = 30  # columns of rich's bar, without its words


class NoBarError(Exception):
    """What is missing for a bar."""


def in_words(found: Counter[str]) -> str:
    """What is not to be seen from a bar's length."""
    names = ("failed", "timed_out", "cancelled", "running")
    return ", ".join(f"{found[name]} {name.replace('_', ' ')}" for name in names if found[name])


def new_bar(stream: Any, found: Counter[str]) -> Bar:
    """One for that terminal, from now on, where so much was done before. Raises NoBarError."""
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    return _of_tqdm(stream, found["finished"], tqdm) if tqdm is not None else _of_rich(stream, found["finished"])


def _of_tqdm(stream: Any, before: int, tqdm: Any) -> Bar:
    begun = _clock.monotonic()

    def line(found: Counter[str]) -> str:
        return str(
            tqdm.format_meter(
                found["finished"], _total(found), _clock.monotonic() - begun, ncols=_columns(stream), unit="task",
                postfix=in_words(found), initial=before,
            )
        )  # fmt: skip

    return line


def _of_rich(stream: Any, before: int) -> Bar:
    try:
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table
    except ImportError:
        raise NoBarError(
            "progress needs rich for a bar (or tqdm, in a program that uses it): pip install 'threadsafe-timeout[view]'"
        ) from None
    console, begun = Console(file=stream), _clock.monotonic()

    def line(found: Counter[str]) -> str:
        done, total = found["finished"], _total(found)
        words = f"{done}/{total}"
        if total > done > before:
            left = (total - done) * (_clock.monotonic() - begun) / (done - before)
            words += f" about {datetime.timedelta(seconds=int(left))} left"
        table = Table.grid(padding=(0, 1))
        table.add_row(ProgressBar(total=max(1, total), completed=done, width=_WIDTH), words, in_words(found))
        with console.capture() as captured:
            console.print(table, end="", no_wrap=True, overflow="crop", crop=True, width=_columns(stream))
        return captured.get().partition("\n")[0]

    return line


def _total(found: Counter[str]) -> int:
    return found["finished"] + found["pending"] + found["running"]


def _columns(stream: Any) -> int:
    """How many columns of the terminal there are now, but for the last, behind which some begin a new line."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        found = 0
    return max(1, (found or shutil.get_terminal_size().columns) - 1)
