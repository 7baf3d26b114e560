"""The thread that records a run, and the hooks by which it hears of it.

Guarantees:

- Nothing is written before a pool has a worker. The folder is made then; a run that is killed loses a second at most.
- What a hook does is to append to a deque: no lock, no disk. All else is done by the thread, once a second.
- If the folder cannot be made or written to, one warning says so, and the program goes on without a record.
- At most `_LINES` finished tasks a second have a line of their own. The others are counted, as `unlisted`.

Not guaranteed: a child that was forked records nothing, and none of its parent's files is touched there.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from threadsafe_timeout._errors import DeadlineExceeded, LoopDetected
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._introspection.secrets import without_secrets
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._pool.events import Event
from threadsafe_timeout._pool.task import TaskFuture
from threadsafe_timeout._record import dump as _dump
from threadsafe_timeout._record import snapshot as _snapshot
from threadsafe_timeout._record.folder import RunFolder, start_time
from threadsafe_timeout._record.run_line import journal_path, run_line
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import DaemonThread, release

__all__ = ["Recorder", "begin", "end"]

logger = logging.getLogger("threadsafe_timeout")
_EVERY = 1.0  # seconds
_LINES = 1000
_LONGEST = 300  # characters of an error's text
_RECENT, _EFFECTIVE, _RATE = 50, 120, 60  # how many events, and seconds, the status has
_EXIT_WAIT = 5.0  # seconds that the exit waits for the thread
_RUNNING, _ENDED = "running", "ended"


@dataclass(frozen=True, slots=True)
class _Note:
    """What is known of a task as it ends."""

    task: str
    key: Any
    pool: str
    worker: str | None
    took: float
    limit: float | None
    given_up: bool
    saved: bool


class Recorder:
    """The record of one run in this process."""

    def __init__(self, status_dir: str, keep: int) -> None:
        self._status_dir = status_dir
        self._keep = keep
        self._begun_at: float | None = None
        self._notes: deque[tuple[float, _Note, BaseException | None]] = deque()
        self._events: deque[tuple[float, Event]] = deque()
        self._stop = threading.Lock()
        self._stop.acquire()
        self._work = threading.Lock()  # held by whoever writes: the thread, or the exit
        self._thread: DaemonThread | None = None
        # All guarded by _work:
        self._folder: RunFolder | None = None
        self._over = False
        self._first: dict[str, Any] = {}
        self._signal: int | None = None
        self._pools: dict[str, dict[str, Any]] = {}
        self._unlisted: Counter[str] = Counter()
        self._saved: Counter[str] = Counter()
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._effective: deque[int] = deque(maxlen=_EFFECTIVE)
        self._finished: deque[int] = deque(maxlen=_RATE)

    # The hooks: called by the pool's threads

    def began(self) -> None:
        """The first worker of all begins."""
        _observer.began = None
        if self._begun_at is not None:
            return
        self._begun_at = _clock.wall_time()
        self._thread = DaemonThread(self._run, "threadsafe-timeout-record")
        with contextlib.suppress(RuntimeError):  # none to be had: what there is is written at the exit
            self._thread.start()

    def ending(self, task: TaskFuture) -> _Note:
        options = task._options
        worker = task._crew.worker_of(task)
        return _Note(
            task._task_name(), options.key, task._crew.prefix, worker.thread.name if worker is not None else None,
            task.elapsed(), options.timeout, task._owed is not None,
            options.settle is not None and options.key is not None,
        )  # fmt: skip

    def finished(self, note: _Note, error: BaseException | None) -> None:
        self._notes.append((_clock.wall_time(), note, error))

    def event(self, event: Event) -> None:
        self._events.append((_clock.wall_time(), event))

    def leaving(self, status: int) -> None:
        self.end("exit", status)

    # The thread

    def _run(self) -> None:
        try:
            while not _clock.wait(self._stop, _EVERY):
                with self._work:
                    if not self._over:
                        self._write(_RUNNING)
        except Exception:
            self._give_up(sys.exception())

    def end(self, how: str, code: int | None = None) -> None:
        """Write what is left, and that the run is over. Waits for a write that is under way, a bounded time."""
        release(self._stop)
        if not self._work.acquire(timeout=_EXIT_WAIT):
            return  # the disk hangs: the program is to end all the same
        try:
            if not self._over and _snapshot.all_crews():
                self._write(_ENDED, {"how": how, "exit": code})
        except Exception as error:
            self._give_up(error)
        finally:
            self._over = True
            _dump.unregister()
            if self._folder is not None:
                self._folder.close()
            self._work.release()

    def _give_up(self, error: BaseException | None) -> None:
        self._over = True
        _forget_hooks()
        logger.warning(
            "threadsafe-timeout: this run is not recorded any more, and goes on: nothing can be written to %s (%s); "
            "mend that, or set status_dir to another folder, or to off", shown(self._status_dir), error,
            extra={"event": "record"},
        )  # fmt: skip

    # What is written, under `_work`

    def _write(self, state: str, end: dict[str, Any] | None = None) -> None:
        now = _clock.wall_time()
        lines: list[dict[str, Any]] = []
        if self._folder is None:
            self._folder = RunFolder(self._status_dir, self._keep)
            self._first = run_line(self._folder.path.name, self._begun_at or now)
            self._signal = _dump.register(self._folder.path)
            lines.append(self._first)
        elif self._first["journal"] is None:
            self._first["journal"] = journal_path()
        lines += self._news()
        changed = self._look_at_pools(now, lines)
        totals = _snapshot.totals(self._pools)
        if end is not None:
            took = now - self._first["t"]
            lines.append({"kind": "end", "t": now, **end, "totals": totals, "took": took})
        if lines:
            self._folder.append(lines)
            self._recent += [line for line in lines if line["kind"] not in ("run", "tick")]
        done = sum(totals[name] for name in ("done", "failed", "timed_out", "cancelled"))
        self._finished.append(done)
        self._effective.append(sum(int(pool["effective"]) for pool in self._pools.values()))
        if lines or changed or totals["running"] or end is not None:
            self._folder.put_status(self._status(state, now, totals))
        _dump.serve(self._folder.path)

    def _news(self) -> list[dict[str, Any]]:
        lines = [_event_line(t, event) for t, event in _taken(self._events)]
        listed = 0
        for t, note, error in _taken(self._notes):
            self._saved[note.pool] += note.saved
            if listed >= _LINES:
                self._unlisted[note.pool] += 1
                continue
            listed += 1
            lines.append(_task_line(t, note, error))
        return lines

    def _look_at_pools(self, now: float, lines: list[dict[str, Any]]) -> bool:
        """Bring the counts of the pools up to date; one that is gone keeps its last. Whether any has changed."""
        before = dict(self._pools)
        for crew in _snapshot.all_crews():
            if crew.prefix not in self._pools:
                lines.append({"kind": "pool", "t": now, "pool": crew.prefix, "width": crew.width})
            line = _snapshot.pool_line(crew, self._unlisted[crew.prefix])
            line["saved"] = self._saved[crew.prefix]
            self._pools[crew.prefix] = line
        if self._pools != before:
            lines.append({"kind": "tick", "t": now, "pools": self._pools})
            return True
        return False

    def _status(self, state: str, now: float, totals: dict[str, int]) -> dict[str, Any]:
        first = self._first
        crews = _snapshot.all_crews() if state == _RUNNING else []
        passed = max(len(self._finished) - 1, 1) * _EVERY
        return {
            "schema": first["schema"], "run": first["run"], "pid": first["pid"], "start_time": start_time(first["pid"]),
            "t": now, "started": first["t"], "state": state, "program": first["program"], "cwd": first["cwd"],
            "argv": first["argv"], "resume": first["resume"], "journal": first["journal"],
            "settings": first["settings"], "dump_signal": _dump.dump_signal() if self._signal is not None else None,
            "totals": totals, "rate": (self._finished[-1] - self._finished[0]) / passed,
            "pools": [{"pool": name, **line} for name, line in self._pools.items()],
            "workers": [line for crew in crews for line in _snapshot.worker_lines(crew, now)],
            "effective": list(self._effective), "recent": list(self._recent),
        }  # fmt: skip


def _taken(notes: deque[Any]) -> list[Any]:
    """What is there now; others go on appending."""
    return [notes.popleft() for _ in range(len(notes))]


def _task_line(t: float, note: _Note, error: BaseException | None) -> dict[str, Any]:
    line: dict[str, Any] = {
        "kind": "task", "t": t, "start": t - note.took, "took": note.took, "pool": note.pool, "worker": note.worker,
        "task": note.task, "key": note.key, "outcome": _outcome(note, error), "deadline": note.limit,
        "saved": note.saved or None,
    }  # fmt: skip
    if error is not None:
        where = error.where if isinstance(error, DeadlineExceeded) else place_of(error)
        message = without_secrets(str(error)[: 2 * _LONGEST])[:_LONGEST]
        line["error"] = {"type": type(error).__qualname__, "message": message, "where": where}
        line["where"] = where
    return {name: value for name, value in line.items() if value is not None}


def _outcome(note: _Note, error: BaseException | None) -> str:
    if error is None:
        return "done"
    if isinstance(error, LoopDetected):
        return "loop"
    if isinstance(error, DeadlineExceeded):
        return "abandoned" if note.given_up else "timeout"
    return "failed"


def _event_line(t: float, event: Event) -> dict[str, Any]:
    line: dict[str, Any] = {
        "kind": event.kind, "t": t, "pool": event.pool, "task": event.task, "key": event.key, "worker": event.worker,
        "elapsed": event.elapsed, "reason": event.reason and without_secrets(event.reason), "where": event.where,
    }  # fmt: skip
    if event.kind == "loop":
        kind, _, detail = (event.reason or "").partition(": ")
        line |= {"loop": kind, "detail": detail, "action": "stop"}
    if event.pids:
        line["pids"] = list(event.pids)
    return {name: value for name, value in line.items() if value is not None}


# The recorder of this process

_recorder: Recorder | None = None  # guarded by install()'s lock


def begin(status_dir: str, keep: int) -> None:
    """Record this process from its first pool's first worker on."""
    global _recorder
    end()
    _recorder = new = Recorder(status_dir, keep)
    _observer.began, _observer.ending, _observer.finished = new.began, new.ending, new.finished
    _observer.event, _observer.leaving = new.event, new.leaving
    if _snapshot.all_crews():
        new.began()


def end(how: str = "uninstall", code: int | None = None) -> None:
    """The record is over."""
    global _recorder
    recorder, _recorder = _recorder, None
    _forget_hooks()
    if recorder is not None:
        recorder.end(how, code)


def _forget_hooks() -> None:
    _observer.began = _observer.ending = _observer.finished = _observer.event = _observer.leaving = None


def _at_exit() -> None:
    raised = getattr(sys, "last_type", None)  # the interpreter keeps what ended the main thread
    if raised is None:
        end("exit")
    elif issubclass(raised, KeyboardInterrupt):
        end("signal", 128 + signal.SIGINT)
    else:
        end("exception", 1)


def _in_child() -> None:
    global _recorder
    _recorder = None
    _forget_hooks()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
