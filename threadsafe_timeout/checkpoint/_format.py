"""One journal line: a JSON object whose last field is a checksum of everything before it.

    {"v":1,"event":"done","key":"a","time":1763936400.1,"attempt":1,"pid":41,"elapsed":0.5,"result":{…},"sum":"0f3a…"}

An error's line has `"where":["agent.py",41,"ask"]` before its result.

The checksum is CRC-32 over the line's bytes up to `,"sum":`, so any single flipped byte is seen, and a reader needs
nothing but zlib to check a line. The envelope's fields come first and in this order: a reader gets at them without
parsing the result.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any

from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._text import Place
from threadsafe_timeout.checkpoint._values import RecordedError, dumps

__all__ = [
    "CLOSED",
    "JOURNAL",
    "MAGIC",
    "POISON",
    "STARTED",
    "TRAILER",
    "UNSAVED",
    "VERSION",
    "Key",
    "checked_key",
    "envelope",
    "event_line",
    "intact_parts",
    "is_intact",
    "place_in",
    "result_bytes",
    "seal",
]

VERSION = 1
JOURNAL, STARTED, CLOSED = "journal", "started", "closed"  # events that are not a task's outcome
UNSAVED = "unsaved"  # the status of a task that ended well with a result that cannot be saved
POISON = "poison"  # the status of a task that is not run again, because it brings the program down
MAGIC = "threadsafe-timeout checkpoint"

Key = str | int

_LARGEST = 10**4000  # as in _values
_SUM = b',"sum":"%08x"}\n'
TRAILER = len(_SUM % 0) - 1  # without the newline
_RESULT = b',"result":'
_START = b'{"v":'
_TRAILER = re.compile(rb',"sum":"[0-9a-f]{8}"\}')


def seal(fields: dict[str, Any]) -> bytes:
    """The line for `fields`, ended by its newline."""
    body = dumps({"v": VERSION, **fields}, name="record")[:-1]
    return b"".join((body, _SUM % zlib.crc32(body)))


def checked_key(name: object) -> Key:
    """`name` as a key; raises TypeError or ValueError for what cannot be one."""
    if isinstance(name, str):
        return str.__str__(name)  # of an enum or another class of its own, which would come back as something else
    if isinstance(name, int) and not isinstance(name, bool):
        number = int.__int__(name)
        if -_LARGEST < number < _LARGEST:
            return number
        raise ValueError("a checkpoint key of thousands of digits cannot be read back: make it a str")
    raise TypeError(
        f"a checkpoint key is a str or an int, not {type(name).__name__}: give the task's id, or open the writer "
        f"with key= (key=task_fingerprint makes one from the task's fields)"
    )


def place_in(result: object) -> Place | None:
    """Where a result that is an error came from. One that was saved before, and came back from the file, has no frames
    of its own."""
    return place_of(result) if isinstance(result, BaseException) and not isinstance(result, RecordedError) else None


def event_line(
    event: str,
    key: Key,
    moment: float,
    attempt: int,
    elapsed: float | None = None,
    result: bytes | None = None,
    where: Place | None = None,
    thread: tuple[int, int] | None = None,
) -> bytes:
    """The line of one task's event. On the path of every save, so it is put together by hand."""
    body = b'{"v":1,"event":%b,"key":%b,"time":%.6f,"attempt":%d,"pid":%d' % (
        dumps(event), dumps(key), moment, attempt, os.getpid(),
    )  # fmt: skip
    if elapsed is not None:
        body += b',"elapsed":%.6f' % elapsed
    if where is not None:
        body += b',"where":%b' % dumps(list(where))
    if thread is not None:
        body += b',"thread":[%d,%d]' % thread
    if result is not None:
        body = b"".join((body, _RESULT, result))
    return b"".join((body, _SUM % zlib.crc32(body)))


def is_intact(line: bytes) -> bool:
    """Whether `line` (without its newline) is what was written."""
    return line[-TRAILER:] == _SUM[:-1] % zlib.crc32(memoryview(line)[:-TRAILER])


def intact_parts(line: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each whole record inside a damaged line: two lines whose newline was overwritten, say."""
    start, crc, done = 0, 0, 0
    for match in _TRAILER.finditer(line):
        crc = zlib.crc32(memoryview(line)[done:match.start()], crc)
        done = match.start()
        begin = start if crc == int(match[0][8:16], 16) else _later_start(line, start + 1, match.end())
        if begin is None:
            continue
        yield begin, match.end()
        # One overwritten byte stands where the newline was; the next record begins after it.
        start = done = match.end() + 1
        crc = 0


def _later_start(line: bytes, start: int, end: int) -> int | None:
    """Where an intact record that ends at `end` begins, if the damage is before it. Looks at the nearest few places."""
    stop = end
    for _ in range(8):
        stop = line.rfind(_START, start, stop)
        if stop < 0:
            return None
        if is_intact(line[stop:end]):
            return stop
    return None


def envelope(line: bytes) -> dict[str, Any]:
    """The fields of an intact line, without its result (which is not parsed)."""
    end = line.find(_RESULT)
    fields: dict[str, Any] = json.loads(line[: -TRAILER if end < 0 else end] + b"}")
    return fields


def result_bytes(line: bytes) -> bytes | None:
    """The result's own JSON in an intact line, None where the event carries none."""
    start = line.find(_RESULT)
    return None if start < 0 else line[start + len(_RESULT):-TRAILER]
