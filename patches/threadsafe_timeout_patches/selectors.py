"""`select.select` and the selectors: waits end with the scope around them.

Guarantees:

- What is ready stays ready: `Cancelled` is raised before anything was read.
- A selector is left with the registrations it had.
- An event loop's own `select` is left alone, also on a selector of the program's own; see the patch `asyncio` for what
  ends a loop.

Not reached: `select.poll()`, `select.epoll()` and `kqueue` objects used directly, which are C types. A `kqueue`
selector, and a `select` for which no descriptor below 1024 is free, end at the deadline, but are not woken.
"""

from __future__ import annotations

import contextlib
import select as _select_module
import selectors as _selectors  # noqa: F401  # it keeps the original of what is patched in `select`
from collections.abc import Callable
from sys import _getframe
from types import FrameType, ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout_patches._builtin import stand_in
from threadsafe_timeout_patches._descriptors import drain, woken_descriptor
from threadsafe_timeout_patches._waiting import Remaining, called_by_asyncio, real, replace_attribute

__all__ = ["MODULES", "apply"]

MODULES = ("select", "selectors")

_Wrapped = Callable[..., Any]
_LARGEST_SELECTABLE = 1023  # FD_SETSIZE - 1
_LONGEST = 1e9  # seconds; what lies beyond, the original may refuse
_CALLS_BETWEEN = 4
_LONGEST_LOOK = 1e6  # poll() takes at most 24 days of milliseconds


def apply(module: ModuleType, patching: Patching) -> None:
    if module.__name__ == "select":
        _patch_select(module, patching)
        return
    _patch_selector(module.SelectSelector, patching, _add_to_set, _remove_from_set)
    for name, add, remove in (
        ("_PollLikeSelector", _register, _unregister),
        ("EpollSelector", _register, _unregister),
        ("KqueueSelector", _nothing, _nothing),
    ):
        if hasattr(module, name):
            _patch_selector(getattr(module, name), patching, add, remove)


def _look_until_ready(
    look: Callable[[float | None], Any],
    timeout: float | None,
    add: Callable[[int], object],
    remove: Callable[[int], object],
) -> Any:
    """What `look(seconds)` finds, as soon as it finds anything, or when `timeout` seconds (None: no limit) have passed.

    `add` and `remove` are for the descriptor that wakes it; what `look` returns is empty when only that is ready.
    """
    _around.raise_if_cancelled()
    found = look(0)
    if found or (timeout is not None and timeout <= 0):
        return found
    remaining = Remaining(timeout)
    with woken_descriptor() as descriptor:
        if descriptor is not None:
            add(descriptor)
        try:
            while True:
                seconds = remaining.seconds()
                found = look(seconds if seconds is None else min(seconds, _LONGEST_LOOK))
                if not found and descriptor is not None:
                    drain(descriptor)  # before it is asked why: what comes later is met at the next look
                _around.raise_if_cancelled()
                if found or not remaining.own:
                    return found
        finally:
            if descriptor is not None:
                remove(descriptor)


def _patch_select(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.select, _around.current_scope

    def select(rlist: Any, wlist: Any, xlist: Any, timeout: Any = None, /) -> Any:
        if current_scope() is None:
            return original(rlist, wlist, xlist, timeout)
        try:
            rlist, wlist, xlist = iter(rlist), iter(wlist), iter(xlist)
        except TypeError:
            return original(rlist, wlist, xlist, timeout)  # which says what is wrong with them
        return _select_in_scope(original, list(rlist), list(wlist), list(xlist), timeout)

    patching.replace(module, "select", stand_in(module, "select", select))


def _select_in_scope(original: _Wrapped, rlist: list[Any], wlist: list[Any], xlist: list[Any], timeout: Any) -> Any:
    if timeout is not None:
        try:
            seconds = real(timeout)
        except TypeError:
            seconds = -1
        if not 0 <= seconds < _LONGEST:
            return original(rlist, wlist, xlist, timeout)
        timeout = seconds
    woken: list[int] = []
    nothing: tuple[list[Any], ...] = ([], [], [])

    def look(seconds: float | None) -> Any:
        readable, writable, exceptional = original(rlist + woken, wlist, xlist, seconds)
        if woken and woken[0] in readable:
            readable.remove(woken[0])
        return (readable, writable, exceptional) if readable or writable or exceptional else ()

    def add(descriptor: int) -> None:
        if descriptor <= _LARGEST_SELECTABLE:
            woken.append(descriptor)

    return _look_until_ready(look, timeout, add, lambda _: woken.clear()) or nothing


def _patch_selector(
    cls: Any, patching: Patching, add: Callable[[Any, int], None], remove: Callable[[Any, int], None]
) -> None:
    original, current_scope = cls.select, _around.current_scope

    def select(self: Any, timeout: float | None = None) -> Any:
        if current_scope() is None or _is_a_loops(_getframe(1)):
            return original(self, timeout)
        return _look_until_ready(
            lambda seconds: original(self, seconds),
            timeout,
            lambda descriptor: add(self, descriptor),
            lambda descriptor: remove(self, descriptor),
        )

    replace_attribute(patching, cls, "select", select)


def _is_a_loops(frame: FrameType | None) -> bool:
    """Whether an event loop selects; between it and `frame` there may be a selector of the program's own."""
    for _ in range(_CALLS_BETWEEN + 1):
        if frame is None:
            return False
        if called_by_asyncio(frame):
            return frame.f_code.co_name == "_run_once"  # else it runs a coroutine, which selects
        frame = frame.f_back
    return False


# A selector leaves out of its result what is ready but not in its map: so the waking descriptor is put below it.


def _add_to_set(selector: Any, descriptor: int) -> None:
    if descriptor <= _LARGEST_SELECTABLE:
        selector._readers.add(descriptor)


def _remove_from_set(selector: Any, descriptor: int) -> None:
    selector._readers.discard(descriptor)


def _register(selector: Any, descriptor: int) -> None:
    # The same number in poll and in epoll.
    selector._selector.register(descriptor, _select_module.POLLIN)


def _unregister(selector: Any, descriptor: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # another thread has closed it meanwhile
        selector._selector.unregister(descriptor)


def _nothing(selector: Any, descriptor: int) -> None:
    pass
