"""The arguments of an executor, checked: each error names the one that makes no sense."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._checks import check_whole
from threadsafe_timeout._environment.surroundings import threads_replaced_by
from threadsafe_timeout._pool.expired_waits import POLICIES

if TYPE_CHECKING:
    from threadsafe_timeout.checkpoint import CheckpointWriter

__all__ = [
    "check_abandoned", "check_buffersize", "check_initializer", "check_isolate", "check_key", "check_policies",
    "check_threads", "check_workers", "isolated", "writer_of",
]  # fmt: skip

# Abandoned threads that a process can afford. Each takes 25 to 60 KiB of memory and, in a network call, one of the 1024
# descriptors that a process usually may have: see docs/pool.md.
_CHEAP = 256


def check_workers(max_workers: int | None) -> int:
    """How many workers a pool is to have."""
    if max_workers is None:
        count = getattr(os, "process_cpu_count", os.cpu_count)  # the former from 3.13 on, as in the standard pool
        max_workers = min(32, (count() or 1) + 4)
    if max_workers is not True:  # which has always been 1
        max_workers = check_whole("max_workers", max_workers, -sys.maxsize)
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    return max_workers


def check_initializer(initializer: object, initargs: object) -> None:
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if not isinstance(initargs, Iterable):
        raise TypeError(f"initargs must be the initializer's arguments, as a tuple; got {initargs!r}")


def check_policies(on_exhausted: str | None, on_expired_wait: str | None) -> None:
    if on_exhausted not in (None, "raise", "exit"):
        raise ValueError(f"on_exhausted must be 'raise' or 'exit', got {on_exhausted!r}")
    if on_expired_wait not in (None, *POLICIES):
        raise ValueError(f"on_expired_wait must be 'cancel', 'single' or 'wait', got {on_expired_wait!r}")


def check_abandoned(max_abandoned: int | None, max_workers: int) -> int:
    """How many abandoned threads may be alive."""
    return check_whole("max_abandoned", max(_CHEAP, 2 * max_workers) if max_abandoned is None else max_abandoned)


def check_threads() -> None:
    other = threads_replaced_by()
    if other is not None:
        raise RuntimeError(f"this pool needs threads, and {other} has replaced them by greenlets")


def check_buffersize(buffersize: object) -> None:
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def check_key(key: object, writer: CheckpointWriter | None) -> None:
    """Whether it can be the key of a task, or a function that makes one; and whether there is a place to save to."""
    if key is None:
        return
    makes_keys = callable(key) or getattr(writer, "_key", None) is not None
    if not makes_keys and (isinstance(key, bool) or not isinstance(key, (str, int))):
        raise TypeError(f"key must be a str, an int, or a function of the task's arguments; got {key!r}")
    if writer is None:
        raise ValueError("key= needs a place to save to: ThreadPoolExecutor(…, checkpoint=CheckpointWriter(path))")


def writer_of(checkpoint: Any) -> tuple[CheckpointWriter | None, CheckpointWriter | None]:
    """What a pool saves in; and the same again if it was opened here."""
    if checkpoint is None or (hasattr(checkpoint, "save") and hasattr(checkpoint, "started")):
        return checkpoint, None
    if not isinstance(checkpoint, (str, bytes, os.PathLike)):
        raise TypeError(f"checkpoint must be a CheckpointWriter, or the path of a journal; got {checkpoint!r}")
    from threadsafe_timeout.checkpoint import CheckpointWriter

    writer = CheckpointWriter(os.fsdecode(checkpoint))
    return writer, writer


def check_isolate(isolate: str | None, default: str) -> bool:
    """Whether tasks are to run in processes of their own. Raises MissingExtraError if they cannot."""
    if isolate not in (None, "thread", "process"):
        raise ValueError(f"isolate must be 'thread' or 'process', got {isolate!r}")
    wanted = (isolate or default) == "process"
    if wanted:
        from threadsafe_timeout.engines.sending import check_extra

        check_extra()
    return wanted


def isolated(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, run in a process of its own."""
    from threadsafe_timeout.engines.process import isolated

    return isolated(function)
