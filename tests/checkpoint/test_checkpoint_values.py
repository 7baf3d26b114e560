"""What a result may hold, how it is written, and what comes back."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import types
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import pytest

from threadsafe_timeout.checkpoint import CheckpointWriter, RecordedError, UnserializableResult, load_checkpoint
from threadsafe_timeout.checkpoint._records import types_by_name
from threadsafe_timeout.checkpoint._values import dumps, loads


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not me"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Inner:
    when: datetime.date
    tags: set[str]


@dataclasses.dataclass
class Outer:
    score: float
    inner: Inner
    made: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.made += 1


UTC_PLUS_1 = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 1.5, 1e300, 2**63, -(10**5000), "", "text", "\ud800 lone", "\u2028\x00\x7f", [], {}, [[]],
        {"a": {"b": [1, None]}}, {1: "a", "1": "b"}, {"$type": "tuple", "value": [1]}, {(1, 2): {None: 1.5}},
        (), (1, (2, [3])), {1, 2}, frozenset({"x"}), {"$type": ("x",)}, b"\x00\xff", 1 + 2j,
        math.inf, -math.inf, [math.inf], datetime.datetime(2026, 1, 2, 3, 4, 5, 6), datetime.datetime(2026, 1, 2, tzinfo=UTC_PLUS_1),
        datetime.date(2026, 1, 2), datetime.time(1, 2, 3), datetime.timedelta(days=-1, microseconds=1),
        decimal.Decimal("1.10"), uuid.UUID(int=5), pathlib.Path("/a/b"), pathlib.Path("x\udcff"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_that_come_back_as_they_were(value: Any) -> None:
    text = dumps({"in": [value]})
    back = loads(text)["in"][0]
    assert back == value
    assert type(back) is type(value)
    assert b"\n" not in text
    json.loads(text, parse_constant=pytest.fail)  # no NaN, no Infinity: other programs read it too


def test_nan_comes_back() -> None:
    assert math.isnan(loads(dumps([math.nan]))[0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Level.HIGH, 3), (Color.RED, 1), (Point(1, 2), (1, 2)), (bytearray(b"x"), b"x"), (memoryview(b"x"), b"x"),
        (collections.OrderedDict(a=1), {"a": 1}), (collections.Counter("aab"), {"a": 2, "b": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}), (collections.deque([1, 2]), [1, 2]), (range(3), [0, 1, 2]),
        (Word("word"), "word"), (pathlib.PurePosixPath("a"), pathlib.Path("a")),
        (Outer(1.5, Inner(datetime.date(2026, 1, 2), {"t"})), {"score": 1.5, "inner": {"when": datetime.date(2026, 1, 2), "tags": {"t"}}, "made": 1}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_that_come_back_as_plain_ones(value: Any, expected: Any) -> None:
    back = loads(dumps(value))
    assert back == expected
    assert type(back) is type(expected)


def test_classes_that_are_given_are_built_again_and_others_never_imported() -> None:
    value = {"o": Outer(1.5, Inner(datetime.date(2026, 1, 2), {"t"})), "c": Color.RED, "l": Level.HIGH}
    known = types_by_name([Outer, Inner, Color, Level])
    back = loads(dumps(value), known)
    assert back == value
    assert type(back["l"]) is Level
    assert loads(b'{"$type":"dataclass:os.nothing","a":1}') == {"a": 1}
    assert loads(b'{"$type":"from the future","value":[{"$type":"tuple","value":[]}]}')["value"] == [()]


def test_dataclass_fields_are_where_jq_looks_for_them() -> None:
    plain = json.loads(dumps(Inner(datetime.date(2026, 1, 2), {"t"})))
    assert plain["$type"].endswith("Inner")
    assert plain["when"] == {"$type": "date", "value": "2026-01-02"}


def test_exceptions_keep_type_message_and_traceback(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("missing")

    with CheckpointWriter(tmp_path / "run.jsonl") as writer:
        try:
            fail()
        except KeyError as error:
            writer.save("k", error, status="failed")
            writer.save("again", {"errors": [error]}, status="failed")
    saved = load_checkpoint(tmp_path / "run.jsonl")["k"].result
    assert isinstance(saved, RecordedError)
    assert (saved.class_name, saved.message) == ("builtins.KeyError", "'missing'")
    assert "in fail" in saved.traceback
    assert loads(dumps(saved)).args == saved.args


def test_a_broken_exception_does_not_cost_the_record() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "RuntimeError" in loads(dumps(Broken())).message


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


@dataclasses.dataclass
class Holder:
    held: Any


@pytest.mark.parametrize(
    ("value", "where", "kind"),
    [
        ({"a": [1, {"b": object()}]}, r"result\['a'\]\[1\]\['b'\] is builtins.object", "builtins.object"),
        ({1: {"x"}, "y": open}, r"result\['y'\]", "builtin_function_or_method"),
        ([Holder((0, lambda: None))], r"result\[0\]\.held\[1\]", "function"),
        ({"k": Holder}, r"result\['k'\].*a class", "type"),
        ((n for n in "ab"), "result is builtins.generator", "generator"),
        ({object(): 1}, r"result\[<object", "object"),
    ],
)
def test_what_has_no_rule_is_refused_by_its_place(value: Any, where: str, kind: str) -> None:
    with pytest.raises(UnserializableResult, match=where) as caught:
        dumps(value)
    assert caught.value.type_name.endswith(kind.rpartition(".")[2])


def test_a_value_that_contains_itself_is_refused() -> None:
    with pytest.raises(UnserializableResult, match="contains itself"):
        dumps(cycle())


def test_a_refused_result_writes_nothing(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "run.jsonl") as writer:
        with pytest.raises(UnserializableResult):
            writer.save("k", {"bad": object()})
        writer.save("l", 1)
    assert list(load_checkpoint(tmp_path / "run.jsonl")) == ["l"]


def test_default_turns_the_rest_into_something_that_can_be_saved(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "run.jsonl", default=lambda value: {"repr": type(value).__name__}) as writer:
        writer.save("k", {"odd": object(), "class": Holder})
    assert load_checkpoint(tmp_path / "run.jsonl")["k"].result == {"odd": {"repr": "object"}, "class": {"repr": "type"}}
    with pytest.raises(UnserializableResult, match="returned it unchanged"):
        dumps(object(), lambda value: value)
    with pytest.raises(UnserializableResult, match="ZeroDivisionError"):
        dumps([object()], lambda value: 1 / 0)


def test_pydantic_models() -> None:
    class Usage(pydantic.BaseModel):
        tokens: int
        at: datetime.datetime

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        text: str
        usage: Usage

    value = Answer(text="x", usage=Usage(tokens=3, at=datetime.datetime(2026, 1, 2)), more=(1,))
    text = dumps({"answer": value})
    assert json.loads(text)["answer"]["usage"]["tokens"] == 3
    assert loads(text)["answer"]["more"] == (1,)
    assert loads(text, types_by_name([Usage, Answer]))["answer"] == value


def test_numpy() -> None:
    import numpy  # not above: it starts threads of its own, and tests fork
    for scalar in (numpy.float64(1.5), numpy.float32(0.1), numpy.int64(3), numpy.bool_(True), numpy.str_("x"), numpy.datetime64("2026-01-02")):
        back = loads(dumps({"v": scalar}))["v"]
        assert back == scalar
        assert back.dtype == scalar.dtype
    for array in (
        numpy.arange(6, dtype="int16").reshape(2, 3), numpy.zeros((0, 3)), numpy.array(1.5), numpy.array([1.5, math.nan]),
        numpy.array([1 + 2j]), numpy.array(["a", "bc"]), numpy.array(["2026-01-02"], dtype="datetime64[D]"), numpy.array([b"x"]),
    ):  # fmt: skip
        back = loads(dumps([array]))[0]
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert numpy.array_equal(back, array, equal_nan=array.dtype.kind in "fc")
    assert loads(dumps(numpy.array([{"a": (1,)}, None], dtype=object))) == [{"a": (1,)}, None]
    with pytest.raises(UnserializableResult, match="array of"):
        dumps([numpy.zeros(1, dtype=[("a", "i4")])])


@pytest.mark.parametrize("megabytes", [5, pytest.param(100, marks=pytest.mark.stress)])
def test_large_results(tmp_path: Path, megabytes: int) -> None:
    value = {"text": "x" * 1_000_000 * megabytes, "after": 1}
    with CheckpointWriter(tmp_path / "run.jsonl", mode="fast") as writer:
        writer.save("big", value)
        writer.save("small", 1)
    loaded = load_checkpoint(tmp_path / "run.jsonl")
    assert loaded["big"].result == value
    assert loaded["small"].result == 1
