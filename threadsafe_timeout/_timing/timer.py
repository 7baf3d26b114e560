"""One daemon thread and one heap for every deadline in the process.

Guarantees:

- The thread wakes for the earliest deadline that is due, never to poll; once for nothing, if that scope was left in
  time. Arming a deadline that is not the earliest wakes nobody.
- Disarming is O(1): the entry is marked dead. Dead entries are swept once they outnumber the live ones, so memory
  follows the number of armed deadlines.
- A callback that has been disarmed before it was taken off the heap never runs. One that is being taken off may run
  at the same time as `disarm`: who needs more checks its own state under `lock`, as scopes do.
- A callback that raises, whatever it raises, is logged; the thread goes on. So it does if something is thrown at it.
- Where no thread can be started, a deadline is met at cooperative points only, and the log says so.

Most scopes are left long before their deadline, so they do not enter the heap at all: `watch` appends them to
`incoming`, without the lock, and the thread sorts in those that are still entered when it next wakes (or whoever
appends the 128th, so that the list stays short).

`lock` guards the heap, and with it the cancellation of every scope (one lock, held for a few instructions, is cheaper
than one per scope). It is re-entrant: a signal handler or a finaliser may run Python code, and enter a scope, while
the thread it interrupted holds it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Set
from heapq import heapify, heappop, heappush
from itertools import compress, count
from operator import itemgetter

from threadsafe_timeout._environment import finder as _finder
from threadsafe_timeout._environment.surroundings import threads_replaced_by
from threadsafe_timeout._log import logger
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import preload as _preload
from threadsafe_timeout._timing.daemon_thread import DaemonThread, release
from threadsafe_timeout._typing import Any, Protocol

__all__ = [
    "Entry", "Watched", "arm", "attend", "call_later", "disarm", "in_timer_thread", "incoming", "is_due",
    "is_running", "is_waiting", "lock", "poke", "push", "settle", "shutdown", "start", "watch",
]  # fmt: skip

# [when, sequence, callback or scope, or None once it is dead or fired]; a list: it is marked dead in place, and
# compared in C (no two sequence numbers are equal). A scope's method would be one more object for the collector.
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
incoming: deque[Watched] = deque()  # appended to, and the last one taken back, without the lock; emptied under it
wake_at = float("inf")  # when the thread will next look at the heap; written under lock, read by `watch` without
_heap: list[Entry] = []  # guarded by lock
_dead = 0  # guarded by lock
_sequence = count().__next__
_thread: threading.Thread | None = None  # guarded by lock
_starting = False  # guarded by lock: a thread is being started, and who does it sees whether that fails
_wakeup = threading.Lock()  # held while there is nothing new; released to wake the thread
_wakeup.acquire()
_problem: Exception | None = None  # guarded by lock; why the thread could not be started
_told = False  # guarded by lock; the log has said so
looked: Callable[[float | None], object] = bool  # hears at each look for when the first that is due was, or None


def arm(when: float, callback: Callable[[], object]) -> Entry:
    """Have `callback` run in the timer thread at `when` (monotonic seconds). The caller holds `lock`."""
    entry = push(when, callback)
    if when < wake_at:
        _wake(when)
    return entry


def push(when: float, callback: Any) -> Entry:
    """Half of `arm`, if the thread looks in time anyway. Of a scope `_expire` is called. The caller holds `lock`."""
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
            # In C: no finaliser and no signal handler runs in the middle.
            _heap[:] = compress(_heap, map(itemgetter(2), _heap))
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
    global _problem, _told
    _finder.glance()  # a scope that begins: a moment at which what came in unseen is patched in time
    with lock:
        _sort_in()
        if when < wake_at:
            _wake(when)
        problem, _problem = _problem, None
        tell, _told = problem is not None and not _told, _told or problem is not None
    if tell:  # without the lock, which a log handler may want
        logger().warning(
            "threadsafe-timeout: the thread that watches deadlines could not be started (%s): until it can be, a "
            "deadline is only noticed at cooperative points", problem,
        )  # fmt: skip


def start() -> None:
    """Start the thread if there is none: from 3.12 on, none can be started from the end of the main thread on."""
    if _thread is None:  # else without the lock: the caller may hold others
        with lock:
            if _thread is None:
                _wake(wake_at)


def call_later(seconds: float, callback: Callable[[], object]) -> Entry:
    """Have `callback` run in the timer thread in `seconds`."""
    with lock:
        return arm(_clock.monotonic() + seconds, callback)


def _sort_in() -> None:
    """Move what is still wanted from `incoming` to the heap. The caller holds `lock`."""
    # First to the heap, then off the list: an exception in the middle loses no deadline.
    waiting = incoming.copy()  # in C: others append, and take the last one back, at any time
    for watched in waiting:
        watched._arm()
    for _ in waiting:
        try:
            watched = incoming.popleft()
        except IndexError:
            return  # a scope that was left meanwhile has taken itself out, which needs no lock
        watched._arm()  # another, if one was taken out; else it has nothing left to do


def _wake(when: float) -> None:
    """Make the thread look again, starting it if there is none, and promise it for `when`. The caller holds `lock`."""
    global _thread, _starting, wake_at, _problem
    if _thread is None or not _thread.is_alive():
        _thread, _starting = DaemonThread(_run, THREAD_NAME, _ended), True
        try:
            _refuse_greenlets()
            _thread.start()
        except BaseException as exc:
            _thread, wake_at = None, float("inf")  # the next deadline tries again
            if not isinstance(exc, RuntimeError):
                raise
            _problem = exc  # too many threads, or the interpreter is about to exit: the block is not to blame
            return
        finally:
            _starting = False
    else:
        release(_wakeup)
    wake_at = when  # last: an exception that strikes in here leaves no promise that nobody keeps


def _refuse_greenlets() -> None:
    """A greenlet that waits for the wake-up, which is a real lock, would have all others wait with it."""
    other = threads_replaced_by()
    if other is not None:
        raise RuntimeError(f"{other} has replaced threads by greenlets")


def _take_due(due: deque[Any]) -> tuple[float | None, float | None]:
    """Move the callbacks that are due to `due`; the seconds until the next one, and when the first was due, or None."""
    global _dead, wake_at
    with lock:
        promised, wake_at = wake_at, float("inf")  # before _sort_in: see watch
        _sort_in()
        now, first = _clock.monotonic(), None
        while _heap:
            entry = heappop(_heap)  # first: a finaliser that runs in here may arm an earlier one
            if entry[2] is None:
                _dead -= 1
            elif entry[0] <= now:
                due.append(entry[2])
                first = first or entry[0]
                entry[2] = None  # fired: a later disarm has nothing to count
            else:
                heappush(_heap, entry)
                break
        if due:
            return 0.0, first
        earliest: float = _heap[0][0] if _heap else float("inf")
        if now < promised < earliest and type(_clock.get_clock()) is _clock.SystemClock:
            # The scope it was for was left. To keep the promise costs one needless look; to drop it would have each
            # scope of a thread that enters many wake this one. (Other clocks jump to where a thread waits.)
            earliest = promised
        wake_at = earliest
        return (None if earliest == float("inf") else earliest - now), None


def _run() -> None:
    me = threading.current_thread()
    due: deque[Any] = deque()
    while _thread is me:  # else forked away, or shut down
        try:
            _serve(due)
        except BaseException:
            # Thrown at this thread from outside. Every deadline of the process depends on it, so it looks again.
            _log_failure("the thread that watches deadlines was disturbed; it goes on")


def _ended() -> None:
    """In a thread that is no more, whatever ended it: nobody keeps what it promised when it last looked."""
    global _thread, wake_at
    with lock:
        if _starting:
            return  # it could not be had, which who starts it sees
        if _thread is None:  # shut down
            wake_at = float("inf")
        elif _thread.ident == threading.get_ident() or not _thread.is_alive():  # struck, past all help
            _thread = None
            _wake(float("inf"))  # another, which looks for itself
        else:  # it has a successor, whose wake-up it may have taken
            release(_wakeup)


def _log_failure(text: str) -> None:
    try:
        logger().exception("threadsafe-timeout: %s", text)
    except Exception:  # a handler or a filter of the program's
        pass


def _serve(due: deque[Any]) -> None:
    """Run what is due, or wait until something is."""
    seconds, first = _take_due(due)
    looked(first)
    if not due:
        if _preload.wanted:
            _preload.load_next()
        else:
            _clock.wait(_wakeup, seconds)
        return
    while due:
        callback = due.popleft()
        try:
            getattr(callback, "_expire", callback)()
        except BaseException:
            _log_failure("a deadline's callback failed; the other deadlines go on")
        del callback


def shutdown() -> None:
    """Stop the timer thread; a deadline that is armed later starts it again. For tests that count threads."""
    global _thread, wake_at
    with lock:
        thread, _thread = _thread, None
        wake_at = float("inf")
    while thread is not None and thread is not threading.current_thread() and thread.is_alive():
        with lock:
            release(_wakeup)  # again if a successor has taken it
        thread.join(0.01)


def poke() -> None:
    """Have the thread look at the clock again: for a clock that was replaced."""
    with lock:
        if _thread is not None:
            _wake(wake_at)


def is_waiting(idents: Set[int]) -> bool:
    """Whether the timer thread, if there is one, is one of these: for a clock that knows which threads wait on it."""
    thread = _thread
    return thread is None or thread.ident in idents


def is_running() -> bool:
    """Whether there is a timer thread. The caller holds `lock`."""
    return _thread is not None


def is_due() -> bool:
    """Whether a callback that takes its time, in the timer thread, keeps another one waiting."""
    with lock:
        return bool(_heap) and _heap[0][2] is not None and _heap[0][0] <= _clock.monotonic()


def in_timer_thread() -> bool:
    """Whether it is the timer thread that asks."""
    thread = _thread
    return thread is not None and thread.ident == threading.get_ident()


def settle(timeout: float) -> bool:
    """Wait (`timeout` real seconds at most) until all that is due now has run: for a clock that was moved by hand."""
    if threading.current_thread() is _thread:
        return False
    done = threading.Lock()  # not an Event: a wait for one inside a scope, patched, is cancelled with the scope
    done.acquire()
    with lock:
        _sort_in()
        arm(_clock.monotonic(), done.release)  # after all that is due: the heap's order
    poke()
    return _clock.SystemClock().wait(done, timeout)


def _after_fork_in_child() -> None:
    """Only the forking thread lives on: give it a lock nobody else holds and, if it has deadlines, a timer thread."""
    global _thread, _wakeup, wake_at, _dead
    lock.release()
    _thread, wake_at = None, float("inf")
    _wakeup = threading.Lock()
    _wakeup.acquire()
    with lock:
        _sort_in()
        _heap[:] = [entry for entry in _heap if _survives_fork(entry[2])]
        heapify(_heap)
        _dead = 0
        if _heap:
            _wake(_heap[0][0])


def _survives_fork(armed: Any) -> bool:
    """Whether what is armed is to happen in a forked child, too: not the deadlines of other threads' scopes."""
    ask = getattr(getattr(armed, "__self__", armed), "_survives_fork", None)
    return armed is not None and (ask is None or bool(ask()))


if hasattr(os, "register_at_fork"):
    # Taken before and given back after: the child never inherits a heap caught in the middle of a change.
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child)
_preload.have_forks_wait()
