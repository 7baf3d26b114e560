"""A clock for tests: deadlines pass when the test says so."""

from __future__ import annotations

import math
import threading
from types import TracebackType
from typing import Self

from threadsafe_timeout._checks import check_seconds
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._timing.clock import Clock, SystemClock, Waitable

__all__ = ["MockClock"]

_SLICE = 0.001  # real seconds between two looks at the virtual time, in a wait


class MockClock:
    """Virtual time for every deadline and every wait of this library in the process, while its block runs.

        with MockClock() as clock, move_on_after(3600) as scope:
            clock.jump(3600)

    - Time stands still, and moves when you call `jump(seconds)`.
    - With `rate`, it also runs at `rate` virtual seconds per real second.
    - With `autojump` (real seconds), it jumps to the earliest moment that anything waits for, as soon as no wait has
      started or ended for that long. So tests of hours take milliseconds. The clock does not see code that computes, so
      keep `autojump` longer than the computing between two waits.

    Waits check the time every millisecond of real time.
    """

    def __init__(self, *, rate: float = 0.0, autojump: float | None = None) -> None:
        self._real: Clock = SystemClock()
        self._lock = threading.RLock()  # re-entrant: an interrupt that looks for its moment in here asks for the time
        self._base_real = self._real.monotonic()  # guarded by _lock, as are the next five
        self._base = self._base_real
        self._wall = self._real.time() - self._base
        self._rate = self._checked_rate(rate)
        if autojump is not None:
            autojump = check_seconds("autojump", autojump)
        self._waiting: list[tuple[float, int]] = []  # until when, and which thread
        self._quiet_since = self._base_real
        self.autojump = autojump
        self._previous: Clock | None = None

    @staticmethod
    def _checked_rate(rate: float) -> float:
        if isinstance(rate, (bool, str)) or not 0 <= rate < math.inf:
            raise ValueError(f"rate must be a finite number >= 0, got {rate!r}")
        return rate

    @property
    def rate(self) -> float:
        """Virtual seconds per real second; assign to change it."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        rate = self._checked_rate(rate)
        with self._lock:
            self._rebase()
            self._rate = rate

    def _rebase(self) -> None:
        real = self._real.monotonic()
        self._base += self._rate * (real - self._base_real)
        self._base_real = real

    def monotonic(self) -> float:
        """The virtual time, in monotonic seconds. It starts at the machine's."""
        with self._lock:
            return self._base + self._rate * (self._real.monotonic() - self._base_real)

    def time(self) -> float:
        """The virtual time, in seconds since the epoch."""
        return self.monotonic() + self._wall

    def jump(self, seconds: float) -> None:
        """Move the time forward by `seconds`. Returns when the deadlines that pass with it have fired."""
        if isinstance(seconds, (int, float)) and not seconds >= 0:
            raise ValueError(f"time goes forward only: seconds must be >= 0, got {seconds!r}")
        seconds = check_seconds("seconds", seconds)
        with self._lock:
            self._rebase()
            self._base += seconds
            self._quiet_since = self._real.monotonic()
        if self._previous is not None:
            _timer.settle(5.0)

    def wait(self, lock: Waitable, seconds: float | None) -> bool:
        """Acquire `lock` within `seconds` virtual seconds (None: no limit)."""
        until = math.inf if seconds is None else self.monotonic() + seconds
        self._begin_wait(until)
        try:
            while True:
                if self._real.wait(lock, _SLICE):
                    return True
                # A thread that began to wait on this clock goes on with the other once this one is given back.
                if _clock.get_clock() is not self or self.monotonic() >= until:
                    return False
                self._jump_if_quiet()
        finally:
            self._end_wait(until)

    def _begin_wait(self, until: float) -> None:
        with self._lock:
            self._waiting.append((until, threading.get_ident()))
            self._quiet_since = self._real.monotonic()

    def _end_wait(self, until: float) -> None:
        with self._lock:
            self._waiting.remove((until, threading.get_ident()))
            self._quiet_since = self._real.monotonic()

    def _jump_if_quiet(self) -> None:
        if self.autojump is None:
            return
        with self._lock:
            self._rebase()
            earliest = min(self._waiting)[0]
            # A due thread has not noticed yet, and a deadline's callbacks may make others due: let them go first.
            busy = earliest <= self._base or not _timer.is_waiting({ident for _, ident in self._waiting})
            if not busy and earliest < math.inf and self._base_real - self._quiet_since >= self.autojump:
                self._base = earliest
                self._quiet_since = self._base_real

    def __enter__(self) -> Self:
        self._previous = _clock.set_clock(self)
        _timer.poke()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is not None:
            _clock.set_clock(self._previous)
            self._previous = None
            _timer.poke()
