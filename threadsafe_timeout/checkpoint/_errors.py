"""What can go wrong with a checkpoint, each named, each saying what to do next.

Every error keeps what it was built from as attributes and can be pickled.
"""

from __future__ import annotations

import os
from typing import Any

from threadsafe_timeout._errors import ThreadsafeTimeoutError
from threadsafe_timeout._text import escaped, shown

__all__ = [
    "CheckpointClosed",
    "CheckpointConfigMismatch",
    "CheckpointCorrupt",
    "CheckpointError",
    "CheckpointInUse",
    "CheckpointLockTimeout",
    "CheckpointNotFound",
    "CheckpointSaveError",
    "CheckpointUnavailable",
    "CheckpointVersionError",
    "UnserializableResult",
]


NO_JOURNAL = "this is not a threadsafe-timeout checkpoint: there is no record in it"


class CheckpointError(ThreadsafeTimeoutError):
    """The base class of the errors of this package."""

    _built_from: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[type[CheckpointError], tuple[Any, ...]]:
        return type(self), self._built_from


class CheckpointCorrupt(CheckpointError, ValueError):
    """The journal is damaged before its last line. `line` counts from 1, `byte` from 0 (the start of the damage)."""

    def __init__(self, path: str, line: int, byte: int, reason: str) -> None:
        advice = "Give another path" if reason == NO_JOURNAL else (
            "Every other record is still intact: "
            f"run  threadsafe-timeout checkpoint repair {escaped(path)}  to keep them (the damaged file is kept aside)"
        )  # fmt: skip
        super().__init__(f"{escaped(path)}: line {line}, byte {byte}: {reason}. {advice}")
        self.path = path
        self.line = line
        self.byte = byte
        self.reason = reason
        self._built_from = (path, line, byte, reason)


class CheckpointConfigMismatch(CheckpointError, ValueError):
    """The journal was written by a run of another configuration; `fields` are the top-level names that differ."""

    def __init__(self, path: str, expected: str | None, found: str | None, fields: tuple[str, ...] = ()) -> None:
        differs = f" (they differ in: {', '.join(map(shown, fields))})" if fields else ""
        super().__init__(
            f"{escaped(path)} belongs to a run with configuration {shown(found or '(none given)')}, this run has "
            f"{expected or '(none given)'}{differs}. Use another path, go back to that configuration, or start afresh "
            f"with resume='never' (the old file is kept aside)"
        )
        self.path = path
        self.expected = expected
        self.found = found
        self.fields = fields
        self._built_from = (path, expected, found, fields)


class CheckpointVersionError(CheckpointError, ValueError):
    """The file is not a journal this release can read: a newer format, or no journal at all."""

    def __init__(self, path: str, version: object, reason: str) -> None:
        super().__init__(f"{escaped(path)}: {reason}")
        self.path = path
        self.version = version
        self.reason = reason
        self._built_from = (path, version, reason)


class CheckpointLockTimeout(CheckpointError, TimeoutError):
    """The journal's lock was not free within `timeout` seconds. `holder` describes its holder, if known."""

    def __init__(self, path: str, timeout: float, holder: str | None) -> None:
        super().__init__(
            f"{escaped(path)}: the lock was not free within {timeout:g} s"
            + (f"; it is held by {holder}" if holder else "")
            + ". Let that process go on or end it (a dead process holds no lock), or raise lock_timeout"
        )
        self.path = path
        self.timeout = timeout
        self.holder = holder
        self._built_from = (path, timeout, holder)

    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointInUse(CheckpointError, RuntimeError):
    """Another process runs the same command with `save="tasks"`. `holder` describes it."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(
            f"{escaped(path)} is in use by {holder}, which runs the same command: the two would mix their tasks. Let "
            f"that one end, or start this one with save=off, in another folder, or with another checkpoint="
        )
        self.path = path
        self.holder = holder
        self._built_from = (path, holder)


class CheckpointUnavailable(CheckpointError, OSError):
    """The journal could not be opened or read. `operation` says what was tried; `errno` is the error number."""

    def __init__(self, path: str, operation: str, errno: int | None, advice: str = "") -> None:
        problem = os.strerror(errno) if errno else "unknown error"
        super().__init__(errno, problem, path)
        self.path = path
        self.operation = operation
        self.advice = advice
        self._built_from = (path, operation, errno, advice)

    def __str__(self) -> str:
        advice = f". {self.advice}" if self.advice else ""
        return f"{escaped(self.path)}: cannot {self.operation}: {self.strerror}{advice}"


class CheckpointNotFound(CheckpointUnavailable, FileNotFoundError):
    """There is no checkpoint at this path."""


class CheckpointSaveError(CheckpointError, OSError):
    """Neither the journal nor a spill file could be written. `result` is the result.

    The record stays queued: the next save, or `close()`, writes it if the disk has recovered by then.
    """

    def __init__(self, path: str, key: object, status: str, result: object, problem: str) -> None:
        super().__init__(f"{escaped(path)}: the record of {key!r} could not be saved: {problem}")
        self.path = path
        self.key = key
        self.status = status
        self.result = result
        self.problem = problem
        self._built_from = (path, key, status, result, problem)

    def __str__(self) -> str:
        return (
            f"{escaped(self.path)}: the record of {self.key!r} could not be saved: {self.problem}. It is kept in "
            f"memory (this error's .result) and written with the next save that works: free some space, then save or "
            f"close()"
        )


class CheckpointClosed(CheckpointError, ValueError):
    """`save` or `started` was called after `close()`."""

    def __init__(self, path: str, key: object) -> None:
        super().__init__(f"{escaped(path)}: the writer is closed, {key!r} was not recorded; save before close()")
        self.path = path
        self.key = key
        self._built_from = (path, key)


class UnserializableResult(CheckpointError, TypeError):
    """A value inside a result has no JSON form. `where` is its path inside the result, like `result['a'][3].b`."""

    def __init__(self, where: str, type_name: str, reason: str) -> None:
        super().__init__(
            f"{where} is {type_name}: {reason}. Return plain data there, or give default= (a function that turns it "
            f"into plain data; default=repr keeps its text)"
        )
        self.where = where
        self.type_name = type_name
        self.reason = reason
        self._built_from = (where, type_name, reason)
