"""The journal of a program whose tasks are saved without code of its own: opened with the first of them.

Guarantees:

- One process at a time has it: another that runs the same command gets `CheckpointInUse`. A process that was killed
  holds no lock.
- At its end the program's run has ended if nothing was raised through to its top and each task has an outcome. The next
  run begins anew then, and the journal is kept aside; else the next one goes on with it.
- Child processes save nothing here: they would number their tasks beside their parent.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import multiprocessing
import os
import sys
import threading
from pathlib import Path
from typing import Literal, cast

from threadsafe_timeout._settings import Settings, settings
from threadsafe_timeout.checkpoint._errors import CheckpointInUse
from threadsafe_timeout.checkpoint._fingerprint import config_hash
from threadsafe_timeout.checkpoint._format import POISON, Key
from threadsafe_timeout.checkpoint._lock import RunLock
from threadsafe_timeout.checkpoint._records import Record
from threadsafe_timeout.checkpoint._run import open_run
from threadsafe_timeout.checkpoint._writer import CheckpointWriter

__all__ = ["Numbers", "ProgramRun", "end", "journal_path", "program_run", "tasks_path"]

log = logging.getLogger("threadsafe_timeout")


class Numbers:
    """The ordinals of equal calls, from 1: `a`, `a#2`, `a#3`. One that is given back is the next to be given."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._free: dict[str, list[int]] = {}

    def take(self, name: str) -> int:
        free = self._free.get(name)
        if free:
            number = heapq.heappop(free)
            if not free:
                del self._free[name]
            return number
        number = self._last[name] = self._last.get(name, 0) + 1
        return number

    def give_back(self, name: str, number: int) -> None:
        heapq.heappush(self._free.setdefault(name, []), number)


class ProgramRun:
    """The open journal, and what is known of the tasks of this run. Threads share it."""

    def __init__(self, writer: CheckpointWriter, finished: dict[Key, Record], lock: RunLock) -> None:
        self.writer = writer
        self._run_lock = lock
        self._lock = threading.Lock()  # guards all below
        self._finished = finished
        self._before = len(finished)
        self._numbers = Numbers()
        self._outstanding = self._taken = self._found = 0
        self._told: set[str] = set()

    def take(self, name: str) -> tuple[int, str, Record | None]:
        """The next task called `name`: its ordinal, its key, and what an earlier process has saved of it."""
        with self._lock:
            number = self._numbers.take(name)
            key = name if number == 1 else f"{name}#{number}"
            record = self._finished.pop(key, None)
            self._outstanding += 1
            self._taken += 1
            self._found += record is not None
            return number, key, record

    def give_back(self, name: str, number: int) -> None:
        """A task was not run, or failed: the next that is equal to it takes its place."""
        with self._lock:
            self._numbers.give_back(name, number)

    def over(self) -> None:
        """A task has its outcome."""
        with self._lock:
            self._outstanding -= 1

    def tell(self, about: str, message: str, *args: object) -> None:
        """Log a warning, once for each `about`."""
        with self._lock:
            if about in self._told:
                return
            self._told.add(about)
        log.warning("threadsafe-timeout: " + message, *args, extra={"event": "save"})

    def close(self) -> None:
        with self._lock:
            ended = self._outstanding == 0 and getattr(sys, "last_value", None) is None
            lost = self._before if self._taken and not self._found else 0
        if lost:
            log.warning(
                "threadsafe-timeout: none of the %d saved results in %s was asked for: the arguments of the tasks hold "
                "something that is another one in each run (a time, a random number, a folder's name)",
                lost, self.writer.path, extra={"event": "save"},
            )  # fmt: skip
        try:
            self.writer.close(ended=ended)
        finally:
            self._run_lock.release()

    def forget(self) -> None:
        """In a forked child: the parent goes on with it."""
        self._run_lock.close_inherited()


_lock = threading.Lock()
_run: ProgramRun | None = None  # guarded by _lock, as is the next
_in_child = False


def program_run() -> ProgramRun | None:
    """The run of this program; None in a child process. Raises CheckpointError if its journal cannot be opened."""
    global _run
    if _run is not None:
        return _run
    with _lock:
        if _run is None and not _in_child and multiprocessing.parent_process() is None:
            chosen = settings()
            path = tasks_path(chosen)
            if path is not None:
                _run = _open(path, chosen)
                atexit.register(end)
        return _run


def _open(path: Path, chosen: Settings) -> ProgramRun:
    lock = RunLock(os.path.realpath(path))
    holder = lock.acquire()
    if holder is not None:
        raise CheckpointInUse(str(path), holder)
    try:
        resume = cast(Literal["unfinished", "always", "never"], chosen.resume)
        writer, finished = open_run(path, config=_command(), resume=resume)
        if POISON in chosen.retry:  # the other statuses run again in any case
            writer.past.forgive()
    except BaseException:
        lock.release()
        raise
    if finished:
        log.warning(
            "threadsafe-timeout: going on with the run in %s: %d finished tasks return their saved results "
            "(resume=never starts afresh)", path, len(finished), extra={"event": "resumed"},
        )  # fmt: skip
    else:
        log.info("threadsafe-timeout: the tasks of pools are saved in %s", path)
    return ProgramRun(writer, finished, lock)


def end() -> None:
    """Close the journal. The next task opens it again."""
    global _run
    with _lock:
        run, _run = _run, None
    if run is not None:
        atexit.unregister(end)
        run.close()


def _after_fork_in_child() -> None:
    global _lock, _run, _in_child
    run, _run = _run, None
    _lock, _in_child = threading.Lock(), True
    if run is not None:
        run.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def journal_path(chosen: Settings) -> Path | None:
    """Where the `checkpoint` setting says that the program's journal is, or None if it is off."""
    if chosen.checkpoint is None:
        return None
    return Path(chosen.checkpoint.replace("<runner>", _program_name()))


def tasks_path(chosen: Settings) -> Path | None:
    """The journal of its tasks, beside that. Each command has one: the same program with other arguments is another."""
    path = journal_path(chosen)
    if path is None:
        return None
    digest = "" if not sys.argv[1:] else "-" + str(config_hash(sys.argv[1:]))[-8:]
    return path.with_stem(f"{path.stem}.tasks{digest}")


def _program_name() -> str:
    program = Path(sys.argv[0] if sys.argv else "")
    if program.stem == "__main__":  # of a package, a folder
        program = Path(os.path.abspath(program)).parent
    return program.stem if program.stem not in ("", "-c", "-") else "runner"


def _command() -> dict[str, object]:
    program = sys.argv[0] if sys.argv else ""
    return {"program": os.path.realpath(program) if os.path.exists(program) else program, "arguments": sys.argv[1:]}
