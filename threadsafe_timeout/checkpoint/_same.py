"""Which results come back from a journal as they were, and bringing them back, where nobody names their classes.

`dumps` also takes what comes back as something else (a deque as a list). A program that does not know of the journal is
to get what it would have computed, so that is refused here. Dataclasses, pydantic models and enums come back as
themselves if the program has their class by then: nothing is imported by a name found in a file.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import sys
import uuid
from typing import Any, cast

from threadsafe_timeout.checkpoint import _format
from threadsafe_timeout.checkpoint._records import Record
from threadsafe_timeout.checkpoint._values import class_name, is_plain, json_text, loads

__all__ = ["Changed", "bring_back", "what_changes"]

_DEEPEST = 200
_THEMSELVES = frozenset({
    str, int, float, bool, type(None), bytes, complex, decimal.Decimal, uuid.UUID, type(pathlib.Path()),
    datetime.date, datetime.timedelta,
})  # fmt: skip
_WITH_ZONE = frozenset({datetime.datetime, datetime.time})
_ITEMS = frozenset({list, tuple, set, frozenset})


class Changed(Exception):
    """A saved result cannot be brought back as it was."""


def what_changes(result: object) -> str | None:
    """The part of a result that would come back as something else, or not at all: `result['a'] is m.C`. None if all of
    it comes back as it is."""
    try:
        json_text(result)
        if is_plain(result):  # most are; this order, as only what JSON takes does not contain itself
            return None
    except (TypeError, ValueError, RecursionError):
        pass
    return _changes(result, "result", 0)


def _changes(value: Any, where: str, depth: int) -> str | None:  # noqa: PLR0911  # a table of rules
    kind = type(value)
    if depth > _DEEPEST:
        return f"{where} is nested more than {_DEEPEST} deep, or contains itself"
    if kind in _THEMSELVES:
        return None
    if kind in _ITEMS:
        return _first(((item, f"{where}[{number}]") for number, item in enumerate(value)), depth)
    if kind is dict:
        keys = _first(((key, f"a key of {where}") for key in value), depth)
        return keys or _first(((item, f"{where}[{key!r}]") for key, item in value.items()), depth)
    if kind in _WITH_ZONE and isinstance(value.tzinfo, datetime.timezone | None):
        return None
    if _is_array(value):
        return None
    fields = _fields(value) if _class_called(class_name(kind)) is kind else None
    if fields is None:
        return f"{where} is {class_name(kind).removeprefix('builtins.')}"
    return _first(((item, f"{where}.{name}") for name, item in fields.items()), depth)


def _first(parts: Any, depth: int) -> str | None:
    return next((found for value, where in parts if (found := _changes(value, where, depth + 1)) is not None), None)


def _fields(value: Any) -> dict[str, Any] | None:
    if isinstance(value, enum.Enum):
        return {"value": value.value} if value.name in type(value).__members__ else None  # else: several flags
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names} if all(hasattr(value, name) for name in names) else None
    return dict(value) if _is_model(type(value)) else None


def _is_model(cls: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None or not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        return False
    return value.dtype.kind in "biufcSUMm" and value.dtype.str.lstrip("<>=|") not in ("f16", "c32")


class _Classes:
    """The classes that the program has, by name: looked up when they are asked for."""

    def get(self, name: str) -> type:
        found = _class_called(name)
        if found is None:
            raise Changed(f"there is no class {name} yet")
        return found


def _class_called(name: str) -> type | None:
    """The dataclass, pydantic model or enum of that name, in a module that is imported."""
    parts = name.split(".")
    for number in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:number]))
        if found is None:
            continue
        for part in parts[number:]:
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
        good = isinstance(found, type) and (
            dataclasses.is_dataclass(found) or issubclass(found, enum.Enum) or _is_model(found)
        )
        return found if good else None
    return None


def bring_back(record: Record) -> Any:
    """The saved result. Raises Changed if it is not what was saved."""
    raw = _format.result_bytes(record.raw_line())
    if raw is None:
        raise Changed("there is no result in the record")
    try:
        return loads(raw, cast(Any, _Classes()))
    except Changed:
        raise
    except Exception as error:  # a class that has other fields by now, or checks them in another way
        raise Changed(f"{type(error).__name__}: {error}") from error
