"""A progress bar on standard error, for files large enough to make somebody wait."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]

_LARGE = 64 << 20  # bytes; read in under a second
_WIDTH = 30


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to tell how many more bytes are done. Draws on a terminal only, and only for large files."""
    if total < _LARGE or not sys.stderr.isatty():
        yield lambda _: None
        return
    done, drawn = 0, -1

    def advance(amount: int) -> None:
        nonlocal done, drawn
        done += amount
        percent = min(100 * done // total, 100)
        if percent != drawn:
            drawn = percent
            filled = _WIDTH * percent // 100
            sys.stderr.write(f"\r{title} [{'#' * filled}{'.' * (_WIDTH - filled)}] {percent:3d} %")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
