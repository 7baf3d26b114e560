"""Whether this process is recorded, and the thread that does it.

Guarantees:

- Nothing is written, and no thread started, before a pool has a task or the deadline of a block passes.
- What a pool's thread does for it is to append to a deque: no lock, no disk.
- The thread looks once a second while something runs. When nothing does it sleeps, until a pool gets a task.
- If the folder cannot be made or written to, one warning says so, and the program goes on without a record.

Not guaranteed: a child that was forked records nothing, unless it calls `install()`; none of its parent's files is
touched there. One of `multiprocessing` records nothing, unless `status_dir` is set.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import threadsafe_timeout._record.summary_lines  # noqa: F401 - its exit handler, registered first, runs after this one's
from threadsafe_timeout import _settings
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._record import switch as _switch
from threadsafe_timeout._record.doing import Watching
from threadsafe_timeout._record.notes import Notes
from threadsafe_timeout._record.tally import begin_among, is_child
from threadsafe_timeout._scopes import expiry as _expiry
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import DaemonThread, acquire, release

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._record.recorder import Recorder
    from threadsafe_timeout.engines._async_crew import AsyncCrew

__all__ = ["at_exit", "begin", "end", "recorded_in", "run_folder"]

logger = logging.getLogger("threadsafe_timeout")
_EVERY = 1.0  # seconds
_EXIT_WAIT = 5.0  # seconds that the exit waits for the thread


class Recording(Watching):
    """One run of this process, from its first task, or deadline that passes, on."""

    def __init__(self, status_dir: str, keep: int, home: str) -> None:
        self.wanted = status_dir, keep
        self._status_dir = os.path.join(home, status_dir)  # the program may go elsewhere
        self._keep = keep
        self._notes = notes = Notes()
        self.ending, self.event, self.saved = notes.ending, notes.event, notes.saved  # what an observer hears
        self._begun_at: float | None = None
        self._first = threading.Lock()  # taken once, to start the thread
        self._thread: DaemonThread | None = None
        self._stopped = False
        self._work = threading.Lock()  # held by whoever writes: the thread, or the exit
        self._recorder: Recorder | None = None  # guarded by _work
        self._over = False  # guarded by _work

    def deafen(self) -> None:
        """Hear of nothing more."""
        _observer.detach(self)
        _observer.not_when_stirred(self._notes.stirred)
        if _expiry.hear == self.heard:
            _expiry.listen(None)

    def began(self, crew: Crew) -> None:
        if not crew.inner:
            self._begins(crew)

    def opened(self, crew: AsyncCrew) -> None:
        self._begins(crew)

    def heard(self) -> None:
        """The deadline of a block has passed."""
        if self._begun_at is None:
            self._begins(None)
        elif self._notes.asleep:
            self._notes.asleep = False
            release(self._notes.wake)

    def _begins(self, crew: Crew | AsyncCrew | None) -> None:
        # Asked now: a child that was spawned has its parent only when it is set up.
        if is_child() and _settings.sources().get("status_dir") == "default":
            self.deafen()
            return
        self._notes.began(crew)
        if self._begun_at is None and self._first.acquire(blocking=False):
            self._begun_at = _clock.wall_time()
            self._thread = DaemonThread(self._run, "threadsafe-timeout-record")
            with contextlib.suppress(RuntimeError):  # none to be had: what there is is written at the exit
                self._thread.start()

    def leaving(self, status: int) -> None:
        self.end("exit", status)

    def _run(self) -> None:
        import threadsafe_timeout._record.recorder  # noqa: F401 - by this thread: no task waits for it; not under _work

        pause: float | None = _EVERY
        while not self._stopped:
            _clock.wait(self._notes.wake, pause)
            if pause is None and not self._stopped:
                _clock.wait(self._notes.wake, _EVERY)  # what has just begun may be over soon
            with self._work:
                if self._stopped:
                    return
                pause = _EVERY if self._look() else self._sleep()
                if self._over:
                    return

    def _look(self) -> bool:
        """The caller holds `_work`."""
        try:
            return self._the_recorder().look()
        except Exception as error:
            self._give_up(error)
            return False

    def _sleep(self) -> float | None:
        """How long there is nothing to do: until somebody says so, unless somebody has meanwhile."""
        notes, recorder = self._notes, self._recorder
        if recorder is None:
            return None
        recorder.let_go()
        notes.asleep = True
        _observer.when_stirred(notes.stirred)
        if not (notes.tasks or notes.events or notes.crews or recorder.has_news() or _expiry.left_ones):
            return None
        notes.asleep = False
        return _EVERY

    def _the_recorder(self) -> Recorder:
        global _folder
        if self._recorder is None:
            from threadsafe_timeout._record.recorder import Recorder

            self._recorder = Recorder(self._notes, self._status_dir, self._keep, self._begun_at or _clock.wall_time())
            _folder = self._recorder.folder
        return self._recorder

    def end(self, how: str, code: int | None = None) -> None:
        """Write what is left, and that the run is over. Waits for a write that is under way, a bounded time."""
        self._stopped = True
        release(self._notes.wake)
        if not acquire(self._work, _EXIT_WAIT):
            return  # the disk hangs: the program is to end all the same
        try:
            if not self._over and self._begun_at is not None:
                self._the_recorder().end(how, code)
        except Exception as error:
            self._give_up(error)
        finally:
            self._close()
            self._work.release()

    def _close(self) -> None:
        self._over = True
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()

    def _give_up(self, error: Exception) -> None:
        global _folder
        _folder = None
        self.deafen()
        self._close()
        logger.warning(
            "threadsafe-timeout: this run is not recorded any more, and goes on: nothing can be written to %s (%s); "
            "mend that, or set status_dir to another folder, or to off", shown(self._status_dir), shown(str(error)),
            extra={"event": "record"},
        )  # fmt: skip

    def in_child(self) -> None:
        """This process was forked. Whoever held `_work` is not here."""
        if self._recorder is not None:
            self._recorder.close()


_recording: Recording | None = None  # guarded by install()'s lock
_folder: str | None = None  # written with the recording's `_work` held


def begin(status_dir: str, keep: int, home: str) -> None:
    """Record this process from its first pool's first worker on, in a folder that is looked for from `home`; as before,
    if it is recorded there."""
    global _recording
    if _recording is not None and _recording.wanted == (status_dir, keep):
        return
    end(named=False)
    _recording = new = Recording(status_dir, keep, home)
    _observer.attach(new)
    _expiry.listen(new.heard)
    if _expiry.left_ones or _expiry.open_ones:  # this module was loaded for these
        new.heard()
    begin_among(new)


def recorded_in() -> str | None:
    """The `status_dir` that this run's folder is in, or will be; None if the run is not recorded."""
    recording = _recording
    return recording.wanted[0] if recording is not None else None


def run_folder() -> str | None:
    """The folder of the run, also when it is over; None if it is not recorded, or not whole."""
    return _folder


def end(how: str = "uninstall", code: int | None = None, *, named: bool = True) -> None:
    """The record is over. `run_folder` still names it, or not: another run begins."""
    global _recording, _folder
    recording, _recording = _recording, None
    if recording is not None:
        recording.deafen()
        recording.end(how, code)
    if not named:
        _folder = None


def at_exit() -> None:
    _switch.wait_until_begun()
    raised = getattr(sys, "last_type", None)  # the interpreter keeps what ended the main thread
    if raised is None:
        end("exit")
    elif issubclass(raised, KeyboardInterrupt):
        end("signal", 128 + signal.SIGINT)
        from threadsafe_timeout._pool.exit import keep_interrupted_status

        keep_interrupted_status()
    else:
        end("exception", 1)


def _in_child() -> None:
    global _recording
    recording, _recording = _recording, None
    if recording is not None:
        recording.deafen()
        recording.in_child()


atexit.register(at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
