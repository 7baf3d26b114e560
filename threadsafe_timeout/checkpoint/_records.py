"""What a journal says: records, and the mapping from key to its last one.

Results are not held in memory: a record remembers where its line is and reads it when `.result` is asked for.
A million records are an index of some hundred bytes each, whatever their results weigh.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any

from threadsafe_timeout._text import Place, shown
from threadsafe_timeout.checkpoint import _disk, _format, _spill
from threadsafe_timeout.checkpoint._errors import CheckpointCorrupt, CheckpointNotFound, CheckpointVersionError
from threadsafe_timeout.checkpoint._format import Key
from threadsafe_timeout.checkpoint._scan import Damage, Line, check_version, intact_lines, open_journal, read_header
from threadsafe_timeout.checkpoint._values import class_name, loads

__all__ = ["Checkpoint", "Record", "attempts_in", "iter_records", "load_checkpoint", "types_by_name"]

log = logging.getLogger("threadsafe_timeout.checkpoint")

_Types = dict[str, type]


class Record:
    """The outcome of one attempt at one task, from the journal.

    - `status`: `started` if the task has no outcome, because it was running when its run was killed
    - `elapsed`: seconds from `started()` to `save()`, or None if that is not known
    - `time`: seconds since the epoch
    - `where`: of an error, the file, line and function of your code that it came from, or None
    - `types`: the classes that `.result` may contain, by name
    """

    __slots__ = (
        "_length", "_raw", "_source", "attempt", "elapsed", "key", "line", "offset", "pid", "status", "time", "types",
        "where",
    )  # fmt: skip

    def __init__(self, fields: dict[str, Any], line: Line, types: _Types, source: _Source | None) -> None:
        self.key: Key = fields["key"]
        self.status: str = fields["event"]
        self.time: float = fields["time"]
        self.attempt: int = fields["attempt"]
        self.pid: int = fields["pid"]
        self.elapsed: float | None = fields.get("elapsed")
        where = fields.get("where")
        self.where: Place | None = None if where is None else (sys.intern(where[0]), where[1], sys.intern(where[2]))
        self.line = line.number
        self.offset = line.offset
        self._length = len(line.raw)
        self._raw = None if source else line.raw
        self._source = source
        self.types = types

    @classmethod
    def of_line(cls, raw: bytes, types: _Types) -> Record:
        """The record of a journal line that is in memory."""
        raw = raw.removesuffix(b"\n")
        return cls(_format.envelope(raw), Line(0, 0, raw), types, None)

    @property
    def result(self) -> Any:
        """The saved result, read from the file and rebuilt at each access; None for `started`."""
        raw = _format.result_bytes(self.raw_line())
        return None if raw is None else loads(raw, self.types)

    def plain(self) -> Any:
        """The result as plain JSON data, with its tags."""
        raw = _format.result_bytes(self.raw_line())
        return None if raw is None else json.loads(raw)

    def raw_line(self) -> bytes:
        """The journal line itself. Its checksum is verified again."""
        if self._source is None:
            assert self._raw is not None
            return self._raw
        raw = _disk.read(self._source.fd, self._length, self.offset)
        if not _format.is_intact(raw):
            raise CheckpointCorrupt(self._source.path, self.line, self.offset, "the record changed after it was loaded")
        return raw

    def __repr__(self) -> str:
        elapsed = "" if self.elapsed is None else f" elapsed={self.elapsed:.3g}s"
        return f"<Record {self.key!r} {shown(self.status)} attempt={self.attempt}{elapsed} line={self.line}>"


class _Source:
    """A descriptor that stays open while a record may still be read from it, even if the file is renamed away."""

    __slots__ = ("__weakref__", "fd", "path")

    def __init__(self, path: str, stream: IO[bytes]) -> None:
        self.path = path
        self.fd = os.dup(stream.fileno())
        weakref.finalize(self, os.close, self.fd)


class Checkpoint(Mapping[Key, Record]):
    """A loaded journal: key → its last `Record`, in file order.

    A `started` line does not replace an earlier outcome of its key; it only raises `attempt`.

    - `torn`: an incomplete last line that was ignored, or None
    - `ended`: whether the run closed its journal
    - `config`: the hash of the run's configuration
    - `spills`: the spill files whose records were loaded too
    """

    def __init__(self, path: str, header: dict[str, Any]) -> None:
        self.path = path
        self.config: str | None = header.get("config")
        self.config_fields: dict[str, str] = header.get("fields") or {}
        self.run: str | None = header.get("run")
        self.created: float | None = header.get("time")
        self.torn: Damage | None = None
        self.ended = False
        self.spills: tuple[str, ...] = ()
        self._records: dict[Key, Record] = {}

    def __getitem__(self, key: Key) -> Record:
        return self._records[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path} {dict(self.counts())}{' ended' if self.ended else ''}>"

    def counts(self) -> Counter[str]:
        """How many keys have each status."""
        return Counter(record.status for record in self._records.values())

    def attempts(self) -> dict[Key, int]:
        """How often each key has been tried."""
        return {key: record.attempt for key, record in self._records.items()}

    def _add(self, record: Record) -> None:
        known = self._records.pop(record.key, None)
        if known is not None and record.status == _format.STARTED and known.status != _format.STARTED:
            known.attempt = max(known.attempt, record.attempt)
            record = known
        self._records[record.key] = record


def types_by_name(types: Iterable[type]) -> _Types:
    types = list(types)
    for one in types:
        if not isinstance(one, type):
            raise TypeError(f"types are the classes that results may hold; {one!r} is not a class")
    return {class_name(cls): cls for cls in types}


def _events(path: str, stream: IO[bytes], torn: list[Damage]) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Every line with its envelope; the first is the header. An empty or torn-header file yields nothing."""
    lines = intact_lines(path, stream, torn)
    first = next(lines, None)
    if first is None:
        if torn and not torn[0].length == 0 and not _could_be_header(stream):
            raise CheckpointVersionError(path, None, "this is not a threadsafe-timeout checkpoint. Give another path")
        return
    yield first, read_header(path, first)
    for line in lines:
        fields = _format.envelope(line.raw)
        check_version(path, fields)
        yield line, fields


def _could_be_header(stream: IO[bytes]) -> bool:
    stream.seek(0)
    begin = stream.read(16).rstrip(b"\0")
    return begin.startswith(b'{"v":1,"event":"'[: len(begin)])


def iter_records(path: str | os.PathLike[str], *, types: Iterable[type] = ()) -> Iterator[Record]:
    """Every record line in file order, `started` ones included, each in memory only while you hold it.

    Raises `CheckpointCorrupt` at the first damage that is not a torn last line; what came before has been yielded.
    Spill files are not read: see `load_checkpoint`.
    """
    name, known = os.fsdecode(path), types_by_name(types)
    with open_journal(name) as stream:
        for line, fields in _events(name, stream, []):
            if "key" in fields:
                yield Record(fields, line, known, None)


def load_checkpoint(
    path: str | os.PathLike[str], *, types: Iterable[type] = (), progress: Callable[[int], None] | None = None
) -> Checkpoint:
    """Read a journal: a mapping from key to its last `Record`, in file order.

    `types` are the dataclasses, pydantic models and enums that results may contain. Without them such values come back
    as dicts of their fields (enums: their values). `progress` is called with the number of bytes read since its last
    call.

    An incomplete last line is ignored and reported (`.torn`, and a log line). Records that a full disk sent to spill
    files are included.

    Raises `CheckpointCorrupt` for any other damage, `CheckpointUnavailable` if the file cannot be read, and
    `CheckpointVersionError` if it is not a journal.
    """
    name, known = os.path.realpath(os.fsdecode(path)), types_by_name(types)
    while (loaded := _load(name, known, progress)) is None:
        pass
    return loaded


def _load(name: str, known: _Types, progress: Callable[[int], None] | None) -> Checkpoint | None:
    """The journal with its spill files; None if the writer has moved one of them into the journal meanwhile."""
    torn, spills = list[Damage](), _spill.find(name)
    with ExitStack() as stack:
        loaded: Checkpoint | None = None
        try:
            stream = stack.enter_context(open_journal(name))
        except CheckpointNotFound:
            if not spills:
                raise
        else:
            loaded = _load_journal(name, stream, known, torn, progress)
        for spill in spills:
            try:
                loaded = _load_spill(name, spill, loaded, known)
            except CheckpointNotFound:
                return None
    assert loaded is not None
    if torn:
        loaded.torn = end = torn[0]
        log.warning("%s: line %d, byte %d: %s (%d bytes), left by a run that was killed while writing it, or being "
                    "written just now; it was not acknowledged", name, end.line, end.byte, end.reason, end.length)
    return loaded


def _load_journal(
    name: str, stream: IO[bytes], types: _Types, torn: list[Damage], progress: Callable[[int], None] | None
) -> Checkpoint:
    source = _Source(name, stream)
    loaded: Checkpoint | None = None
    for line, fields in _events(name, stream, torn):
        if progress is not None:
            progress(len(line.raw) + 1)
        if loaded is None:
            loaded = Checkpoint(name, fields)
            continue
        loaded.ended = fields["event"] == _format.CLOSED
        if "key" in fields:
            loaded._add(Record(fields, line, types, source))
    return Checkpoint(name, {}) if loaded is None else loaded


def attempts_in(path: str, see: Callable[[bytes, dict[str, Any]], object]) -> dict[Key, int]:
    """How often each key was tried. Checks every line on the way, holding one at a time; `see` is called with each that
    has a key."""
    attempts: dict[Key, int] = {}
    with open_journal(path) as stream:
        for line, fields in _events(path, stream, []):
            if "key" in fields:
                see(line.raw, fields)
                key = fields["key"]
                attempts[key] = max(attempts.get(key, 0), fields["attempt"])
    return attempts


def _load_spill(name: str, spill: str, loaded: Checkpoint | None, types: _Types) -> Checkpoint:
    """Add a spill file's records. One already in the journal (written there after all) changes nothing."""
    with open_journal(spill) as stream:
        source = _Source(spill, stream)
        for line, fields in _events(spill, stream, []):
            if loaded is None:
                loaded = Checkpoint(name, fields)
            elif "key" not in fields and fields.get("run") != loaded.run:
                return loaded  # left by an earlier run at the same path
            if "key" in fields:
                known = loaded.get(fields["key"])
                if known is None or (known.time, known.attempt) <= (fields["time"], fields["attempt"]):
                    loaded._add(Record(fields, line, types, source))
    if loaded is None:
        loaded = Checkpoint(name, {})
    loaded.spills += (spill,)
    return loaded
