"""Waiting for file descriptors inside a scope: woken by its cancellation through a descriptor of the call's own.

What is waited for is not touched: a listener, a datagram socket or a connection is as good after a cancellation as
before.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout_patches._waiting import Remaining

__all__ = ["drain", "exit_descriptor", "wait_ready", "woken_descriptor"]

_LONGEST = 1e9  # milliseconds; poll() takes no more than 24 days
_poll = select.poll if hasattr(select, "poll") else None


class _Wakeup:
    """A descriptor that becomes readable when another thread calls this. One waiter at a time."""

    __slots__ = ("_write", "called", "fd")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self.fd = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write, False)
        self.called = False

    def __call__(self) -> None:
        self.called = True
        os.write(self._write, b"\1\0\0\0\0\0\0\0")  # eight bytes: an eventfd adds them up as one number

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            for descriptor in {self.fd, self._write}:
                os.close(descriptor)


# As many as were ever waited on at once, because opening and closing one costs more than all the rest of a wait.
_spare: deque[_Wakeup] = deque()  # append and pop need no lock
if hasattr(os, "register_at_fork"):
    # An eventfd is shared with the parent: the child would wake the parent's threads, and be woken by them.
    os.register_at_fork(after_in_child=_spare.clear)


def _begin() -> tuple[_Wakeup, _registration.Registration] | None:
    """Something to wait on that a scope around, when it is cancelled, makes readable; None if the process may open no
    more descriptors."""
    try:
        wakeup = _spare.pop() if _spare else _Wakeup()
    except IndexError:  # another thread took the last one
        return _begin()
    except OSError:
        return None
    return wakeup, _registration.on_cancel(wakeup)


def _end(wakeup: _Wakeup, registration: _registration.Registration) -> None:
    registration.unregister()  # first: from now on nobody writes to it
    if wakeup.called:
        drain(wakeup.fd)
        wakeup.called = False
    _spare.append(wakeup)


def drain(descriptor: int) -> None:
    """Make it unreadable: it was an alarm that woke, and if its handler returns the wait goes on."""
    with suppress(BlockingIOError):
        os.read(descriptor, 4096)


@contextmanager
def woken_descriptor() -> Iterator[int | None]:
    """A descriptor that becomes readable when a scope around is cancelled; None if the process may open no more."""
    begun = _begin()
    try:
        yield None if begun is None else begun[0].fd
    finally:
        if begun is not None:
            _end(*begun)


def wait_ready(descriptor: int, events: int, timeout: float | None) -> bool:
    """Wait until a descriptor is ready for `events` of poll(); False after `timeout` seconds (None: no limit).

    Without a lock and without a thread being told when it is ready already. Raises `Cancelled` as soon as a scope
    around is cancelled. Where there is no poll() it is True at once: the call itself is capped at least.
    """
    _around.raise_if_cancelled()
    if _poll is None:
        return True
    poller = _poll()
    poller.register(descriptor, events)
    if poller.poll(0):
        return True
    begun = _begin()
    remaining = Remaining(timeout)
    try:
        if begun is not None:
            poller.register(begun[0].fd, select.POLLIN)
        while True:
            # A deadline is a cancellation by the timer thread; it needs no second cap, unless nobody can wake us.
            seconds = remaining.own if begun is not None else remaining.seconds()
            ready = poller.poll(_LONGEST if seconds is None else min(seconds * 1000, _LONGEST))
            if begun is None:
                _around.raise_if_cancelled()
            elif begun[0].called:
                drain(begun[0].fd)  # first: what comes later is met at the next look
                _around.raise_if_cancelled()
                ready = [event for event in poller.poll(0) if event[0] == descriptor]  # it was an alarm
            if ready:
                return True
            if not remaining.own:
                return False
    finally:
        if begun is not None:
            _end(*begun)


def exit_descriptor(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends (to be closed), or None where there is no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, too many open files, or the process is gone
        return None
