"""`queue.SimpleQueue`: `get` ends with the scope around it. (The other queues wait in `threading`: see that patch.)

The class is written in C, where a waiting `get` cannot be woken without giving it an item. So what is called
`queue.SimpleQueue` while this is installed is a subclass, which puts those who wait in a scope into a queue of their
own; a thread outside a scope waits in the original.

Guarantees:

- No item is lost: a cancelled `get` has taken none, and whoever waits behind it is woken in its place.
- `put` takes no lock, as the original: it may be called by a signal handler or a finaliser.
- The standard library gets the original; so does `isinstance`: both classes say yes to both.

Not reached: queues made before `install()`, and `_queue.SimpleQueue`.
"""

from __future__ import annotations

import queue
from _thread import LockType
from collections import deque
from functools import partial
from operator import contains
from sys import _getframe
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout_patches._waiting import (
    Remaining,
    called_by_library,
    checked_timeout,
    held_lock,
    release,
    wait,
)

__all__ = ["MODULES", "apply"]

MODULES = ("queue",)


def apply(module: ModuleType, patching: Patching) -> None:
    patching.replace(module, "SimpleQueue", _replacement(module.SimpleQueue))


def _kind(original: Any) -> type[type]:
    """The metaclass of what stands in for `original`: the class right above that one, and no subclass of its own."""

    class Kind(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls.__bases__ == (original,) and called_by_library(_getframe(1)):
                return original(*args, **kwargs)
            return super().__call__(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            if cls.__bases__ == (original,):
                return isinstance(instance, original)
            return super().__instancecheck__(instance)

        def __subclasscheck__(cls, subclass: type) -> bool:
            if cls.__bases__ == (original,):
                return issubclass(subclass, original)
            return super().__subclasscheck__(subclass)

    return Kind


def _replacement(original: Any) -> Any:
    new, put, get, current_scope = original.__new__, original.put, original.get, _around.current_scope

    class SimpleQueue(original, metaclass=_kind(original)):  # type: ignore[misc, metaclass]  # a class only known at run time
        __slots__ = ("_waiting_in_scopes",)
        _waiting_in_scopes: deque[LockType]  # needs no lock: whatever is done to it is one step of the deque's

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            self = new(cls, *args, **kwargs)
            self._waiting_in_scopes = deque()
            return self

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            put(self, item)
            if self._waiting_in_scopes:
                _wake_one(self._waiting_in_scopes)

        def put_nowait(self, item: Any) -> None:
            put(self, item)
            if self._waiting_in_scopes:
                _wake_one(self._waiting_in_scopes)

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if current_scope() is None or not block:
                return get(self, block, timeout)
            if timeout is not None:
                full = original()
                full.put(None)
                full.get(True, timeout)  # only looks at the timeout: raises what the original raises for it
                timeout = checked_timeout(timeout)
            return _get_in_scope(self, self._waiting_in_scopes, timeout)

        def __reduce__(self) -> Any:
            raise TypeError("cannot pickle '_queue.SimpleQueue' object")

    _describe(SimpleQueue, original)
    return SimpleQueue


def _describe(new: Any, original: Any) -> None:
    new.__doc__, new.__module__, new.__qualname__ = original.__doc__, original.__module__, original.__qualname__
    for name in ("put", "put_nowait", "get"):
        getattr(new, name).__doc__ = getattr(original, name).__doc__


def _wake_one(waiting: deque[LockType]) -> None:
    try:
        release(waiting.popleft())
    except IndexError:  # another was faster
        pass


def _get_in_scope(source: Any, waiting: deque[LockType], timeout: float | None) -> Any:
    remaining = Remaining(timeout)
    try:
        while True:
            waiter = held_lock()
            # First into the queue, then look: `put` puts first, then looks into this queue.
            waiting.append(waiter)
            try:
                try:
                    return source.get_nowait()
                except queue.Empty:
                    left = None if timeout is None else remaining.own
                    if not wait(waiter, left, partial(contains, waiting, waiter)):
                        return source.get_nowait()  # it may have come this very moment; else this is the error
            finally:
                try:
                    waiting.remove(waiter)
                except ValueError:  # it was woken
                    pass
    finally:
        # A wake-up that came for this one and was not needed, or not taken, is the next one's.
        if waiting and not source.empty():
            _wake_one(waiting)
