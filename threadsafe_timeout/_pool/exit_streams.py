"""The standard streams at the end of a process in which threads of given-up tasks still write.

At its very end the interpreter flushes `sys.stdout` and `sys.stderr`. A thread that the interpreter has stopped inside
such a stream holds the lock of its buffer for ever; the interpreter then aborts the process ("could not acquire lock
for <_io.BufferedWriter name='<stdout>'> at interpreter shutdown"). A stream that writes straight to its file, as with
`python -u`, has no such lock. So, for a process in which such threads are alive, these take the place of the others.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

__all__ = ["flush_streams", "replace_streams"]

NAMES = ("stdout", "stderr")


def flush_streams() -> None:
    for name in NAMES:
        with contextlib.suppress(Exception):  # closed, or a broken pipe: the interpreter says so itself
            getattr(sys, name).flush()


def replace_streams() -> None:
    """What is written afterwards through a reference to the old stream, and not flushed, is not written to its file."""
    for name in (*NAMES, *(f"__{name}__" for name in NAMES)):
        stream = getattr(sys, name, None)
        if isinstance(getattr(stream, "buffer", None), io.BufferedWriter):
            with contextlib.suppress(Exception):  # closed, or a broken pipe
                _replace(name, stream)


def _replace(name: str, stream: Any) -> None:
    straight = io.TextIOWrapper(
        io.FileIO(stream.fileno(), "w", closefd=False),  # as the interpreter does for -u
        stream.encoding, stream.errors, write_through=True,
    )  # fmt: skip
    straight.mode = "w"  # type: ignore[misc]  # what the interpreter's own streams have
    setattr(sys, name, straight)
    stream.flush()
    _keep_for_ever(stream)


def _keep_for_ever(stream: object) -> None:
    """To deallocate a stream is to flush it, which needs its lock."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
