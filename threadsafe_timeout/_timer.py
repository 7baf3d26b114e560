"""One daemon thread and one heap for every deadline in the process.

Guarantees:

- The thread wakes for the earliest deadline that is due, never to poll. Arming a deadline that is not the earliest
  wakes nobody.
- Disarming is O(1): the entry is marked dead. Dead entries are swept once they outnumber the live ones, so memory
  follows the number of armed deadlines.
- A callback that has been disarmed before it was taken off the heap never runs. One that is being taken off may run
  at the same time as `disarm`: who needs more checks its own state under `lock`, as scopes do.
- A callback that raises is logged; the thread goes on.

Most scopes are left long before their deadline, so they do not enter the heap at all: `watch` appends them to
`incoming`, without the lock, and the thread sorts in those that are still entered when it next wakes (or whoever
appends the 128th, so that the list stays short).

`lock` guards the heap, and with it the cancellation of every scope (one lock, held for a few instructions, is cheaper
than one per scope). It is re-entrant: a signal handler or a finaliser may run Python code, and enter a scope, while
the thread it interrupted holds it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Protocol

from threadsafe_timeout import _clock

__all__ = ["Entry", "Watched", "arm", "call_later", "disarm", "incoming", "lock", "poke", "push", "shutdown", "watch"]

# [when, sequence, callback or None once it is dead or has fired]; a list, because it is marked dead in place, and
# because lists compare in C, element by element, and two sequence numbers are never equal.
Entry = list[Any]


class Watched(Protocol):
    """What `watch` takes: a scope."""

    _deadline: float

    def _arm(self) -> None:
        """Put a deadline that is still wanted on the heap with `push`. Called with `lock` held."""


THREAD_NAME = "threadsafe-timeout-timer"
_SWEEP_FROM = 64
INCOMING_LIMIT = 128

lock = threading.RLock()
incoming: deque[Watched] = deque()  # appended to without the lock; emptied under it
wake_at = float("inf")  # when the thread will next look at the heap; written under lock, read by `watch` without
_heap: list[Entry] = []  # guarded by lock
_dead = 0  # guarded by lock
_sequence = count().__next__
_thread: threading.Thread | None = None  # guarded by lock
_wakeup = threading.Lock()  # held while there is nothing new; released (once) to wake the thread
_wakeup.acquire()
_woken = False  # guarded by lock: a second release of _wakeup would be an error
_logger = logging.getLogger("threadsafe_timeout")


def arm(when: float, callback: Callable[[], object]) -> Entry:
    """Have `callback` run in the timer thread at `when` (monotonic seconds). The caller holds `lock`."""
    entry = push(when, callback)
    if when < wake_at:
        _wake(when)
    return entry


def push(when: float, callback: Callable[[], object]) -> Entry:
    """Half of `arm`, for who knows that the thread will look in time. The caller holds `lock`."""
    entry: Entry = [when, _sequence(), callback]
    heappush(_heap, entry)
    return entry


def disarm(entry: Entry) -> None:
    """Mark `entry` dead. The caller holds `lock`."""
    global _dead
    if entry[2] is not None:
        entry[2] = None
        _dead += 1
        if _dead > _SWEEP_FROM and _dead * 2 > len(_heap):
            _heap[:] = [live for live in _heap if live[2] is not None]
            heapify(_heap)
            _dead = 0


def watch(watched: Watched, when: float) -> None:
    """Have `watched._arm()` called in time for `when`, if at all. Without the lock, unless `when` is the earliest.

    Why no deadline is lost between the append and the thread's look: the thread sets `wake_at` to infinity *before* it
    empties `incoming`. Either it finds this one there, or this check sees infinity and wakes it.
    """
    incoming.append(watched)
    if when < wake_at or len(incoming) > INCOMING_LIMIT:
        attend(when)


def attend(when: float) -> None:
    """The slow half of `watch`."""
    with lock:
        _sort_in()
        if when < wake_at:
            _wake(when)


def call_later(seconds: float, callback: Callable[[], object]) -> Entry:
    """Have `callback` run in the timer thread in `seconds`."""
    with lock:
        return arm(_clock.monotonic() + seconds, callback)


def _sort_in() -> None:
    """Move what is still wanted from `incoming` to the heap. The caller holds `lock`."""
    for _ in range(len(incoming)):
        incoming.popleft()._arm()


def _wake(when: float) -> None:
    """Make the thread look again, starting it if there is none. The caller holds `lock`."""
    global _thread, wake_at, _woken
    wake_at = when
    if _thread is None:
        # wrapped in a name, daemon: it must never keep a finished process alive
        _thread = threading.Thread(target=_run, name=THREAD_NAME, daemon=True)
        try:
            _thread.start()
        except BaseException:
            _thread, wake_at = None, float("inf")  # the next deadline tries again
            raise
    elif not _woken:
        _woken = True
        _wakeup.release()


def _take_due() -> tuple[list[Callable[[], object]], float | None]:
    """The callbacks that are due, and the seconds until the next one (None: there is none)."""
    global _dead, wake_at
    due: list[Callable[[], object]] = []
    with lock:
        wake_at = float("inf")  # before _sort_in: see watch
        _sort_in()
        now = _clock.monotonic()
        while _heap:
            entry = _heap[0]
            if entry[2] is None:
                heappop(_heap)
                _dead -= 1
            elif entry[0] <= now:
                heappop(_heap)
                due.append(entry[2])
                entry[2] = None  # fired: a later disarm has nothing to count
            else:
                break
        if due:
            return due, 0.0
        if not _heap:
            return due, None
        wake_at = _heap[0][0]
        return due, wake_at - now


def _run() -> None:
    global _woken
    me = threading.current_thread()
    while _thread is me:  # else forked away, or shut down
        due, seconds = _take_due()
        for callback in due:
            try:
                callback()
            except Exception:
                _logger.exception("threadsafe-timeout: a deadline's callback failed; the other deadlines go on")
        callback = None  # type: ignore[assignment]  # nor may the loop's variable keep a scope alive while it sleeps
        del due[:]
        if seconds == 0.0:
            continue
        if _clock.wait(_wakeup, seconds):
            with lock:
                _woken = False


def shutdown() -> None:
    """Stop the timer thread; a deadline that is armed later starts it again. For tests that count threads."""
    global _thread, wake_at, _woken
    with lock:
        thread, _thread = _thread, None
        wake_at = float("inf")
        if thread is not None and not _woken:
            _woken = True
            _wakeup.release()
    if thread is not None and thread is not threading.current_thread():
        thread.join()


def poke() -> None:
    """Have the thread look at the clock again: for a clock that was moved by hand."""
    with lock:
        if _thread is not None:
            _wake(wake_at)


def _after_fork_in_child() -> None:
    """Only the forking thread lives on: give it a lock nobody else holds and, if it has deadlines, a timer thread."""
    global _thread, _wakeup, _woken, wake_at
    lock.release()
    _thread, _woken, wake_at = None, False, float("inf")
    _wakeup = threading.Lock()
    _wakeup.acquire()
    with lock:
        _sort_in()
        if _heap:
            _wake(_heap[0][0])


if hasattr(os, "register_at_fork"):
    # Taken before and given back after: the child never inherits a heap caught in the middle of a change.
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child)
