"""Every system call a journal makes, in one place: the seam where tests inject faults and record traces.

Each call finishes what it began or raises: short writes go on, an interrupted call is made again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

from threadsafe_timeout._files import OURS, keep_out_of_git

__all__ = [
    "make_directories",
    "open_file",
    "read",
    "rename",
    "sync",
    "sync_directory",
    "sync_once",
    "truncate",
    "write",
    "write_all",
]

# Filesystems that have nothing to sync in a directory say so with one of these.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES})
_CHUNK = 1 << 30  # Linux writes at most 2 GiB less a page at once


def open_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o666)


def write(fd: int, data: memoryview) -> int:
    return os.write(fd, data)


def read(fd: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes at `offset`; fewer only at the end of the file."""
    pieces = []
    while size > 0:
        piece = os.pread(fd, min(size, _CHUNK), offset)
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
        offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            written = write(fd, view[:_CHUNK])
        except InterruptedError:
            continue
        if written <= 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        view = view[written:]


def sync(fd: int) -> None:
    while True:
        try:
            return sync_once(fd)
        except InterruptedError:
            continue


if sys.platform == "darwin":
    import fcntl

    def sync_once(fd: int) -> None:
        # fsync on macOS stops at the drive's cache.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
else:

    def sync_once(fd: int) -> None:
        # Syncs the size too (it is needed to read the data back), but not the times.
        os.fdatasync(fd)


def truncate(fd: int, size: int) -> None:
    os.ftruncate(fd, size)


def rename(source: str, target: str) -> None:
    os.rename(source, target)


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable: without this a new file may be gone after a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            try:
                return os.fsync(fd)
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno in _NO_DIRECTORY_SYNC:
                    return None
                raise
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def make_directories(path: str) -> None:
    """`os.makedirs` that survives a power cut: each new directory is synced into its parent."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directories(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
        if os.path.basename(path) == OURS:
            keep_out_of_git(path)
    sync_directory(parent)
