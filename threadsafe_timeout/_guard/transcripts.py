"""Recorded conversations, from files: JSON lines, JSON, gzip, and the result files of the legacy runner.

One record is one conversation: `{"turns": [{"response": …, "feedback": …}, …]}`, `{"messages": […]}` (or
`conversation_history`, `history`, `traj`, `conversation`, `input` with `output`), or a bare list of messages. `success`
(or `resolved`, or a `reward` of 1), `model` and `id` are used if they are there. A file holds one record a line, or one
JSON value: a record, or a list of them.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadsafe_timeout._guard.readers import role_of

__all__ = ["Transcript", "TranscriptError", "read_transcripts"]

_LISTS = ("messages", "conversation_history", "history", "traj", "trajectory", "conversation", "conversations")
_LARGEST = 1 << 30


class TranscriptError(Exception):
    """A file, or a line of it, is no recorded conversation. The text names it."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One conversation. `turns` are the answers of the model, each with what it was told after it."""

    name: str
    prompt: list[Any]
    turns: list[tuple[Any, list[Any]]]
    success: bool | None
    model: str

    def worked_after(self, turn: int) -> bool:
        """Whether a tool still succeeded after that turn: its feedback begins with a check mark, or, where no
        feedback of the conversation has one, whether it went on to call tools at all."""
        if any(_has_mark(one) for _, heard in self.turns for one in heard):
            return any(_has_mark(one) for _, heard in self.turns[turn:] for one in heard)
        return any(heard for _, heard in self.turns[turn:])


def _has_mark(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, str) and content.lstrip().startswith("\u2705")


def read_transcripts(path: str | Path) -> Iterator[Transcript]:
    """The conversations of a file, in order. Raises TranscriptError, naming file and line."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as lines:
            yield from _records_of(path, lines)
    except (OSError, EOFError, zlib.error) as exc:
        raise TranscriptError(f"{path}: cannot be read: {exc}") from None
    except UnicodeDecodeError as exc:
        raise TranscriptError(f"{path}: is not UTF-8 text: {exc}") from None


def _records_of(path: Path, lines: Any) -> Iterator[Transcript]:
    number = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as exc:
            if number == 1:  # one JSON value over many lines
                yield from _whole(path, line + lines.read(_LARGEST), exc)
                return
            raise TranscriptError(f"{path}, line {number}: is not JSON: {exc}") from None
        records = value if isinstance(value, list) and value and _is_record(value[0]) else [value]
        for place, record in enumerate(records):
            yield _transcript(record, path, f"line {number}" if len(records) == 1 else f"record {place + 1}")


def _whole(path: Path, text: str, first: Exception) -> Iterator[Transcript]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise TranscriptError(f"{path}, line 1: is not JSON: {first}") from None
    records = value if isinstance(value, list) and value and _is_record(value[0]) else [value]
    for place, record in enumerate(records):
        yield _transcript(record, path, f"record {place + 1}")


def _is_record(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and role_of(value) is None and _found(value) is not None)


def _found(record: dict[str, Any]) -> list[Any] | None:
    for name in ("turns", *_LISTS):
        if isinstance(record.get(name), list):
            return list(record[name])
    for name in ("result", "_log_data", "interactive", "task"):  # journals and results keep it one deeper
        inner = record.get(name)
        found = _found(inner) if isinstance(inner, dict) else None
        if found is not None:
            return found
    if isinstance(record.get("input"), list) and isinstance(record.get("output"), list):
        return [*record["input"], *record["output"]]
    return None


def _transcript(record: Any, path: Path, place: str) -> Transcript:
    messages = record if isinstance(record, list) else _found(record) if isinstance(record, dict) else None
    if messages is None:
        raise TranscriptError(
            f"{path}, {place}: holds no conversation; expected a list of messages, or an object with one of turns, "
            f"{', '.join(_LISTS)}"
        )
    about = record if isinstance(record, dict) else {}
    prompt, turns = _turns(messages)
    name = about.get("id", about.get("task_id", about.get("key", place)))
    model = about.get("model")
    return Transcript(str(name), prompt, turns, _success(about), model if isinstance(model, str) else "")


def _turns(messages: list[Any]) -> tuple[list[Any], list[tuple[Any, list[Any]]]]:
    prompt: list[Any] = []
    turns: list[tuple[Any, list[Any]]] = []
    open_items = False  # the last answer is made of items, and may have more of them
    for message in messages:
        if isinstance(message, dict) and "response" in message and "role" not in message:
            feedback = message.get("feedback") or ""
            heard = [{"role": "user", "content": feedback}] if feedback else []
            turns.append(({"role": "assistant", "content": message["response"]}, heard))
            continue
        item = isinstance(message, dict) and str(message.get("type", "")) in ("reasoning", "function_call", "message")
        if role_of(message) == "assistant" or (item and role_of(message) is None) or isinstance(message, str):
            if item and open_items:
                turns[-1][0].append(message)
            else:
                turns.append(([message] if item else message, []))
            open_items = item
        else:
            open_items = False
            (turns[-1][1] if turns else prompt).append(message)
    return prompt, turns


def _success(record: dict[str, Any]) -> bool | None:
    for name in ("success", "resolved", "passed"):
        if isinstance(record.get(name), bool):
            return bool(record[name])
    if isinstance(record.get("reward"), int | float):
        return float(record["reward"]) >= 1
    result = record.get("result")
    return _success(result) if isinstance(result, dict) else None
