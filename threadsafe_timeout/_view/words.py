"""Times, rates, places and events of a run in words for a terminal. What came from the run is escaped here."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any

from threadsafe_timeout._text import shown
from threadsafe_timeout._view.fields import mapping, number, place, text, whole

__all__ = ["ago", "at_place", "clock_time", "duration", "event_line", "rate_in_words", "sparkline"]

_DAY = 86400
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-=+*#@"


def duration(seconds: float | None) -> str:
    """`0:41`, `12:03`, `1:02:03`, `2d 03:04`; a minus sign before what has passed; nothing for None."""
    if seconds is None:
        return ""
    sign, total = ("-" if seconds <= -1 else ""), int(abs(seconds))
    minutes, hours, days = total // 60 % 60, total // 3600 % 24, total // _DAY
    if days:
        return f"{sign}{days}d {hours:02}:{minutes:02}"
    return sign + (f"{hours}:{minutes:02}:{total % 60:02}" if hours else f"{minutes}:{total % 60:02}")


def clock_time(moment: float | None, now: float) -> str:
    """`03:12:45`, with the date if that was another day."""
    if moment is None:
        return "an unknown time"
    try:
        then, today = (datetime.datetime.fromtimestamp(one) for one in (moment, now))
    except (OverflowError, OSError, ValueError):
        return "an unknown time"
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def ago(moment: float | None, now: float) -> str:
    """`12 min ago`; nothing for None."""
    if moment is None:
        return ""
    passed = max(0.0, now - moment)
    for size, unit in ((_DAY, "days"), (3600, "h"), (60, "min")):
        if passed >= 2 * size:
            return f"{int(passed / size)} {unit} ago"
    return f"{int(passed)} s ago"


def rate_in_words(rate: float | None) -> str:
    """Tasks per second, minute or hour: whichever gives a number that can be read."""
    if not rate or rate < 0:
        return "no task finished in the last minute"
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if rate * size >= 1:
            return f"{rate * size:.1f} tasks/{unit}"
    return f"{rate * _DAY:.1f} tasks/day"


def sparkline(values: Sequence[float], most: float, columns: int, ascii_only: bool = False) -> str:
    """The last `columns` values as bars, of which the highest stands for `most`."""
    bars = _ASCII_BARS if ascii_only else _BARS
    top = max([most, *values, 1])
    return "".join(bars[min(int(max(0.0, one) / top * len(bars)), len(bars) - 1)] for one in values[-columns:])


def at_place(found: tuple[str, int, str] | None, whole_path: bool = False) -> str:
    """`file.py:12 in function`; nothing for None."""
    if found is None:
        return ""
    file, line, function = found
    return f"{shown(file if whole_path else os.path.basename(file))}:{line} in {shown(function)}"


def event_line(event: Mapping[str, Any], now: float) -> str:
    """An event as one line, with its time."""
    kind = text(event.get("kind"))
    words = _SAYING.get(kind, _step)(event)
    return f"{clock_time(number(event.get('t')), now)} {words}".rstrip()


def _name(event: Mapping[str, Any]) -> str:
    return shown(text(event.get("task")) or text(event.get("key")) or "a task")


def _where(event: Mapping[str, Any]) -> str:
    found = at_place(place(event.get("where")) or place(mapping(event.get("error")).get("where")))
    return found and f", at {found}"


def _after(event: Mapping[str, Any], field: str) -> str:
    seconds = number(event.get(field))
    return "" if seconds is None else f" after {seconds:.1f} s"


def _task(event: Mapping[str, Any]) -> str:
    outcome = {"timeout": "timed out"}.get(text(event.get("outcome")), shown(text(event.get("outcome"))))
    error = mapping(event.get("error"))
    said = ": ".join(shown(text(error.get(part))) for part in ("type", "message") if text(error.get(part)))
    words = f"{outcome} {_name(event)}{_after(event, 'took')}"
    return words if outcome == "done" else words + _where(event) + (said and f": {said}")


def _step(event: Mapping[str, Any]) -> str:
    """A step of the ladder, or a kind that this version does not know."""
    reason = text(event.get("reason"))
    return (f"{shown(text(event.get('kind')))} {_name(event)}{_after(event, 'elapsed')}{_where(event)}"
            + (f" ({shown(reason)})" if reason not in ("", "deadline") else ""))  # fmt: skip


def _loop(event: Mapping[str, Any]) -> str:
    return (f"loop {_name(event)}: {shown(text(event.get('loop')))}, {shown(text(event.get('detail')))} "
            f"({shown(text(event.get('action')))})")  # fmt: skip


def _scope(event: Mapping[str, Any]) -> str:
    return f"deadline of {shown(text(event.get('name')) or 'a block')} passed{_after(event, 'elapsed')}{_where(event)}"


def _pool(event: Mapping[str, Any]) -> str:
    return f"pool {shown(text(event.get('pool')))}: {whole(event.get('width'))} workers"


def _run(event: Mapping[str, Any]) -> str:
    return f"began: {shown(text(event.get('program')))}"


def _end(event: Mapping[str, Any]) -> str:
    code = number(event.get("exit"))
    return f"ended: {shown(text(event.get('how')))}" + ("" if code is None else f", status {code:g}")


_SAYING = {"task": _task, "loop": _loop, "scope": _scope, "pool": _pool, "run": _run, "end": _end}
