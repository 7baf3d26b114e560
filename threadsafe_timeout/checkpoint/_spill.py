"""Where records go when the journal cannot take them: a file beside it, or in the temporary directory.

A spill file is a journal of its own (header, checksums), written by one process only, so it needs no lock. Loading
the journal finds it, and the next writer that opens the journal takes its records back into it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from threadsafe_timeout.checkpoint import _disk

if TYPE_CHECKING:
    from threadsafe_timeout.checkpoint._journal import Journal

__all__ = ["SpillFile", "find", "take_back"]

_PID = re.compile(r"\.spill-(\d+)-[0-9a-f]+$")


def _temporary_directory() -> str:
    return os.path.join(tempfile.gettempdir(), f"threadsafe-timeout-spill-{os.getuid()}")


def _prefixes(path: str) -> list[str]:
    away = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return [f"{path}.spill-", os.path.join(_temporary_directory(), f"{away}.spill-")]


def find(path: str) -> list[str]:
    """The spill files of the journal at `path` that belong to this user, oldest first."""
    found = []
    for prefix in _prefixes(path):
        for name in glob.glob(glob.escape(prefix) + "*"):
            with contextlib.suppress(OSError):
                facts = os.lstat(name)
                # The temporary directory is open to everyone: a file somebody else planted there is none of ours.
                if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid() and _PID.search(name):
                    found.append((facts.st_mtime, name))
    return [name for _, name in sorted(found)]


def take_back(journal: Journal, lock_timeout: float) -> None:
    """Move what processes that are gone had to spill into the journal."""
    for spill in find(journal.path):
        if _is_abandoned(spill):
            with journal.lock.held(lock_timeout):
                journal.take_in(spill)


def _is_abandoned(spill: str) -> bool:
    """Whether the process that wrote `spill` is gone, so that its records may be moved."""
    match = _PID.search(spill)
    if match is None:
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class SpillFile:
    """This process's spill file for one journal; made when first needed. Used by one thread at a time (the leader)."""

    def __init__(self, path: str) -> None:
        self._targets = [f"{prefix}{os.getpid()}-{os.urandom(4).hex()}" for prefix in _prefixes(path)]
        self.path: str | None = None

    def append(self, header: bytes, lines: list[bytes]) -> str:
        """Save `lines` durably and return the file they are in. Raises the last `OSError` if no place takes them."""
        last: OSError = OSError(errno.EIO, "no place for a spill file")
        for target in [self.path] if self.path else []:
            with contextlib.suppress(OSError):
                _append(target, b"".join(lines))
                return target
        for target in self._targets:
            try:
                if target is self._targets[-1]:
                    _make_private(os.path.dirname(target))
                _append(target, header + b"".join(lines))
            except OSError as error:
                last = error
            else:
                self.path = target
                return target
        raise last

    def lines(self) -> Iterator[bytes]:
        """What was spilled so far, without the header, newlines included."""
        if self.path is not None:
            with open(self.path, "rb") as stream:
                next(stream, None)
                yield from stream

    def remove(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self.path = None


def _make_private(directory: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    facts = os.lstat(directory)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "the spill directory belongs to somebody else", directory)


def _append(target: str, data: bytes) -> None:
    fd = _disk.open_file(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
    size = 0
    try:
        size = os.fstat(fd).st_size
        _disk.write_all(fd, data)
        _disk.sync(fd)
        if size == 0:
            _disk.sync_directory(os.path.dirname(target))
    except BaseException:
        # All or nothing: half a line here would be glued to the next one.
        with contextlib.suppress(OSError):
            _disk.truncate(fd, size)
            if size == 0:
                os.unlink(target)
        raise
    finally:
        os.close(fd)
