"""Arguments checked where they are given: what would fail later, or be ignored, is an error that names it at once."""

from __future__ import annotations

import math
import operator

from threadsafe_timeout._typing import Any

__all__ = [
    "check_callable", "check_instant", "check_seconds", "check_wait", "check_whole", "in_seconds",
    "missing_for_cluster",
]  # fmt: skip

_HUGE = 1 << 62  # an int from here on may be more than a float takes
_NUMBERS = frozenset({float, int})


def check_seconds(parameter: str, value: Any) -> float:
    """A duration: a number that is not negative and not NaN. Raises TypeError or ValueError, naming `parameter`."""
    kind = type(value)
    number = float(value) if kind is float or (kind is int and -_HUGE < value < _HUGE) else _number(parameter, value)
    if not number >= 0:
        raise ValueError(f"{parameter} must be a number of seconds >= 0, got {value!r}")
    return number


def check_wait(parameter: str, value: Any) -> Any:
    """How long to wait, in standard functions: None, or a number; a negative one is as good as 0."""
    if value is None or value.__class__ in _NUMBERS:
        return value
    return _number(parameter, value)


def check_instant(parameter: str, value: Any) -> float:
    """An instant on the monotonic clock: any number but NaN."""
    if value.__class__ is not float and (isinstance(value, (bool, str)) or not hasattr(value, "__float__")):
        raise TypeError(f"{parameter} must be a number of monotonic seconds (see current_deadline()), got {value!r}")
    if math.isnan(value):
        raise ValueError(f"{parameter} must be a number of monotonic seconds, not NaN")
    return value  # type: ignore[no-any-return, unused-ignore]  # a number


def check_whole(parameter: str, value: Any, least: int = 0) -> int:
    """A whole number, `least` or more."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise TypeError(f"{parameter} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{parameter} must be {least} or more, got {value!r}")
    return number


def check_callable(parameter: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{parameter} must be callable, got {value!r}")


def missing_for_cluster() -> str | None:
    """The name of a package of the extra `cluster` that is not there, or None. Imports none of them."""
    from importlib.util import find_spec

    for name in ("distributed", "pebble", "cloudpickle"):
        try:
            if find_spec(name) is None:
                return name
        except ValueError:  # of what stands in `sys.modules` in its place
            return name
    return None


def _number(parameter: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        number: float = float(value)
        return number
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{parameter} must be a number of seconds, got {value!r}{in_seconds(value)}") from None


_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def in_seconds(value: object) -> str:
    """`"; 5m is 300"` for what says a duration in another way; else nothing."""
    total = getattr(value, "total_seconds", None)  # of a timedelta, which need not be imported for this
    if callable(total):
        return f"; its total_seconds() are {total():g}"
    if callable(value):
        return "; as a decorator it is written with its seconds, as in @deadline(30)"
    if not isinstance(value, str):
        return ""
    import re

    text = value.strip().lower()
    parts = r"(\d+(?:\.\d+)?)\s*(ms|msec|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)\s*"
    if not re.fullmatch(f"(?:{parts})+", text):
        return ""
    found = sum(float(number) * _UNITS["ms" if unit.startswith(("ms", "mil")) else unit[0]]
                for number, unit in re.findall(parts, text))  # fmt: skip
    return f"; {value.strip()} is {found:g}"
