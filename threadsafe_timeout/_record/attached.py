"""The observer of one kind that a process has: begun and ended by `install()`, and gone in a forked child."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Generic, TypeVar

from threadsafe_timeout._pool import observer as _observer

__all__ = ["Attached"]

T = TypeVar("T")


class Attached(Generic[T]):
    """One, or none. Guarded by the lock of `install()`."""

    def __init__(self, end: Callable[[], object], in_child: Callable[[], object]) -> None:
        """`end` is called when the interpreter exits, `in_child` in a child that was forked."""
        self.one: T | None = None
        atexit.register(end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=in_child)

    def attach(self, one: T) -> T:
        """Have it hear of what happens, behind those that do already; also if it is the same."""
        self.one = one
        _observer.attach(one)
        return one

    def detach(self) -> T | None:
        """Have it hear of nothing more. It, or None if there was none."""
        one, self.one = self.one, None
        if one is not None:
            _observer.detach(one)
            stirred = getattr(one, "stirred", None)
            if stirred is not None:
                _observer.not_when_stirred(stirred)
        return one
