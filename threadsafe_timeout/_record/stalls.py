"""Notices that the interpreter has stood still: a call of C held the GIL, and no deadline could be met meanwhile.

Guarantees:

- While it stands still, all stacks are written if that is wanted, where the system has timers for it (`kernel_timer`).
- When it goes on, one warning says for how long, which task it was as far as that can be known, and what to do.
- The thread wakes up once a second while a pool has tasks. Else it sleeps, and no timer runs.
- Time in which the whole process was stopped (Ctrl-Z, a debugger) does not count: a thread that waits for the GIL wakes
  up each few milliseconds to ask for it, and this one counts how often it has. (On Linux.)

Not guaranteed: without the GIL nothing is noticed. A stall that ends the process is only in the stacks. To write these
is safe while the GIL is held in C; after the process was stopped it may run, and then a crash is possible.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from threadsafe_timeout._environment.surroundings import has_gil
from threadsafe_timeout._introspection import dump_signal as _dump_signal
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._record import holder as _holder
from threadsafe_timeout._record import late as _late
from threadsafe_timeout._record.at_work import async_crews_at_work, crews_at_work
from threadsafe_timeout._record.attached import Attached
from threadsafe_timeout._record.tally import begin_among
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import DaemonThread, release

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._record.kernel_timer import KernelTimer
    from threadsafe_timeout.engines._async_crew import AsyncCrew

__all__ = ["begin", "end"]

_EVERY = 1.0  # seconds
_LOOKS = 4  # in the time after which the interpreter counts as standing still, at least
_CLOCK = _clock.SystemClock()  # whatever clock deadlines follow: it is the machine that stands still


class _Mark(NamedTuple):
    """A moment, how long threads had computed by then, and how often the thread that looks had waited."""

    moment: float
    times: _holder.Times
    wakeups: int | None


class Watchdog:
    """The watch over this process, from its first worker on."""

    def __init__(self, after: float, stacks: bool) -> None:
        self.after = after
        self.stacks = stacks
        self._every = min(_EVERY, after / _LOOKS)
        self._first = threading.Lock()  # taken once, to start the thread
        self._wake = threading.Lock()  # released when the thread is to look
        self._wake.acquire()
        self._asleep = False
        self._stopped = False
        self._work = threading.Lock()  # guards the next two
        self._timer: KernelTimer | None = None
        self._stderr: int | None = None  # what faulthandler writes to, if nobody else has it write elsewhere
        # Touched by the thread only, but for the first mark:
        self._prepared = False  # whether there is a timer if there can be one
        self._mark = _Mark(_CLOCK.monotonic(), {}, None)  # the last moment at which the interpreter ran
        self._stirred_at = 0.0

    # What an observer hears

    def began(self, crew: Crew) -> None:
        if not crew.inner:
            self._begins()

    def opened(self, _crew: AsyncCrew) -> None:
        self._begins()

    def _begins(self) -> None:
        if self._first.acquire(blocking=False):
            _late.watched = True
            self._mark = _Mark(_CLOCK.monotonic(), _holder.look(), None)  # the first task may be the one
            with contextlib.suppress(RuntimeError):  # none to be had: nothing is noticed
                DaemonThread(self._run, "threadsafe-timeout-stalls").start()
        elif self._asleep:
            release(self._wake)

    def stirred(self, _crew: Crew | AsyncCrew) -> None:
        self._stirred_at = _CLOCK.monotonic()
        release(self._wake)

    def leaving(self, _status: int) -> None:
        self.end()

    # The thread

    def _run(self) -> None:
        while not self._stopped:
            self._compare()
            if not self._is_busy():
                self._sleep()
                self._compare()
            self._wait()  # also after a sleep: what has just begun may be over soon, and the next begin

    def _compare(self) -> None:
        """Whether it took longer to come here than it should have. Until the next time the new mark counts: what it
        says of threads is from before its moment, for the GIL may be lost in between."""
        wakeups, times = _late.wakeups(), _holder.look()
        now = _CLOCK.monotonic()
        mark, self._mark = self._mark, _Mark(now, times, wakeups)
        stood = now - mark.moment
        if stood >= self.after and _late.was_awake(mark.wakeups, stood):
            _holder.tell(mark.times, stood, self._written())

    def _wait(self) -> None:
        if self._stopped:
            return
        self._set_timer(self.after)
        _CLOCK.wait(self._wake, self._every)
        if not self._prepared:  # not before: a program that is soon over has no need of it
            self._prepared = True
            if self.stacks:
                self._prepare()

    def _is_busy(self) -> bool:
        return any(not crew.inner and (crew.tasks or crew.running()) for crew in crews_at_work()) or any(
            (stats := crew.stats())["running"] or stats["pending"] for crew in async_crews_at_work()
        )

    def _sleep(self) -> None:
        """Until a pool gets a task."""
        self._set_timer(0)
        times = _holder.look()
        self._stirred_at, self._asleep = _CLOCK.monotonic(), True
        _observer.when_stirred(self.stirred)
        if not self._is_busy():
            _CLOCK.wait(self._wake, None)
        self._asleep = False
        # The first task since then may be the one. No worker has computed meanwhile; of others it is not known.
        self._mark = _Mark(self._stirred_at, _holder.look(times), None)

    def _prepare(self) -> None:
        try:
            from threadsafe_timeout._record.kernel_timer import KernelTimer

            number = _dump_signal.SIGNAL
            with self._work:
                if number is None or self._stopped:
                    return
                self._timer = KernelTimer(number, threading.get_native_id())
                self._stderr = os.dup(2)
                _dump_signal.direct("stderr", self._stderr)
        except (OSError, ImportError):  # no such timers; no standard error; a Python without ctypes
            pass

    def _set_timer(self, seconds: float) -> None:
        with self._work:
            if self._timer is not None:
                self._timer.set(seconds if _dump_signal.in_force() else 0)

    def _written(self) -> str | None:
        """Where the stacks were written to."""
        target = _dump_signal.destination() if self._timer is not None else None
        if target != "run":
            return None if target is None else "standard error"
        from threadsafe_timeout._record.dump import FAULTHANDLER
        from threadsafe_timeout._record.recording import run_folder

        return os.path.join(run_folder() or "", FAULTHANDLER)

    # The end

    def end(self) -> None:
        self._stopped, _late.watched = True, False
        with self._work:
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.delete()
            self._close()
        release(self._wake)

    def _close(self) -> None:
        stderr, self._stderr = self._stderr, None
        if stderr is not None:
            _dump_signal.undirect("stderr")
            os.close(stderr)

    def in_child(self) -> None:
        """This process was forked: the thread and the timer are not here."""
        self._stopped, _late.watched = True, False
        self._close()


def begin(after: float, stacks: bool) -> None:
    """Watch this process from its first pool's first worker on."""
    watchdog = _attached.one
    if watchdog is not None and (watchdog.after, watchdog.stacks) == (after, stacks):
        return
    end()
    if has_gil():
        begin_among(_attached.attach(Watchdog(after, stacks)))


def end() -> None:
    """Watch no more."""
    watchdog = _attached.detach()
    if watchdog is not None:
        watchdog.end()


def _in_child() -> None:
    """The child's own pools are watched by a thread of its own."""
    watchdog = _attached.detach()
    if watchdog is not None:
        watchdog.in_child()
        begin(watchdog.after, watchdog.stacks)


# At exit before the interpreter goes: what is written of its stacks then may be of what is not there any more.
_attached: Attached[Watchdog] = Attached(end, _in_child)
