"""What legacy runs leave on disk, read into a checkpoint and written from one.

Found by `threadsafe-timeout checkpoint import --from legacy` and `export --to legacy` through an entry point.

- A result file: the list of result dicts that `run_concurrent_batch` returns, as JSON (alone, or under "results"), or
  one result per line. Each becomes a finished task, under the key its task gets in a patched run, so that run skips it.
- The database (`master_database.json`): counters, no records. Each kind of test it counts becomes one record of status
  `counted`, for `show` and `diff` only: a counter cannot stand in for the results it counted, so no task is skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from threadsafe_timeout.checkpoint import Ordinals, Record, task_fingerprint
from threadsafe_timeout.checkpoint._values import loads, plain_json

__all__ = ["read", "write"]

Finished = tuple[str, str, Any]  # key, status, result

# The fields of a legacy task but its timeout, which may change between runs; with the defaults of its dataclass.
_TASK: dict[str, Any] = {
    "model": None, "task_type": None, "prompt_type": None, "difficulty": "easy", "is_flawed": False,
    "flaw_type": None, "task_instance": None, "tool_success_rate": 0.8, "required_tools": None,
}  # fmt: skip
_LEVELS = ("by_prompt_type", "by_tool_success_rate", "by_difficulty", "by_task_type")


def read(files: Iterable[str], **given: str) -> Iterator[Finished]:
    """The finished tasks in `files`. `given` fills in task fields that a result does not hold, such as `model`."""
    unknown = sorted(given.keys() - _TASK.keys())
    if unknown:
        raise ValueError(f"a legacy task has no field {unknown[0]!r}; it has {', '.join(_TASK)}")
    ordinals = Ordinals()
    for name in files:
        content = _content(name)
        if isinstance(content, dict) and "models" in content:
            yield from _counted(content)
            continue
        for result in _results(name, content):
            yield ordinals.number(task_key(result, given)), _status(result), result


def task_key(result: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """The key of the task that `result` belongs to. Raises ValueError if nobody says which model it was."""
    task = {name: result.get(name, given.get(name, default)) for name, default in _TASK.items()}
    missing = [name for name in ("model", "task_type", "prompt_type") if task[name] is None]
    if missing:
        raise ValueError(f"a result does not say its {missing[0]}: give it with --set {missing[0]}=…")
    return task_fingerprint(task)


def _content(name: str) -> Any:
    try:
        with open(name, encoding="utf-8-sig") as stream:
            text = stream.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8: {error}") from error
    try:
        return _parsed(text)
    except ValueError:
        lines = [line for line in text.split("\n") if line.strip()]  # not at U+2028, which JSON may hold
        try:
            return [_parsed(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{name} is neither JSON nor one JSON result per line: {error}") from error


def _parsed(text: str) -> Any:
    """The JSON `text`; what `write` had to tag (a tuple, NaN) as it was."""
    try:
        return loads(text.encode())
    except (KeyError, TypeError, AttributeError):  # somebody else's "$type"
        return json.loads(text)


def _results(name: str, content: Any) -> list[dict[str, Any]]:
    if isinstance(content, dict):
        content = content.get("results", [content] if "success" in content else None)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise ValueError(f"{os.fspath(name)} holds no legacy results: a list of result objects was expected")
    return content


def _status(result: Mapping[str, Any]) -> str:
    """As a patched run would have saved it: a failed test is a result too; only what was cut short is not `done`."""
    kind = result.get("error_type")
    text = str(result.get("error") or "").lower()
    if kind == "timeout" or "test timeout after" in text:
        return "timeout"
    return "loop" if kind == "search_loop" else "done"


def _counted(database: Mapping[str, Any]) -> Iterator[Finished]:
    for model, node in database["models"].items():
        yield from _leaves(node, _LEVELS, ("legacy", str(model)))


def _leaves(node: Mapping[str, Any], levels: tuple[str, ...], path: tuple[str, ...]) -> Iterator[Finished]:
    children = node.get(levels[0]) if levels else None
    if not isinstance(children, Mapping):
        yield "/".join(path), "counted", {k: v for k, v in node.items() if not isinstance(v, Mapping)}
        return
    for name, child in children.items():
        yield from _leaves(child, levels[1:], (*path, str(name)))


def write(records: Callable[[], Iterable[Record]], stream: TextIO) -> int:
    """The results of tasks as the JSON list that `run_concurrent_batch` returns. How many there are.

    Left out, for there are only dicts in such a list: exceptions, results that are no dict, and tasks that were only
    started. So are the counters of an imported database.
    """
    count = 0
    stream.write("[")
    for record in records():
        result = record.plain()
        if record.status == "counted" or not isinstance(result, dict) or result.get("$type") == "exception":
            continue
        stream.write(("," if count else "") + "\n" + plain_json(result).decode())
        count += 1
    stream.write("\n]\n")
    return count
