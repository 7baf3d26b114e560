"""Which results `save="tasks"` takes: those that come back as they were, classes and all."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import math
import sys
import uuid
import zoneinfo
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest

from threadsafe_timeout.checkpoint import CheckpointWriter, load_checkpoint
from threadsafe_timeout.checkpoint._same import Changed, bring_back, what_changes


class Grade(enum.Enum):
    GOOD = 1


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: int
    tags: Any = ()
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.total = self.x * 2


class Outer:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        a: int


class Pair(NamedTuple):
    a: int


class Text(str):
    __slots__ = ()


def changed_point() -> Point:
    point = Point(3, {"a": (1, {2})})
    point.total = -1
    return point


COME_BACK = [
    None, True, 5, 10**5000, 0.5, math.inf, "a\u2028\ud800", b"a", 1j, [], (), {}, set(), frozenset("a"), [(1, {"a": (2,)})],
    {1: "a", (1, 2): b"b"}, decimal.Decimal("1.10"), uuid.UUID(int=3), Path("a/b"), datetime.date(2026, 1, 2),
    datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), datetime.time(1), datetime.timedelta(1, 2, 3), Grade.GOOD, Flags.A,
    changed_point(), Outer.Inner(4), [Grade.GOOD, Point(1)], {"$type": "set"},
]  # fmt: skip


def saved(path: Path, value: object) -> Any:
    with CheckpointWriter(path) as writer:
        writer.save("a", value)
    return bring_back(load_checkpoint(path)["a"])


@pytest.mark.parametrize("value", COME_BACK, ids=lambda value: type(value).__name__)
def test_a_result_that_is_taken_comes_back_as_it_was(path: Path, value: object) -> None:
    assert what_changes(value) is None
    back = saved(path, value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value) if value != 10**5000 else back == value


def local() -> Any:
    @dataclasses.dataclass
    class Local:
        a: int

    return Local(1)


itself: list[Any] = []
itself.append(itself)
CHANGE = [
    (range(3), "result is range"), ({"a": [collections.deque()]}, "result['a'][0] is collections.deque"),
    ({"a": Point(1, [object()])}, "result['a'].tags[0] is object"), ({object: 1}, "a key of result is type"),
    (Pair(1), f"result is {__name__}.Pair"), (Text("a"), f"result is {__name__}.Text"), (collections.Counter("a"), "result is collections.Counter"),
    (collections.OrderedDict(), "result is collections.OrderedDict"), (ValueError("a"), "result is ValueError"), (bytearray(), "result is bytearray"),
    (datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), "result is datetime.datetime"), (local(), f"result is {__name__}.local.<locals>.Local"),
    (Flags.A | Flags.B, f"result is {__name__}.Flags"), (Grade, "result is enum.EnumType"), (itself, "contains itself"), ((n for n in "a"), "result is generator"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "told"), CHANGE, ids=[told for _, told in CHANGE])
def test_a_result_that_would_come_back_as_another_is_named(value: object, told: str) -> None:
    found = what_changes(value)
    assert found is not None
    assert told in found


def test_models_of_pydantic_come_back(path: Path) -> None:
    from same_models import Answer

    value = Answer(text="a", scores={"x": 1.5})
    assert what_changes([value]) is None
    assert saved(path, [value]) == [value]


def test_arrays_come_back(path: Path) -> None:
    value = numpy.arange(6, dtype="int16").reshape(2, 3)
    assert what_changes({"a": value, "b": value.mean()}) is None
    back = saved(path, {"a": value, "b": value.mean()})
    assert (back["a"] == value).all()
    assert back["a"].dtype == value.dtype
    assert type(back["b"]) is type(value.mean())
    assert what_changes(numpy.array([object()])) == "result is numpy.ndarray"


def test_a_class_that_is_not_there_or_is_another_by_now(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(path, Point(1))
    record = load_checkpoint(path)["a"]
    module = sys.modules[__name__]
    monkeypatch.delattr(module, "Point")
    with pytest.raises(Changed, match="there is no class"):
        bring_back(record)
    monkeypatch.setattr(module, "Point", dict, raising=False)  # no class of those that are made from a file
    with pytest.raises(Changed, match="there is no class"):
        bring_back(record)

    @dataclasses.dataclass
    class Other:
        x: int
        more: int

    monkeypatch.setattr(module, "Point", Other, raising=False)
    with pytest.raises(Changed, match="TypeError"):
        bring_back(record)
