"""One run, seen from outside: its process, its threads, its files, and when each changed.

Instants are the machine's monotonic clock, which the fake LLM's log uses too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout_legacy.replay._workspace import DATABASE, JOURNAL, Workspace

__all__ = ["Observation", "Sample", "Watched", "load_observations", "observe"]

FINISHED = frozenset({"done", "failed", "timeout", "loop"})
_LOOK_SECONDS = 0.02
_THREADS_SECONDS = 0.25


@dataclass(frozen=True)
class Sample:
    """What was on disk at an instant."""

    t: float
    database: int
    """Results the database counts."""
    journal: int
    """Tasks the journal holds a result of."""
    done: int
    """Those of them that a resumed run does not run again."""
    threads: int


@dataclass
class Observation:
    """One process from start to end."""

    run: str
    started: float
    stopped: float = 0.0
    """When it exited or was killed."""
    ending: str = "exited"
    """exited, limit (killed: it ran into the replay's limit) or killed (on purpose, by --kill-at)."""
    exit_code: int | None = None
    threads_at_end: int = 0
    """Threads that were alive at its end: 0 if it exited by itself."""
    successes: int = 0
    """Successful results the database counts at the end."""
    load: float = 0.0
    """Processes that wanted a core when it started (the load average of the last minute), for each core there is."""
    command: list[str] = field(default_factory=list)
    difference: str = ""
    samples: list[Sample] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        (folder / f"observed-{self.run}.json").write_text(json.dumps(asdict(self)) + "\n")


def load_observations(folder: Path) -> list[Observation]:
    """The processes of one side, in the order they were started."""
    found = []
    for path in folder.glob("observed-*.json"):
        value: dict[str, Any] = json.loads(path.read_text())
        found.append(Observation(**{**value, "samples": [Sample(**sample) for sample in value["samples"]]}))
    return sorted(found, key=lambda observation: observation.started)


class _Files:
    """Counts what the runner's files hold, reading only what changed."""

    def __init__(self, work: Path) -> None:
        self._database, self._journal = work / DATABASE, work / JOURNAL
        self._seen: tuple[int, int] | None = None
        self._offset = 0
        self._status: dict[str, str] = {}
        self.changed: float | None = None
        self.total = self.successes = 0

    @property
    def saved(self) -> int:
        return len(self._status)

    @property
    def done(self) -> int:
        return sum(status == "done" for status in self._status.values())

    def look(self) -> bool:
        """Whether the numbers changed since the last look; `changed` is the database's own time if it did."""
        before = (self.total, self.saved, self.done)
        self.changed = None
        self._look_at_database()
        self._look_at_journal()
        return (self.total, self.saved, self.done) != before

    def _look_at_database(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):  # absent, or caught in the middle of a write
            status = self._database.stat()
            mark = (status.st_mtime_ns, status.st_size)
            if mark != self._seen:
                summary = json.loads(self._database.read_bytes())["summary"]
                self.total, self.successes = int(summary["total_tests"]), int(summary.get("total_success", 0))
                self._seen = mark
                self.changed = status.st_mtime - _clock.wall_time() + _clock.monotonic()

    def _look_at_journal(self) -> None:
        try:
            with self._journal.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, AttributeError):  # a damaged line is no result
                record = json.loads(line)
                if record.get("event") in FINISHED and "key" in record:
                    self._status[str(record["key"])] = record["event"]


def _thread_count(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/task"))
    return 0


@dataclass(frozen=True)
class Watched:
    """A glance at a running process, for whoever decides when to stop and what to show."""

    now: float
    database: int
    saved: int
    threads: int


def observe(run: str, workspace: Workspace, decide: Callable[[Watched], str | None]) -> Observation:
    """Start the runner and watch it until it exits or `decide` says how to end it ("limit" or "killed").

    It is started in a process group of its own, and that group is gone when this returns or raises.
    """
    files = _Files(workspace.work)
    observation = Observation(run, _clock.monotonic(), command=workspace.command, difference=workspace.difference)
    observation.load = os.getloadavg()[0] / (os.cpu_count() or 1)
    process: subprocess.Popen[bytes] | None = None
    try:
        # What a signal raises within Popen would leave the process running, and nobody with its pid.
        with _signals_afterwards(), (workspace.folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                workspace.command, cwd=workspace.work, env=workspace.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )
        _watch(process, files, observation, decide)
    finally:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if files.look():
        observation.samples.append(_sample(files, observation.stopped, observation.threads_at_end))
    observation.successes = files.successes
    observation.save(workspace.folder)
    return observation


@contextlib.contextmanager
def _signals_afterwards() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM wait for the end of this block. (Their handlers run in the main thread only.)"""
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in came:
        signal.raise_signal(late)


def _sample(files: _Files, now: float, threads: int) -> Sample:
    return Sample(min(files.changed or now, now), files.total, files.saved, files.done, threads)


def _watch(
    process: subprocess.Popen[bytes], files: _Files, seen: Observation, decide: Callable[[Watched], str | None]
) -> None:
    threads, counted = 0, 0.0
    while True:
        try:
            seen.exit_code = process.wait(_LOOK_SECONDS)
            seen.stopped = _clock.monotonic()
            return
        except subprocess.TimeoutExpired:
            now = _clock.monotonic()
        if now - counted > _THREADS_SECONDS:
            threads, counted = _thread_count(process.pid), now
        if files.look():
            seen.samples.append(_sample(files, now, threads))
        ending = decide(Watched(now, files.total, files.saved, threads))
        if ending is not None:
            seen.ending, seen.threads_at_end = ending, _thread_count(process.pid)
            seen.stopped = _clock.monotonic()
            return
