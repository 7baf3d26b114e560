"""Progress in the program's own terminal, if it is asked for: a bar, or a line now and then.

Guarantees:

- Nothing is shown while no task waits or runs, and nothing wakes up then. The thread is a daemon.
- Where standard error is no terminal there are lines: one each half a minute in which a task has ended.
- A bar that cannot be had is said once, with what it needs; there are lines instead.

What keeps the bar out of the program's output is in `screen`.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import threadsafe_timeout._record.summary_lines  # noqa: F401 - its exit handler, registered first, runs after this one's
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._record.attached import Attached
from threadsafe_timeout._record.bars import Bar, NoBarError, in_words, new_bar
from threadsafe_timeout._record.on_stderr import say
from threadsafe_timeout._record.screen import Screen
from threadsafe_timeout._record.tally import Tally, begin_among, is_child
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import DaemonThread, acquire, release

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout.engines._async_crew import AsyncCrew

__all__ = ["begin", "end"]

logger = logging.getLogger("threadsafe_timeout")
_BAR_EVERY = 0.5  # seconds
_LINE_EVERY = 30.0
_EXIT_WAIT = 2.0  # seconds that the exit waits for a terminal that hangs


class Progress:
    """What one program shows of its tasks, from its first worker on."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.tally = Tally()
        self._first = threading.Lock()  # taken once: by the thread that starts the other
        self._thread: DaemonThread | None = None
        self._wake = threading.Lock()  # released when the thread is to look
        self._wake.acquire()
        self._stopped = False
        self._work = threading.Lock()  # held while something is shown, by the thread or by the end
        # All guarded by _work:
        self._screen: Screen | None = None
        self._bar: Bar | None = None
        self._chosen = False  # whether it is known if there is to be a bar
        self._idle = True  # nothing is shown
        self._line_at = 0.0  # when the last line was due, or the first task began
        self._told: Counter[str] = Counter()  # what there was to tell then

    # What an observer hears

    def began(self, crew: Crew) -> None:
        if not crew.inner:
            self._begins(crew)

    def opened(self, crew: AsyncCrew) -> None:
        self._begins(crew)

    def _begins(self, crew: Crew | AsyncCrew) -> None:
        if is_child():
            return
        self.tally.add(crew)
        release(self._wake)
        if self._thread is None and self._first.acquire(blocking=False):
            self._thread = DaemonThread(self._run, "threadsafe-timeout-progress")
            with contextlib.suppress(RuntimeError):  # none to be had: nothing is shown
                self._thread.start()

    def stirred(self, _crew: Crew | AsyncCrew) -> None:
        release(self._wake)

    def leaving(self, _status: int) -> None:
        self.end()

    # The thread

    def _run(self) -> None:
        while not self._stopped:
            with self._work:
                pause = None if self._stopped else self._look()
            _clock.wait(self._wake, pause)
            if pause is None and not self._stopped:
                _clock.wait(self._wake, _BAR_EVERY)  # what has just begun may be over soon

    def _look(self) -> float | None:
        """Show what there is; how long that holds. The caller holds `_work`."""
        try:
            found = self.tally.totals()
            if not self._chosen:
                self._choose(found)
            if not _is_busy(found):
                self._hide()
                _observer.when_stirred(self.stirred)
                return 0.0 if _is_busy(self.tally.totals()) else None
            if self._idle:
                self._idle, self._line_at = False, _clock.monotonic()
            if self._screen is not None and self._bar is not None:
                self._screen.show(self._bar(found))
            else:
                self._tell(found)
            return self._every()
        except Exception:  # the terminal is gone, or a bar fails: it is not worth more than this
            logger.debug("threadsafe-timeout: no more progress is shown", exc_info=True)
            self._stopped = True
            self._close()
            return 0.0

    def _hide(self) -> None:
        self._idle = True
        if self._screen is not None:
            self._screen.hide()

    def _every(self) -> float:
        if self._screen is not None:
            return _BAR_EVERY
        return max(0.0, self._line_at + _LINE_EVERY - _clock.monotonic())

    def _choose(self, found: Counter[str]) -> None:
        self._chosen = True
        if self.how != "auto" or not Screen.is_there():
            return
        try:
            self._bar = new_bar(sys.stderr, found)
            self._screen = Screen()
        except NoBarError as problem:
            say(logger, f"threadsafe-timeout: {problem}; there are lines instead", "on", "progress")

    def _tell(self, found: Counter[str]) -> None:
        now = _clock.monotonic()
        passed = now - self._line_at
        if passed < _LINE_EVERY:
            return
        ended = found["finished"] - self._told["finished"]
        self._line_at, self._told = now, found
        if ended <= 0:
            return
        waiting = found["pending"] + found["running"]
        left = datetime.timedelta(seconds=int(waiting * passed / ended))
        text = f"threadsafe-timeout: {found['finished']} of {found['finished'] + waiting} tasks have ended"
        say(logger, f"{text} ({found['completed']} done, {in_words(found)}); about {left} left", "on", "progress")

    # The end

    def end(self) -> None:
        """Show nothing more, and leave nothing on the terminal."""
        self._stopped = True
        release(self._wake)
        if not acquire(self._work, _EXIT_WAIT):
            return
        try:
            self._close()
        finally:
            self._work.release()

    def _close(self) -> None:
        screen, self._screen = self._screen, None
        if screen is not None:
            with contextlib.suppress(Exception):  # the terminal is gone
                screen.close()

    def in_child(self) -> None:
        """This process was forked. The thread that held `_work` is not here."""
        if self._screen is not None:
            self._screen.in_child()


def _is_busy(found: Counter[str]) -> bool:
    return found["pending"] + found["running"] > 0


def begin(how: str) -> None:
    """Show the progress of this program, from its first pool's first worker on."""
    if _attached.one is not None and _attached.one.how == how:
        return
    end()
    begin_among(_attached.attach(Progress(how)))


def end() -> None:
    """Show nothing more."""
    progress = _attached.detach()
    if progress is not None:
        progress.end()


def _in_child() -> None:
    progress = _attached.detach()
    if progress is not None:
        progress.in_child()


_attached: Attached[Progress] = Attached(end, _in_child)
