"""Fingerprints and keys of tasks, and the decorator that makes use of them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from threadsafe_timeout.checkpoint import (
    Ordinals,
    RecordedError,
    UnserializableResult,
    checkpointed,
    load_checkpoint,
    task_fingerprint,
    task_keys,
)


@dataclass
class Task:
    model: str
    timeout: float = 60
    tools: tuple[str, ...] = ()


class Plain:
    def __init__(self, a: int) -> None:
        self.a = a


def test_fingerprints_depend_on_what_a_task_holds() -> None:
    assert task_fingerprint(Task("m")) == task_fingerprint(Task("m")) == task_fingerprint({"tools": (), "timeout": 60, "model": "m"})
    assert task_fingerprint(Task("m")) != task_fingerprint(Task("n"))
    assert task_fingerprint(Task("m", 1), ignore=["timeout"]) == task_fingerprint(Task("m", 2), ignore=["timeout"])
    assert task_fingerprint(Task("m", 1), fields=["model"]) == task_fingerprint(Task("m", 2), fields=["model"])
    assert task_fingerprint(Plain(1)) == task_fingerprint(Plain(1)) != task_fingerprint(Plain(2))
    with pytest.raises(ValueError, match="no field 'size'"):
        task_fingerprint(Task("m"), fields=["size"])
    with pytest.raises(UnserializableResult, match=r"task.*no fields to make a fingerprint from"):
        task_fingerprint({"a": object()})


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    code = "from threadsafe_timeout.checkpoint import task_fingerprint as f; print(f({'b': {3, 1, 'x'}, 'a': (1.5, None)}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert other.stdout.strip() == task_fingerprint({"a": (1.5, None), "b": {1, "x", 3}})


def test_keys_of_repeats_do_not_depend_on_the_order() -> None:
    tasks = [Task("a"), Task("b"), Task("a"), Task("a")]
    keys = task_keys(tasks)
    assert len(set(keys)) == 4
    assert set(task_keys(reversed(tasks))) == set(keys)
    assert task_keys(["x", "x"], key=str) == ["x", "x#2"]
    ordinals = Ordinals()
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: ordinals.number("t"), range(200)))) == 200


# --- the decorator ----------------------------------------------------------------------------------------------


def test_a_checkpointed_function_runs_once_per_key(path: Path) -> None:
    calls = []

    @checkpointed(path, key=lambda n: f"square-{n}")
    def square(n: int) -> int:
        """Multiply."""
        calls.append(n)
        return n * n

    assert square.__doc__ == "Multiply."
    assert [square(3), square(3), square(4)] == [9, 9, 16]
    square.close()
    assert square(3) == 9
    square.close()
    assert calls == [3, 4]
    assert list(load_checkpoint(path)) == ["square-3", "square-4"]


def test_a_checkpointed_function_that_raised_runs_again_unless_told_otherwise(path: Path) -> None:
    def make(**options: Any) -> tuple[Any, list[int]]:
        calls: list[int] = []

        @checkpointed(path, **options)
        def fail(n: int, extra: str = "x") -> None:
            calls.append(n)
            raise TimeoutError("too late") if n else KeyError("k")

        return fail, calls

    fail, calls = make()
    for n in (0, 1, 1):
        with pytest.raises((KeyError, TimeoutError)):
            fail(n)
    fail.close()
    assert calls == [0, 1, 1]
    assert sorted(load_checkpoint(path).counts()) == ["failed", "timeout"]
    again, calls = make(retry={"failed"})
    with pytest.raises(KeyError):
        again(0, extra="x")
    with pytest.raises(RecordedError, match="TimeoutError: too late"):
        again(n=1)
    again.close()
    assert calls == [0]


def test_a_checkpointed_method(path: Path) -> None:
    class Runner:
        def __init__(self, base: int) -> None:
            self.base = base

        @checkpointed(path)
        def add(self, n: int) -> int:
            return self.base + n

    assert (Runner(1).add(1), Runner(2).add(1), Runner(1).add(1)) == (2, 3, 2)
    vars(Runner)["add"].close()
    assert len(load_checkpoint(path)) == 2


def test_generators_are_refused(path: Path) -> None:
    async def work():
        yield 1

    with pytest.raises(TypeError, match="generator"):
        checkpointed(path)(work)
