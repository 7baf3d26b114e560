"""Names that stay the same between runs: of a configuration, and of a task that has no id of its own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from threadsafe_timeout.checkpoint._values import dumps

__all__ = ["Ordinals", "config_hash", "field_hashes", "task_fingerprint", "task_keys"]

T = TypeVar("T")


def _canonical(value: object, default: Callable[[Any], Any] | None = None) -> bytes:
    plain = json.loads(dumps(value, default, name="value"))
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def config_hash(config: object) -> str | None:
    """`sha256:…` of a configuration; the order of its keys does not matter. None for None.

    Only hashes are written to the journal: a configuration often holds an API key.
    """
    return None if config is None else "sha256:" + hashlib.sha256(_canonical(config)).hexdigest()


def field_hashes(config: object) -> dict[str, str]:
    """A short hash per top-level name, so that a mismatch can say *which* setting differs without storing any."""
    if not isinstance(config, Mapping):
        return {}
    return {str(name): hashlib.sha256(_canonical([str(name), value])).hexdigest()[:8] for name, value in config.items()}


def task_fingerprint(task: object, *, fields: Iterable[str] | None = None, ignore: Iterable[str] = ()) -> str:
    """A key made from the content of a task: equal tasks have equal fingerprints, in every process and every run.

    `task` is a dataclass, a pydantic model, a dict, an object with `__dict__`, or anything that can be saved as a
    result. `fields` names the fields to use (default: all), `ignore` those to leave out, such as a timeout that may
    change between runs. Two equal tasks have the same fingerprint; `Ordinals` and `task_keys` tell them apart.
    """
    for parameter, names in (("fields", fields), ("ignore", ignore)):
        if isinstance(names, str):
            raise TypeError(f"{parameter} is a collection of names, not the string {names!r}: write ({names!r},)")
    plain = json.loads(dumps(task, _attributes, name="task"))
    if isinstance(plain, dict):
        left_out = set(ignore)
        wanted = None if fields is None else set(fields)
        plain = {
            # Not the class: a runner's tasks are `__main__.Task` when it is a script, `runner.Task` when imported.
            name: value for name, value in plain.items()
            if name not in left_out and (wanted is None or name in wanted) and not name.startswith("$")
        }
        missing = sorted((wanted or set()) - plain.keys())
        if missing:
            raise ValueError(f"task_fingerprint: the task has no field {missing[0]!r}; it has {sorted(plain)}")
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:20]


def _attributes(value: Any) -> Any:
    """A plain object as its attributes. A repr will not do: it holds an address, which no other run has."""
    attributes = getattr(value, "__dict__", None)
    if not isinstance(attributes, dict) or callable(value):
        raise TypeError("it has no fields to make a fingerprint from")
    return attributes


class Ordinals:
    """Numbers equal names: `a`, `a#2`, `a#3`. Threads may share it.

    The n-th of several equal tasks always gets the same key, whatever the order of the others: a shuffled list gives
    the same set of keys, so a resumed run finds its results.
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()  # guarded by _lock
        self._lock = threading.Lock()

    def number(self, name: str) -> str:
        """The key of the next task called `name`."""
        with self._lock:
            self._seen[name] += 1
            ordinal = self._seen[name]
        return name if ordinal == 1 else f"{name}#{ordinal}"


def task_keys(tasks: Iterable[T], key: Callable[[T], str] = task_fingerprint) -> list[str]:
    """One key per task, in the order given; equal tasks are numbered."""
    ordinals = Ordinals()
    return [ordinals.number(key(task)) for task in tasks]
