"""Making a journal whole again (`repair`) and small again (`compact`). Both are safe while runs write to it.

The new file is written beside the old one, synced, and renamed over it under the lock; a writer that has the old one
open notices at its next commit and goes on in the new one.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from threadsafe_timeout._checks import check_seconds
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint import _format
from threadsafe_timeout.checkpoint._errors import CheckpointVersionError
from threadsafe_timeout.checkpoint._format import CLOSED, JOURNAL, MAGIC, STARTED
from threadsafe_timeout.checkpoint._journal import UNKNOWN, replace_file
from threadsafe_timeout.checkpoint._lock import JournalLock
from threadsafe_timeout.checkpoint._scan import Damage, Line, check_version, intact_lines, open_journal, scan

__all__ = ["Compaction", "Repair", "Verification", "compact", "repair", "verify"]

Progress = Callable[[int], None]  # told how many bytes were read since it was last told


@dataclass(slots=True)
class Verification:
    """What a check of every line found."""

    path: str
    size: int = 0
    lines: int = 0
    damage: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is nothing worse than a torn last line."""
        return all(item.torn for item in self.damage)


@dataclass(frozen=True, slots=True)
class Repair:
    """What `repair` kept and what it left out. `kept_aside` is the damaged file, whole; None if there was no damage."""

    path: str
    kept: int
    damage: tuple[Damage, ...]
    kept_aside: str | None


@dataclass(frozen=True, slots=True)
class Compaction:
    """How many lines and bytes `compact` found and left."""

    path: str
    lines_before: int
    lines_after: int
    bytes_before: int
    bytes_after: int


def _nothing(_: int) -> None:
    pass


def verify(path: str | os.PathLike[str], progress: Progress = _nothing) -> Verification:
    """Check every line of a journal, one in memory at a time. Damage is listed, not raised."""
    found = Verification(os.fsdecode(path))
    with open_journal(found.path) as stream:
        for item in scan(stream):
            length = len(item.raw) + 1 if isinstance(item, Line) else item.length
            found.size += length
            progress(length)
            if isinstance(item, Damage):
                found.damage.append(item)
                continue
            found.lines += 1
            check_version(found.path, _format.envelope(item.raw))
    found.size = os.path.getsize(found.path)
    return found


def repair(path: str | os.PathLike[str], *, lock_timeout: float = 30.0, progress: Progress = _nothing) -> Repair:
    """Keep every intact line, drop what is damaged, and keep the damaged file aside under another name.

    A journal without damage is left alone. A lost header is replaced; the journal then counts as of any configuration.
    """
    name = os.path.realpath(os.fsdecode(path))
    lock_timeout = check_seconds("lock_timeout", lock_timeout)
    open_journal(name).close()  # before a lock file is made beside what is no journal
    lock = JournalLock(name)
    with lock.held(lock_timeout):
        found = verify(name, progress)
        if not found.damage:
            return Repair(name, found.lines, (), None)
        if found.lines == 0:
            raise CheckpointVersionError(name, None, "there is not one intact record in it; it may be no checkpoint")
        aside = _beside(name, "damaged")
        os.link(name, aside)
        os.close(replace_file(name, lambda fd: _write_lines(fd, _with_header(_every_line(name)))))
    return Repair(name, found.lines, tuple(found.damage), aside)


def compact(path: str | os.PathLike[str], *, lock_timeout: float = 30.0, progress: Progress = _nothing) -> Compaction:
    """Rewrite the journal with one line per key: its last outcome (or that it was started, if it has none)."""
    name = os.path.realpath(os.fsdecode(path))
    lock_timeout = check_seconds("lock_timeout", lock_timeout)
    open_journal(name).close()
    with JournalLock(name).held(lock_timeout):
        before = os.path.getsize(name)
        lines, wanted = _last_lines(name, progress)
        if not lines:
            raise CheckpointVersionError(name, None, "there is not one record in it: it is empty, or no checkpoint")
        kept = (line for line in _every_line(name) if line.offset in wanted)
        os.close(replace_file(name, lambda fd: _write_lines(fd, kept)))
        return Compaction(name, lines, len(wanted), before, os.path.getsize(name))


def _last_lines(path: str, progress: Progress) -> tuple[int, set[int]]:
    """The number of lines, and the offsets of those that say what is so now."""
    outcome: dict[Any, int] = {}
    started: dict[Any, int] = {}
    others: set[int] = set()
    lines, closed = 0, -1
    with open_journal(path) as stream:
        for line in intact_lines(path, stream):
            lines += 1
            progress(len(line.raw) + 1)
            fields = _format.envelope(line.raw)
            closed = line.offset if fields["event"] == CLOSED else -1  # only a closing that is the last event counts
            if "key" not in fields:
                others |= {line.offset} if fields["event"] == JOURNAL else set()
            elif fields["event"] == STARTED:
                started[fields["key"]] = line.offset
            else:
                outcome[fields["key"]] = line.offset
                started.pop(fields["key"], None)
    # A start after the last outcome stays too: it says that one more attempt was made.
    wanted = others | set(outcome.values()) | set(started.values())
    return lines, wanted | ({closed} if closed >= 0 else set())


def _every_line(path: str) -> Iterator[Line]:
    with open_journal(path) as stream:
        for item in scan(stream):
            if isinstance(item, Line):
                yield item


def _with_header(lines: Iterator[Line]) -> Iterator[Line]:
    for number, line in enumerate(lines):
        if number == 0 and _format.envelope(line.raw).get("event") != JOURNAL:
            header = {
                "event": JOURNAL, "format": MAGIC, "run": os.urandom(8).hex(), "time": round(_clock.wall_time(), 6),
                "pid": os.getpid(), "config": UNKNOWN, "fields": {},
            }  # fmt: skip
            yield Line(0, 0, _format.seal(header)[:-1])
        yield line


def _write_lines(fd: int, lines: Iterator[Line]) -> None:
    # A million small writes would take longer than the reading.
    with open(os.dup(fd), "ab", buffering=1 << 20) as stream:
        for line in lines:
            stream.write(line.raw)
            stream.write(b"\n")


def _beside(path: str, word: str) -> str:
    moment = datetime.datetime.fromtimestamp(_clock.wall_time(), datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{path}.{word}-{moment}"  # os.link refuses a name that is taken
