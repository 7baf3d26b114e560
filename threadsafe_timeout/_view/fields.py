"""Values out of files that may hold anything: what is not of the kind asked for is as good as absent."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["mapping", "number", "objects", "place", "places", "text", "whole"]


def number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: object) -> int:
    """A count; 0 for anything else."""
    found = number(value)
    return 0 if found is None else int(found)


def text(value: object) -> str:
    """A text, as it is: not escaped. A number as its digits, `""` for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def mapping(value: object) -> dict[str, Any]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def place(value: object) -> tuple[str, int, str] | None:
    """File, line and function, not escaped."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    file, line, function = value
    return (text(file), whole(line), text(function)) if isinstance(file, str) else None


def places(value: object) -> list[tuple[str, int, str]]:
    """A stack: those of its entries that are places."""
    return [found for one in value if (found := place(one))] if isinstance(value, list) else []
