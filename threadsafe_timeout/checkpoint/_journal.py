"""The journal's file: opened, checked and appended to, always under the lock.

Guarantees of `append`, whatever fails in between:

- Either every line is in the file (and synced, if asked) when it returns, or it raises and the file is as before; a
  piece of a line that could not be taken back is never glued to the next one.
- No line is written twice, even if an exception from outside (Ctrl-C, a cancelled thread) strikes between the write
  and the note that it was done: what was under way is noted first, and the next append looks at what got there.
- A failed fsync is not simply tried again (the system may have dropped the pages and call the next one a success):
  the lines are taken back and written anew.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint import _disk, _format
from threadsafe_timeout.checkpoint._errors import CheckpointConfigMismatch, CheckpointCorrupt, CheckpointUnavailable
from threadsafe_timeout.checkpoint._fingerprint import config_hash, field_hashes
from threadsafe_timeout.checkpoint._format import CLOSED, JOURNAL, MAGIC
from threadsafe_timeout.checkpoint._lock import JournalLock
from threadsafe_timeout.checkpoint._scan import Line, line_start, read_header, scan

__all__ = ["UNKNOWN", "Journal", "replace_file"]

log = logging.getLogger("threadsafe_timeout.checkpoint")

_ADVICE = {
    errno.EACCES: "Give the user that runs this the right to write there, or use another path",
    errno.EPERM: "Give the user that runs this the right to write there, or use another path",
    errno.EROFS: "Use a path on a file system that is not mounted read-only",
    errno.ENOSPC: "Free some space, or use a path on another disk",
    errno.EDQUOT: "Free some of your quota, or use a path on another disk",
    errno.EISDIR: "Give the path of a file",
    errno.EINVAL: "Give the path of a regular file: a journal is read back and taken up again",
}
_BLOCK = 1 << 16
UNKNOWN = "unknown"  # the configuration of a repaired journal whose header was lost


class Journal:
    """One open journal file. Every method but `close` is called with `lock` held."""

    def __init__(self, path: str | os.PathLike[str], *, config: object, durable: bool) -> None:
        # Resolved once: a later chdir must not move it, and replacing a symbolic link would part it from its lock.
        self.path = os.path.realpath(os.fsdecode(path))
        if os.path.exists(self.path) and not os.path.isfile(self.path):  # before anything is made beside it
            number = errno.EISDIR if os.path.isdir(self.path) else errno.EINVAL
            raise CheckpointUnavailable(self.path, "open the checkpoint for writing", number, _ADVICE[number])
        self.durable = durable
        self.config = config_hash(config)
        self._config_fields = field_hashes(config)
        self.lock = JournalLock(self.path)
        self.header: dict[str, Any] = {}
        self._fd = _Descriptor()
        self._end = -1  # size after our last append; another size means somebody else wrote
        self._unsettled: tuple[int, frozenset[bytes]] | None = None  # where an append began, and its lines
        self._aside = False  # our file was renamed away for another run; we go on in it

    # --- opening ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or create; check that it is a journal of this configuration."""
        try:
            _disk.make_directories(os.path.dirname(self.path))
            self._fd.set(_disk.open_file(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND))
            facts = os.fstat(self._fd.number)
            if not stat.S_ISREG(facts.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            self._begin(facts.st_size)
        except OSError as error:
            self.close()
            if isinstance(error, CheckpointUnavailable):
                raise
            advice = _ADVICE.get(error.errno or 0, "")
            raise CheckpointUnavailable(self.path, "open the checkpoint for writing", error.errno, advice) from error
        except BaseException:
            self.close()
            raise

    def _begin(self, size: int) -> None:
        block = _disk.read(self._fd.number, _BLOCK, 0)
        if b"\n" not in block and size < _BLOCK:
            if next(_format.intact_parts(block), None) is not None:
                self._mend_tail(size)
            elif b'{"v":1,"event":"journal"'.startswith(block.rstrip(b"\0")[:24]):
                # Nothing yet, or a header whose writer was killed half way: nobody was told that it exists.
                _disk.truncate(self._fd.number, 0)
                self._end = 0
                self._write_header()
                return
        first = _first_line(self._fd.number)
        if first is None:
            raise CheckpointCorrupt(self.path, 1, 0, "the header is damaged, or this is no checkpoint")
        self.header = read_header(self.path, first)
        self._check_config()
        if self.durable:
            # A killed run may have left records that are in the page cache only; what we resume from must stay.
            _disk.sync(self._fd.number)

    def _write_header(self) -> None:
        self.header = {
            "v": _format.VERSION, "event": JOURNAL, "format": MAGIC, "run": os.urandom(8).hex(),
            "time": round(_clock.wall_time(), 6), "pid": os.getpid(), "config": self.config,
            "fields": self._config_fields,
        }  # fmt: skip
        self.append([self.header_line()], sync=self.durable)
        self.settled()
        if self.durable:
            _disk.sync_directory(os.path.dirname(self.path))

    def header_line(self) -> bytes:
        """The header as a line: spill files begin with it too, so that they are recognised as this run's."""
        return _format.seal({name: value for name, value in self.header.items() if name not in ("v", "sum")})

    def _check_config(self) -> None:
        found = self.header.get("config")
        if self.config is None or self.config == found:
            return
        if found == UNKNOWN:
            log.warning("%s was repaired and its header was lost: it is taken to be of this configuration", self.path)
            return
        theirs: dict[str, str] = self.header.get("fields") or {}
        ours = self._config_fields
        differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise CheckpointConfigMismatch(self.path, self.config, found, tuple(differing) if found else ())

    def close(self) -> None:
        self._fd.close()

    # --- appending ----------------------------------------------------------------------------------------------

    def append(self, lines: list[bytes], *, sync: bool) -> None:
        """Append whole lines, all or none. Raises `OSError`.

        Lines that an append which was not `settled()` has written already are left out.
        """
        fd = self._fd.number
        size = start = os.fstat(fd).st_size
        if size != self._end:
            size = start = self._mend_tail(size)
        wanted, before = frozenset(lines), self._unsettled
        if before is not None:
            start = min(start, before[0])
            lines = self._not_yet_written(lines, size)
        # Noted before the write: see the module's guarantees.
        self._unsettled = (start, wanted)
        data = b"".join(lines)
        try:
            _disk.write_all(fd, data)
            if sync:
                _disk.sync(fd)
        except OSError:
            self._take_back(size, before)
            raise
        self._end = size + len(data)

    def settled(self) -> None:
        """Whoever appended knows that he has: his lines will not be given to `append` again."""
        self._unsettled = None

    def _take_back(self, size: int, before: tuple[int, frozenset[bytes]] | None) -> None:
        try:
            _disk.truncate(self._fd.number, size)
        except OSError:
            return  # stays noted as unsettled: the next append finds out what is there
        self._end = size
        self._unsettled = before

    def _not_yet_written(self, lines: list[bytes], size: int) -> list[bytes]:
        assert self._unsettled is not None
        start, attempted = self._unsettled
        there = b"\n" + _disk.read(self._fd.number, max(size - start, 0), start)
        return [line for line in lines if line not in attempted or b"\n" + line not in there]

    def _mend_tail(self, size: int) -> int:
        """Make sure that the file ends with a newline, so that our line is not glued to a torn one. The new size."""
        fd = self._fd.number
        if size == 0 or _disk.read(fd, 1, size - 1) == b"\n":
            return size
        start = line_start(fd, size)
        tail = _disk.read(fd, size - start, start)
        whole = next((end for begin, end in _format.intact_parts(tail) if begin == 0), 0)
        if whole == 0:
            self._keep_aside(tail)
            _disk.truncate(fd, start)
            return start
        if not tail[whole:].strip(b"\0"):
            _disk.truncate(fd, start + whole)
        _disk.write_all(fd, b"\n")
        return os.fstat(fd).st_size

    def _keep_aside(self, tail: bytes) -> None:
        log.warning("%s: an incomplete last line (%d bytes), left by a process that was killed while writing it, is "
                    "moved to %s.torn; it was never acknowledged", self.path, len(tail), self.path)
        with contextlib.suppress(OSError):  # it is worth a copy, not worth failing the save of a whole record
            fd = _disk.open_file(f"{self.path}.torn", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                _disk.write_all(fd, tail + b"\n")
            finally:
                os.close(fd)

    def take_in(self, spill: str) -> None:
        """Move the records of this run's spill file into the journal, those that are not there yet."""
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            fd = _disk.open_file(spill, os.O_RDONLY)
            try:
                if not self._is_ours(fd):
                    return
                spilled = [line for line, _ in _lines(fd)]
            finally:
                os.close(fd)
            wanted = frozenset(spilled)
            there = {line for line, _ in _lines(self._fd.number) if line in wanted}
            self.append([line for line in spilled if line not in there], sync=self.durable)
            self.settled()
            os.unlink(spill)
            log.warning("%s: %d records of the spill file %s are now in the journal", self.path, len(spilled), spill)

    def after_fork_in_child(self) -> None:
        """The parent's threads, and what they were about to write, do not exist in the child."""
        self.lock = JournalLock(self.path)
        self._unsettled = None

    # --- the file under the path --------------------------------------------------------------------------------

    def ensure_current(self) -> None:
        """See to it that our descriptor is the file at the path: it may have been deleted, replaced or renamed."""
        if self._aside:
            return
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            self._restore(self.path)
            return
        try:
            ours = os.fstat(self._fd.number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            self._fd.forget()  # closed behind our back; the number may be somebody else's next
            self._reopen()
            return
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            self._replaced()

    def _is_ours(self, fd: int) -> bool:
        first = _first_line(fd)
        return first is not None and _format.envelope(first.raw).get("run") == self.header.get("run")

    def _reopen(self) -> None:
        fd = _disk.open_file(self.path, os.O_RDWR | os.O_APPEND)
        if not self._is_ours(fd):
            os.close(fd)
            raise OSError(errno.ESTALE, "another run's file is at the journal's path")
        self._fd.set(fd)
        self._end = -1

    def _restore(self, target: str) -> None:
        """The file or its directory was deleted while we hold it open: put all of it back."""
        if not self._is_ours(self._fd.number):
            raise OSError(errno.ENOENT, "the journal was deleted")
        log.error("%s was deleted while in use; everything saved so far is written again to %s", self.path, target)
        _disk.make_directories(os.path.dirname(target))
        self._fd.set(replace_file(target, lambda fd: _copy(self._fd.number, fd)))

    def _replaced(self) -> None:
        """Another file is at the path: the same run's (compacted, repaired, restored), or something else."""
        fd = _disk.open_file(self.path, os.O_RDWR | os.O_APPEND)
        if self._is_ours(fd):
            missing = _missing_lines(self._fd.number, fd) if self._is_ours(self._fd.number) else []
            self._fd.set(fd)
            self._end = -1
            self._unsettled = None
            if missing:
                log.error("%s was replaced by an older copy; %d records are written again", self.path, len(missing))
                self.append(missing, sync=self.durable)
                self.settled()
            return
        os.close(fd)
        if not self._is_ours(self._fd.number):
            raise OSError(errno.ESTALE, "the journal was replaced by a file of another run")
        self._aside = True
        if os.fstat(self._fd.number).st_nlink > 0:
            log.error("%s now belongs to another run; this one goes on in its old file, which was renamed", self.path)
        else:
            self._restore(f"{self.path}.recovered-{self.header.get('run')}")

    # --- what a run that starts wants to know -------------------------------------------------------------------

    def state(self) -> tuple[str | None, bool] | None:
        """Configuration and whether the run ended, from the file's two ends; None if there is no run in it."""
        try:
            fd = _disk.open_file(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            first = _first_line(fd)
            size = os.fstat(fd).st_size
            if first is None and size < _BLOCK:
                return None
            header = read_header(self.path, first)
            start = line_start(fd, size - 1)
            last = _disk.read(fd, size - start, start)
            whole = last.endswith(b"\n") and _format.is_intact(last[:-1])
            ended = whole and _format.envelope(last[:-1]).get("event") == CLOSED
            config = header.get("config")
            return self.config if config == UNKNOWN else config, ended
        finally:
            os.close(fd)


class _Descriptor:
    """The journal's file descriptor; closed at the latest when its owner is gone."""

    def __init__(self) -> None:
        self.number = -1
        self._close: weakref.finalize[[int], _Descriptor] | None = None

    def set(self, number: int) -> None:
        self.close()
        self.number = number
        self._close = weakref.finalize(self, os.close, number)

    def forget(self) -> None:
        if self._close is not None:
            self._close.detach()
        self.number = -1

    def close(self) -> None:
        if self._close is not None and self._close.alive:
            with contextlib.suppress(OSError):
                self._close()
        self.number = -1


def replace_file(target: str, fill: Callable[[int], None]) -> int:
    """Put a new file at `target`, whole and synced, or leave what is there. Its descriptor, open for appending."""
    fresh = f"{target}.new-{os.getpid()}"
    fd = _disk.open_file(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    try:
        fill(fd)
        _disk.sync(fd)
        _disk.rename(fresh, target)
        _disk.sync_directory(os.path.dirname(target))
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
    return fd


def _first_line(fd: int) -> Line | None:
    """The first line if it is whole and intact. A header is some hundred bytes; a block is plenty."""
    block = _disk.read(fd, _BLOCK, 0)
    raw, newline, _ = block.partition(b"\n")
    return Line(1, 0, raw) if newline and _format.is_intact(raw) else None


def _copy(source: int, target: int) -> None:
    offset = 0
    while block := _disk.read(source, 1 << 20, offset):
        _disk.write_all(target, block)
        offset += len(block)


def _missing_lines(old: int, new: int) -> list[bytes]:
    """Outcomes that are in `old` and whose key has nothing as late in `new`."""
    latest: dict[Any, tuple[float, int]] = {}
    for _, fields in _lines(new):
        latest[fields["key"]] = max(latest.get(fields["key"], (0.0, 0)), (fields["time"], fields["attempt"]))
    return [
        line for line, fields in _lines(old)
        if fields["event"] != _format.STARTED
        and latest.get(fields["key"], (0.0, 0)) < (fields["time"], fields["attempt"])
    ]


def _lines(fd: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The intact records of an open file, whatever else is in it."""
    with os.fdopen(os.dup(fd), "rb") as stream:
        stream.seek(0)
        for item in scan(stream):
            if isinstance(item, Line):
                fields = _format.envelope(item.raw)
                if "key" in fields:
                    yield item.raw + b"\n", fields
