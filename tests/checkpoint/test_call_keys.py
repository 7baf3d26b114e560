"""The keys that calls get without anybody giving them one: the same in every process, and of nothing that changes."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import logging
import os
import queue
import random
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from threadsafe_timeout.checkpoint._call import NotSaved, call_of
from threadsafe_timeout.checkpoint._digest import Digester


def work(*args: Any, **kwargs: Any) -> None:
    pass


def key(*args: Any, **kwargs: Any) -> str:
    return call_of(work, args, kwargs).key


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Pair(NamedTuple):
    a: int
    b: object


@dataclasses.dataclass
class Task:
    name: str
    parts: Any = ()


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: object) -> None:
        self.a = a


class Runner:
    def __init__(self, model: str) -> None:
        self.model = model
        self.lock = threading.Lock()
        self.client = sqlite3.connect
        self.done = 0

    def run(self, task: object) -> None:
        pass


class Words(dict[str, int]):
    pass


VALUES: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: 1, lambda: 1.0, lambda: "1", lambda: b"1", lambda: 1j, lambda: 10**5000,
    lambda: [], lambda: (), lambda: {}, set, lambda: [1], lambda: (1,), lambda: {1}, lambda: {"1": 1}, lambda: {1: 1},
    lambda: [[1], 2], lambda: [[1, 2]], lambda: float("nan"), lambda: "\ud800", lambda: {"a": float("inf")},
    lambda: {"a": 1, "b": {"c", "d", "e", "f"}}, lambda: {("a", 1): 2}, lambda: frozenset("abc"), lambda: collections.deque([1]),
    lambda: collections.Counter("abca"), lambda: collections.OrderedDict(a=1), lambda: range(3), lambda: slice(1, 2),
    lambda: decimal.Decimal("1.0"), lambda: uuid.UUID(int=1), lambda: Path("a"), lambda: datetime.date(2026, 1, 1),
    lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), lambda: datetime.timedelta(1), lambda: Colour.RED, lambda: Colour.BLUE,
    lambda: Pair(1, {2}), lambda: Task("a"), lambda: Task("b"), lambda: Task("a", {"x", "y"}), lambda: Slotted(1), lambda: Slotted(2),
    lambda: Runner("a"), lambda: Runner("b"), lambda: Words(a=1), lambda: Words(a=2), lambda: re.compile("a"), lambda: random.Random(1),
    lambda: Task, lambda: work, lambda: len, lambda: os, lambda: functools.partial(work, 1), lambda: functools.partial(work, 2),
    lambda: Runner("a").run, lambda: Runner("b").run, lambda: ValueError("a"), lambda: logging.getLogger("a"), lambda: itertools.count,
    lambda: (lambda: 1), lambda: (lambda: 2), lambda: (lambda n=1: n), lambda: (lambda n=2: n), lambda: bytearray(b"2"),
    lambda: [closing("a")], lambda: [closing("b")],
]  # fmt: skip


def closing(over: object) -> Callable[[], object]:
    def inner() -> object:
        return over

    return inner


def test_each_value_has_a_key_of_its_own_and_equal_ones_the_same() -> None:
    keys = [key(make()) for make in VALUES]
    assert keys == [key(make()) for make in VALUES]
    assert len(set(keys)) == len(VALUES)


def test_other_processes_make_the_same_keys() -> None:
    code = "import test_call_keys as t; print('\\n'.join(t.key(make()) for make in t.VALUES))"
    # What a module is called in `-c` is the same as here; its strings hash in another way.
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    assert found.stdout.split() == [key(make()) for make in VALUES]


def test_the_order_of_keywords_and_of_dicts_does_not_count() -> None:
    assert key(a=1, b=2) == key(b=2, a=1) != key(a=2, b=1)
    assert key({"a": 1, "b": (2,)}) == key({"b": (2,), "a": 1})
    assert key("a", "b") != key("b", "a") != key(("b", "a"))
    assert key(a="b") != key("b")


def test_what_a_task_is_within_counts() -> None:
    assert call_of(work, (1,), {}).key != call_of(work, (1,), {}, "outer").key


def test_a_key_shows_no_argument() -> None:
    found = call_of(work, ("sk-secret", {"password": "sesame"}), {"token": "t0ken"})
    assert re.fullmatch(r"work:[0-9a-f]{24}", found.key)


def test_an_object_counts_as_it_was_when_it_first_came() -> None:
    runner = Runner("a")
    first = call_of(runner.run, (1,), {}).key
    runner.done = 5
    assert call_of(runner.run, (1,), {}).key == first
    assert call_of(runner.run, (1,), {}, anew=True).key != first
    assert call_of(Runner("a").run, (1,), {}).key == first
    assert call_of(Runner("b").run, (1,), {}).key != first


def test_an_object_that_is_gone_is_forgotten() -> None:
    task = Task("a")
    key(task)
    ident, gone = id(task), weakref.ref(task)
    assert ident in Digester._known
    del task
    assert gone() is None
    assert ident not in Digester._known


def test_a_value_that_contains_itself() -> None:
    def ring(size: int) -> Any:
        made = [Task(str(number)) for number in range(size)]
        for one, other in itertools.pairwise([*made, made[0]]):
            one.parts = [other]
        return made[0]

    itself: list[Any] = []
    itself.append(itself)
    assert key(itself) == key(itself) != key([])
    assert key(ring(3)) == key(ring(3)) != key(ring(4))


def test_what_is_too_deep_is_left_out() -> None:
    deep: Any = "end"
    for _ in range(300):
        deep = (deep,)
    assert call_of(work, (deep, 1), {}).left_out
    assert len(key([deep, 1])) == len("work:") + 24


@contextlib.contextmanager
def opened() -> Iterator[dict[str, Any]]:
    with socket.socket() as one, contextlib.closing(sqlite3.connect(":memory:")) as connection:
        yield {"socket": one, "connection": connection, "generator": (n for n in "a")}


def test_open_things_are_left_out_and_named() -> None:
    with opened() as first, opened() as second:
        for name, value in first.items():
            found = call_of(work, (value, "q"), {})
            assert found.key == call_of(work, (second[name], "q"), {}).key
            assert [where for where, _ in found.left_out] == ["argument 1"]
            with pytest.raises(NotSaved, match="work: no argument tells its calls apart"):
                call_of(work, (value,), {})
            with pytest.raises(NotSaved):
                call_of(lambda one=value: work(one), (), {})
        runner = Runner("a")
        runner.client = first["connection"]
        assert call_of(runner.run, ("q",), {}).left_out == (("self.client", "sqlite3.Connection"),)


@pytest.mark.parametrize("make", [threading.Lock, threading.Event, queue.Queue, threading.Condition, threading.local])
def test_locks_and_their_like_are_left_out_silently(make: Callable[[], Any]) -> None:
    assert call_of(work, (make(), "q"), {}).left_out == ()
    with pytest.raises(NotSaved):
        call_of(work, (make(),), {})


@pytest.mark.parametrize(
    ("function", "args", "own"),
    [(len, ("a",), False), ([].append, (1,), False), (os.path.join, ("a",), False), (Task, ("a",), False), (functools.partial(print), (), False)],
)
def test_only_python_functions_of_the_program_are_saved(function: Any, args: Any, own: bool) -> None:
    with pytest.raises(NotSaved) as raised:
        call_of(function, args, {})
    assert raised.value.own is own


def test_a_decorated_function_is_the_programs() -> None:
    @functools.lru_cache
    def cached(number: int) -> int:
        return number

    @contextlib.contextmanager
    def managed(number: int) -> Iterator[int]:
        yield number

    assert call_of(cached, (1,), {}).name.endswith("cached")
    assert call_of(managed, (1,), {}).name.endswith("managed")


def test_an_object_whose_own_code_raises() -> None:
    class Odd:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise RuntimeError

        def __init__(self) -> None:
            self.number = 4

    assert key(Odd(), 1) == key(Odd(), 1)
