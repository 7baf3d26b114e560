"""The file lock that orders the processes writing one journal."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint import _disk
from threadsafe_timeout.checkpoint._errors import CheckpointLockTimeout, CheckpointUnavailable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # asked for below

__all__ = ["JournalLock", "RunLock", "pause"]

log = logging.getLogger("threadsafe_timeout.checkpoint")

_ADVICE = "Use a path where this user may make files, or THREADSAFE_TIMEOUT_CHECKPOINT=off to save nothing"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02  # seconds between two tries of a contended lock


def pause(seconds: float) -> None:
    """Wait `seconds` of real time. Not `time.sleep`: it may be patched to raise, and a save must not stop half way."""
    never = threading.Lock()
    never.acquire()
    _clock.SystemClock.wait(_SYSTEM, never, seconds)


_SYSTEM = _clock.SystemClock()


class JournalLock:
    """`path + ".lock"`, taken for each commit and left in place afterwards.

    A dead process holds no lock: the system takes it away. A live or stopped one does, and is named after `timeout`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        # The leader of a commit may be another thread each time, so the lock must not belong to a thread.
        self._lock = FileLock(f"{path}.lock", thread_local=False)

    @contextmanager
    def held(self, timeout: float) -> Iterator[None]:
        """Hold the lock. Raises `CheckpointLockTimeout` after `timeout` seconds (negative: waits for ever)."""
        self._acquire(timeout)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._lock.release()

    @contextmanager
    def held_to_open(self, timeout: float) -> Iterator[None]:
        """The same, to open the journal: that no lock file can be made there is a `CheckpointUnavailable`."""
        try:
            _disk.make_directories(os.path.dirname(self.path))  # filelock would make them, and sync none
            self._acquire(timeout)
        except CheckpointLockTimeout:
            raise
        except OSError as error:
            raise CheckpointUnavailable(self.path, "make a file there", error.errno, _ADVICE) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._lock.release()

    def _acquire(self, timeout: float) -> None:
        give_up = _SYSTEM.monotonic() + timeout
        wait = _FIRST_PAUSE
        while True:
            # Before the try: however long this process then stands still, none is given up without a try in the end.
            last = timeout >= 0 and _SYSTEM.monotonic() >= give_up
            try:
                self._lock.acquire(timeout=0)
                return
            except Timeout:
                if last:
                    raise CheckpointLockTimeout(self.path, timeout, _holder(f"{self.path}.lock")) from None
            except FileNotFoundError:  # the directory vanished; the lock is needed to put the journal back
                if os.path.isdir(os.path.dirname(self.path)):
                    raise  # it is there, and takes no file
                _disk.make_directories(os.path.dirname(self.path))
            # Jitter: many processes that back off in step would keep meeting.
            pause(wait * random.uniform(0.5, 1.5))
            wait = min(wait * 2, _LONGEST_PAUSE)


class RunLock:
    """`path + ".run.lock"`, held by the one process that has the journal for its run."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.run.lock"
        self._fd = -1
        self._other: FileLock | None = None  # where there is no flock

    def acquire(self) -> str | None:
        """Take it. If another process has it, return which. Raises CheckpointUnavailable."""
        try:
            _disk.make_directories(os.path.dirname(self._path))
            if fcntl is None:
                self._other = FileLock(self._path, thread_local=False)
                self._other.acquire(timeout=0)
                return None
            self._fd = _disk.open_file(self._path, os.O_RDWR | os.O_CREAT)
        except Timeout:
            return "another process"
        except OSError as error:
            raise CheckpointUnavailable(self._path, "make a file there", error.errno, _ADVICE) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close_inherited()
            return _holder(self._path) or "another process"
        except OSError as error:
            log.warning("%s: there are no locks on this file system (%s): do not run the program twice at once",
                        self._path, error)
        return None

    def release(self) -> None:
        if self._other is not None:
            self._other.release()
        self.close_inherited()

    def close_inherited(self) -> None:
        """In a forked child: the lock is the parent's, and ends with it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _holder(lock_path: str) -> str | None:
    """The process that has the lock, from Linux's own list; None where there is no such list."""
    try:
        inode = os.stat(lock_path).st_ino
        with open("/proc/locks", encoding="ascii") as stream:
            for line in stream:
                words = line.split()
                if "->" not in words and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                    return _describe(int(words[4]))
    except (OSError, ValueError, IndexError):
        pass
    return None


def _describe(pid: int) -> str:
    if pid <= 0:
        return "a process of another container"
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            command = stream.read(200).replace(b"\0", b" ").decode(errors="replace").strip()
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            stopped = stream.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return f"process {pid}"
    return f"process {pid} ({command})" + (", which is stopped (kill -CONT lets it go on)" if stopped else "")
