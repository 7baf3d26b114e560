"""A file without a name that the supervisor and one start of the program share.

The supervisor writes first: how earlier starts ended. Then faulthandler writes stacks in the program, also while a call
of C holds the GIL, or when the system ends it. The supervisor passes them on to standard error. It is a file and no
pipe: a program whose supervisor is stopped must not wait in the handler of a signal.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence

from threadsafe_timeout._processes.lives import End

__all__ = ["Board"]

_BLOCK = 1 << 16


class Board:
    """The supervisor's side."""

    def __init__(self, ends: Sequence[End]) -> None:
        self.descriptor = _nameless()
        try:
            os.write(self.descriptor, json.dumps(ends).encode() + b"\n")  # a regular file takes it whole
            os.set_inheritable(self.descriptor, True)
            self._passed = self._marked = os.fstat(self.descriptor).st_size
        except BaseException:
            os.close(self.descriptor)
            raise

    def mark(self) -> None:
        """What `since_mark` begins with is written from now on."""
        self._marked = os.fstat(self.descriptor).st_size

    def since_mark(self) -> str:
        return self._read(self._marked).decode(errors="replace")

    def pass_on(self) -> None:
        """Write what is new to standard error."""
        if os.fstat(self.descriptor).st_size > self._passed:
            new = self._read(self._passed)
            self._passed += len(new)
            sys.stderr.write(new.decode(errors="backslashreplace"))
            sys.stderr.flush()

    def close(self) -> None:
        self.pass_on()
        os.close(self.descriptor)

    def _read(self, begin: int) -> bytes:
        parts = []
        while part := os.pread(self.descriptor, _BLOCK, begin):
            parts.append(part)
            begin += len(part)
        return b"".join(parts)


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("threadsafe-timeout")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
