"""Times, durations and places as the pages say them."""

from __future__ import annotations

import datetime

__all__ = ["at", "duration", "moment"]


def duration(seconds: float) -> str:
    """`seconds` the way people say it: two units at most."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def moment(t: float | None) -> str:
    """A time of the clock where the page is made."""
    if t is None:
        return "a time that is not known"
    try:
        return datetime.datetime.fromtimestamp(t).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except (OverflowError, ValueError, OSError):
        return "a time that is not known"


def at(place: tuple[str, int, str] | None) -> str:
    """A place in code."""
    return "a place that is not known" if place is None else f"{place[0]}:{place[1]}, in {place[2]}"
