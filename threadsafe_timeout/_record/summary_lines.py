"""A line about what is in force, when the first pool of a program begins, and one about its tasks, at the end.

Guarantees:

- Nothing is said before a pool has a worker, in a child that was forked, or in one of `multiprocessing`.
- The first line is said by a thread of its own: a log handler or a terminal that hangs holds no task up.

Not guaranteed: a process that is killed says nothing; counts of a pool that was at work before `install()` begin there.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from threadsafe_timeout import _settings
from threadsafe_timeout._record.attached import Attached
from threadsafe_timeout._record.count import Count
from threadsafe_timeout._record.notes import journal_path
from threadsafe_timeout._record.on_stderr import heard, say
from threadsafe_timeout._record.tally import Tally, begin_among, is_child
from threadsafe_timeout._scopes import expiry as _expiry
from threadsafe_timeout._text import escaped, shown
from threadsafe_timeout._timing.daemon_thread import DaemonThread, join

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["begin", "end"]

logger = logging.getLogger("threadsafe_timeout")
_WAIT = 2.0  # seconds that the end waits for the first line


class Summary:
    """The two lines of one program."""

    def __init__(self, pool_is_patched: Callable[[], bool]) -> None:
        self.how = "auto"
        self._pool_is_patched = pool_is_patched
        self._first = threading.Lock()  # taken once: by the first worker, or by the end
        self._teller: DaemonThread | None = None
        self.tally = Tally()
        self._before = _expiry.begun()
        self._saved, self._not_saved = Count(), Count()

    # What an observer hears

    def began(self, crew: Crew) -> None:
        if not crew.inner:
            self._begins(crew, crew.tasks)

    def opened(self, crew: AsyncCrew) -> None:
        self._begins(crew, crew.pending)

    def _begins(self, crew: Crew | AsyncCrew, pending: Sequence[TaskFuture | AsyncTask]) -> None:
        if is_child():  # asked now: a child that was spawned has its parent only when it is set up
            return
        self.tally.add(crew)
        if self._first.acquire(blocking=False) and heard(logger, self.how):
            tell = functools.partial(say, logger, self._first_line(_limit_of_first(pending)), self.how)
            self._teller = DaemonThread(tell, "threadsafe-timeout-summary")
            with contextlib.suppress(RuntimeError):  # none to be had: it is not worth holding a task up
                self._teller.start()

    def saved(self, _seconds: float, error: BaseException | None) -> None:
        (self._saved if error is None else self._not_saved).add()

    def leaving(self, _status: int) -> None:
        self.end()

    # The lines

    def _first_line(self, limit: float | None) -> str:
        chosen = _settings.settings()
        parts = ["pool patched" if self._pool_is_patched() else "pool not patched"]
        if chosen.task_timeout is not None:
            parts.append(f"task_timeout {_seconds(chosen.task_timeout)}")
        elif limit is not None:
            parts.append(f"tasks have time limits of their own (the first: {_seconds(limit)})")
        if (journal := journal_path()) is not None:
            parts.append(f"saving to {shown(journal)}")
        elif chosen.save == "off":
            parts.append("results are not saved (run --save, or save=tasks)")
        recording = _recording()
        if recording is not None and (status_dir := recording.recorded_in()) is not None:
            parts.append(f"recorded in {shown(status_dir)}")
        line = "threadsafe-timeout: " + ", ".join(parts)
        return line if chosen.task_timeout is not None or limit is not None else f"{line}; {_without_deadline(chosen)}"

    def end(self) -> None:
        """Say the last line, if there was a pool, or a deadline of a block has passed."""
        if self._first.acquire(blocking=False) and (not _expiry.passed(self._before) or is_child()):
            return
        if self._teller is not None and self._teller is not threading.current_thread():
            with contextlib.suppress(RuntimeError):  # it could not be started
                join(self._teller, _WAIT)
        if heard(logger, self.how):
            say(logger, self._last_line(), self.how)

    def _last_line(self) -> str:
        line = "threadsafe-timeout: " + ", ".join([*self._ends(), *self._of_blocks()])
        recording = _recording()
        folder = recording.run_folder() if recording is not None else None
        if folder is None:
            return line
        return f"{line}; see the run: threadsafe-timeout report {escaped(shlex.quote(folder))}"

    def _of_blocks(self) -> list[str]:
        passed = _expiry.passed(self._before)
        return [f"{passed} {'deadline of a block' if passed == 1 else 'deadlines of blocks'} passed"] if passed else []

    def _ends(self) -> list[str]:
        """What became of the tasks; nothing if there were none."""
        found = self.tally.totals()
        unfinished = found["pending"] + found["running"]
        if _expiry.passed(self._before) and not unfinished and not found["finished"]:
            return []
        parts = [f"{found['completed']} done", f"{found['failed']} failed", f"{found['timed_out']} timed out"]
        if found["abandoned"]:
            parts[-1] += f" ({found['abandoned']} abandoned)"
        for number, what in (
            (found["cancelled"], "cancelled"), (unfinished, "not finished"), (self._saved.total(), "saved"),
            (self._not_saved.total(), "could not be saved"), (found["loops"], "loops ended in them"),
        ):  # fmt: skip
            if number > 0:
                parts.append(f"{number} {what}")
        return parts


def _recording() -> Any:
    """The module, if it is loaded: it is if the run is recorded."""
    return sys.modules.get("threadsafe_timeout._record.recording")


def _limit_of_first(pending: Sequence[TaskFuture | AsyncTask]) -> float | None:
    """The time limit of the task that is about to start."""
    try:
        limit = pending[0]._options.timeout
    except IndexError:  # it was cancelled
        return None
    return None if limit == math.inf else limit


def _without_deadline(chosen: _settings.Settings) -> str:
    bounded = [
        f"{what} ({_seconds(limit)})"
        for what, limit in (("LLM calls", chosen.llm_timeout), ("HTTP exchanges", chosen.http_timeout))
        if limit is not None
    ]
    but = f"only {' and '.join(bounded)} are bounded" if bounded else "nothing is bounded"
    return f"no task deadline set: {but}; set THREADSAFE_TIMEOUT_TASK_TIMEOUT or task_timeout"


def _seconds(value: float) -> str:
    return f"{value:.10g} s"


def begin(how: str, pool_is_patched: Callable[[], bool]) -> None:
    """Say the lines of this program, from its first pool's first worker on."""
    before = _attached.one
    # Attached anew, behind the recording: its files are whole when the last line names them.
    summary = _attached.attach(before or Summary(pool_is_patched))
    summary.how = how
    if summary is not before:
        begin_among(summary)


def end(*, say: bool = True) -> None:
    """Hear of nothing more; say the last line."""
    summary = _attached.detach()
    if summary is not None and say:
        summary.end()


def _in_child() -> None:
    end(say=False)


_attached: Attached[Summary] = Attached(end, _in_child)
