"""Reading a journal from its beginning, one line in memory at a time, telling intact records from damage.

What is forgiven is exactly what a kill or a power cut leaves: an incomplete **last** line (no newline at its end).
A last line that is whole and only lacks its newline is a record like any other. Anything else is damage, and named.

A reader takes no lock, so a writer may be at work meanwhile. Two things follow:

- Of a line that is just being written a part may be there. What has no newline is therefore the end, as far as this
  reading goes. To read on would give the rest of that line, which by itself looks like damage.
- A writer may cut off what was not acknowledged (a torn line, or lines whose fsync failed) and write other lines
  there, between two of the reader's reads. It then has the beginning of the old bytes and the end of the new ones.
  So nothing is called damage before a second look at the same place has found the same bytes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from io import UnsupportedOperation
from itertools import islice
from typing import IO, Any

from threadsafe_timeout.checkpoint import _disk, _format
from threadsafe_timeout.checkpoint._errors import (
    NO_JOURNAL,
    CheckpointCorrupt,
    CheckpointNotFound,
    CheckpointUnavailable,
    CheckpointVersionError,
)

__all__ = ["Damage", "Line", "intact_lines", "line_start", "open_journal", "read_header", "scan"]

_BLOCK = 1 << 16


_MANY = 100  # damaged places, from the beginning on, without one record between them: it was never a journal


@dataclass(frozen=True, slots=True)
class Line:
    """An intact line: `raw` without its newline, `number` from 1, `offset` in bytes from 0."""

    number: int
    offset: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no record. `torn`: they are an incomplete last line, what a kill in mid-write leaves."""

    line: int
    byte: int
    length: int
    reason: str
    torn: bool


def open_journal(path: str) -> IO[bytes]:
    """Open for reading; a missing or unreadable file is a `CheckpointUnavailable` that says what to do."""
    try:
        # Before it is opened, which would wait for the other end of a pipe. And nobody must ever put a compacted
        # journal in the place of a device.
        if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            raise CheckpointUnavailable(path, "read the checkpoint", errno.EINVAL, "Give the path of a regular file")
        return open(path, "rb", buffering=1 << 20)
    except CheckpointUnavailable:
        raise
    except FileNotFoundError as error:
        advice = "Check the path, and that an earlier run wrote a checkpoint there"
        raise CheckpointNotFound(path, "read the checkpoint", error.errno, advice) from error
    except OSError as error:
        advice = "Give the path of a file" if error.errno == errno.EISDIR else ""
        raise CheckpointUnavailable(path, "read the checkpoint", error.errno, advice) from error


def scan(stream: IO[bytes]) -> Iterator[Line | Damage]:
    """Every byte of the journal, as intact lines and damage, in file order. `stream` is at its beginning."""
    offset, number, start = 0, 1, None
    while True:
        for chunk in stream:
            complete = chunk.endswith(b"\n")
            raw = chunk[:-1] if complete else chunk
            if _format.is_intact(raw):
                yield Line(number, offset, raw)
            else:
                start = _changed_since(stream, offset, chunk)
                if start is not None:
                    break
                yield from _damaged(number, offset, raw, complete)
            if not complete:
                return
            offset += len(chunk)
            number += 1
        if start is None:
            return
        stream.seek(0, os.SEEK_END)  # a seek within what is buffered would give the old bytes again
        stream.seek(start)
        offset, start = start, None


def _changed_since(stream: IO[bytes], offset: int, chunk: bytes) -> int | None:
    """Where to read on if the file was changed while `chunk` was read at `offset`; None if it is as it was read."""
    try:
        fd = stream.fileno()
    except UnsupportedOperation:  # in memory
        return None
    start = line_start(fd, offset)
    if start == offset and _disk.read(fd, len(chunk), offset) == chunk:
        return None
    return start


def line_start(fd: int, size: int) -> int:
    """Where the line that ends at `size` begins."""
    while size > 0:
        begin = max(size - _BLOCK, 0)
        found = _disk.read(fd, size - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        size = begin
    return 0


def _damaged(number: int, offset: int, raw: bytes, complete: bool) -> Iterator[Line | Damage]:
    done = 0
    for start, end in _format.intact_parts(raw):
        if start > done:
            yield _damage(number, offset, raw, done, start)
        yield Line(number, offset + start, raw[start:end])
        done = end
    if done == 0 and not complete:
        yield Damage(number, offset, len(raw), "an incomplete last line", torn=True)
    elif done < len(raw) and not complete and not raw[done:].strip(b"\0"):
        # Some file systems lengthen a file with zeros before its data arrives.
        yield Damage(number, offset + done, len(raw) - done, "zeros at the end of the file", torn=True)
    elif done < len(raw) or done == 0:
        yield _damage(number, offset, raw, done, len(raw))


def _damage(number: int, offset: int, raw: bytes, start: int, end: int) -> Damage:
    piece = raw[start:end]
    if len(piece) <= 1:
        reason = f"{piece!r} where a line should end" if start else "an empty line"
    elif not piece.strip(b"\0"):
        reason = f"{len(piece)} zero bytes where a record should be"
    elif not piece.startswith(b"{"):
        reason = f"{len(piece)} bytes that are no record (they begin {piece[:12]!r})"
    elif not piece.endswith(b'"}'):
        reason = "a record without its end"
    else:
        reason = "a record whose checksum does not match its content"
    return Damage(number, offset + start, end - start, reason, torn=False)


def intact_lines(path: str, stream: IO[bytes], torn: list[Damage] | None = None) -> Iterator[Line]:
    """The intact lines of a journal. A torn last line goes to `torn`; other damage raises `CheckpointCorrupt`."""
    items = scan(stream)
    for item in items:
        if isinstance(item, Line):
            yield item
        elif not item.torn:
            if item.line == 1 and not any(isinstance(other, Line) for other in islice(items, _MANY)):
                raise CheckpointCorrupt(path, item.line, item.byte, NO_JOURNAL)
            raise CheckpointCorrupt(path, item.line, item.byte, item.reason)
        elif torn is not None:
            torn.append(item)


def read_header(path: str, line: Line | None) -> dict[str, Any]:
    """The header's fields, checked; `line` is the journal's first line."""
    fields = _format.envelope(line.raw) if line is not None else {}
    check_version(path, fields)
    if line is None or line.offset != 0 or fields.get("event") != _format.JOURNAL:
        raise CheckpointVersionError(
            path, None, "this is not a threadsafe-timeout checkpoint (it does not begin with a header line). "
            "Give another path; a damaged journal can be rebuilt with  threadsafe-timeout checkpoint repair"
        )
    return fields


def check_version(path: str, fields: dict[str, Any]) -> None:
    """Refuse what a newer release wrote: reading half of it would drop records silently."""
    version = fields.get("v", _format.VERSION)
    if version != _format.VERSION:
        raise CheckpointVersionError(
            path, version, f"written in format version {version!r}, this release reads version {_format.VERSION}: "
            f"upgrade threadsafe-timeout"
        )
