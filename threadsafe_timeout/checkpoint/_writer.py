"""`CheckpointWriter`: many threads, one file, one fsync for all that wait.

Group commit without a thread of its own: the first saver leads. It takes everything that is queued, writes and syncs
it, names the first saver that queued meanwhile as the next leader, and wakes the others. So a single saver is never
delayed, and a hundred share one lock acquisition and one fsync.

Guarantees:

- `save` returns after the record is on disk (synced, in mode `durable`), in the journal or, if that cannot be
  written, in a spill file; otherwise it raises, and the record stays queued for the next commit.
- A leader that is interrupted (Ctrl-C, a cancelled task) hands on the lead; what it had not settled is queued again.
- Nothing is shared with a child made by fork but the file: the child starts with an empty queue.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Self

from threadsafe_timeout._checks import check_callable, check_seconds
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._processes import lives as _lives
from threadsafe_timeout._text import nearest
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint import _format, _spill
from threadsafe_timeout.checkpoint._entry import Entry
from threadsafe_timeout.checkpoint._errors import CheckpointClosed, CheckpointLockTimeout, CheckpointSaveError
from threadsafe_timeout.checkpoint._format import CLOSED, JOURNAL, POISON, STARTED, UNSAVED, Key, checked_key, place_in
from threadsafe_timeout.checkpoint._journal import Journal
from threadsafe_timeout.checkpoint._lock import pause
from threadsafe_timeout.checkpoint._poison import Past
from threadsafe_timeout.checkpoint._values import dumps

__all__ = ["CheckpointWriter"]

log = logging.getLogger("threadsafe_timeout.checkpoint")

Mode = Literal["durable", "fast"]

_RESERVED = frozenset({JOURNAL, STARTED, CLOSED})
# Worth another try: the disk may be full for a moment, a network file system may hiccup.
_PASSING = frozenset({
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ESTALE,
    errno.ETIMEDOUT,
})  # fmt: skip
_PAUSES = (0.05, 0.2, 0.5)  # seconds before each further try
_IMPATIENT = 0.2  # seconds to wait for the lock while the journal is known to be unavailable


class CheckpointWriter:
    """Appends one line per event to the journal at `path`. Many threads may share a writer, many processes a journal.

        with CheckpointWriter("run.jsonl", config={"model": "m"}) as checkpoint:
            checkpoint.started("task-1")
            checkpoint.save("task-1", {"score": 1.0})

    - `key`: a function that makes a str or int of what is passed as a key (`task_fingerprint` for tasks without an id)
    - `config`: the configuration. Its hash is written into a new journal; an existing journal with another one raises
      `CheckpointConfigMismatch`
    - `lock_timeout`: seconds to wait for another process before a spill file is used
    - `mode`: `"durable"` syncs before `save` returns, so a record survives a power cut. `"fast"` does not sync: a
      record survives the death of the process, by SIGKILL too, but a power cut or a crash of the machine may lose the
      last seconds' records
    - `default`: a function that converts a value without a JSON form into one that has (`repr` keeps its text)

    Opening a journal reads it once, for damage and for how often each key was tried. Leaving the `with` block marks the
    run as ended, unless the block raises.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key: Callable[[Any], Key] | None = None,
        config: object = None,
        lock_timeout: float = 30.0,
        mode: Mode = "durable",
        default: Callable[[Any], Any] | None = None,
    ) -> None:
        lock_timeout = self.check(mode, lock_timeout, key, default)
        journal = Journal(path, config=config, durable=mode == "durable")
        with journal.lock.held_to_open(lock_timeout):
            journal.open()
        self._begin(journal, key, lock_timeout, default)

    @property
    def run(self) -> str:
        """The id of the run that the journal belongs to. It is made when the journal is created."""
        return str(self._journal.header["run"])

    @staticmethod
    def check(mode: str, lock_timeout: float, key: object, default: object) -> float:
        """Raise for an argument that makes no sense, and name it; else return the lock timeout as a number."""
        if mode not in ("durable", "fast"):
            raise ValueError(f"mode must be 'durable' or 'fast', not {mode!r}{nearest(mode, ('durable', 'fast'))}")
        for name, function in (("key", key), ("default", default)):
            if function is not None:
                check_callable(name, function)
        return check_seconds("lock_timeout", lock_timeout)

    @classmethod
    def on(
        cls,
        journal: Journal,
        *,
        key: Callable[[Any], Key] | None,
        lock_timeout: float,
        default: Callable[[Any], Any] | None,
    ) -> Self:
        """A writer for a journal that is already open."""
        writer = cls.__new__(cls)
        writer._begin(journal, key, lock_timeout, default)
        return writer

    def _begin(
        self,
        journal: Journal,
        key: Callable[[Any], Key] | None,
        lock_timeout: float,
        default: Callable[[Any], Any] | None,
    ) -> None:
        self._journal = journal
        self._key = key
        self._default = default
        self._lock_timeout = lock_timeout
        self._mutex = threading.Lock()  # guards everything below; never held while the disk is waited for
        self._queue: deque[Entry] = deque()
        self._leader: Entry | None = None
        self._closed = False
        self._under_way: dict[Key, tuple[int, float]] = {}  # key → attempt, monotonic start
        # The leader's own, so guarded by the lead:
        self._spill = _spill.SpillFile(journal.path)
        self._unavailable = False  # the last commit could not use the journal
        try:
            _spill.take_back(journal, lock_timeout)
            self.past = Past(journal.path)  # what is known of tasks that bring the program down
            self._attempts = self.past.attempts
        except BaseException:
            journal.close()
            raise
        _writers.add(self)
        for guilty, how in self.past.guilty.items():
            self.save(guilty, {"ended": how}, POISON)

    @property
    def path(self) -> str:
        """The journal's path, absolute."""
        return self._journal.path

    # --- what callers do ----------------------------------------------------------------------------------------

    def started(self, key: Any) -> int:
        """Record that work on `key` begins, and return the number of this attempt, from 1.

        The line is written before this returns, but not synced: after a power cut the task counts as not begun. If the
        line cannot be written, that is logged and not raised, because no result is lost.

        Raises `TaskPoisoned` for a task that `run --supervise` has marked, because it brings the program down.
        """
        name = self._key_of(key)
        self.past.begins(name)
        with self._mutex:
            attempt = self._attempts[name] = self._attempts.get(name, 0) + 1
            self._under_way[name] = (attempt, _clock.monotonic())
        thread = (threading.get_native_id(), threading.get_ident()) if _lives.supervised else None
        entry = Entry(_format.event_line(STARTED, name, _clock.wall_time(), attempt, thread=thread), durable=False)
        self._commit(entry, name)
        if entry.problem is not None:
            log.error("%s: that %r started could not be recorded: %s", self.path, name, entry.problem)
        return attempt

    def save(self, key: Any, result: object, status: str = "done", *, error: BaseException | None = None) -> None:
        """Save the outcome of `key`. It is on disk when this returns.

        `status` is `done`, `failed`, `timeout`, `loop` or a word of your own. `result` is plain data, or a value of a
        type that docs/checkpoints.md lists, or an exception, whose record says where it came from. `error` is the
        exception that a `result` of your own stands for.

        Raises `UnserializableResult` before anything is written, and names the place inside `result`. Raises
        `CheckpointSaveError`, which holds the result, if neither the journal nor a spill file could be written.
        """
        self.save_line(key, result, status, error)

    def save_line(self, key: Any, result: object, status: str = "done", error: BaseException | None = None) -> bytes:
        """Like `save`; returns the journal line that was written."""
        name = self._key_of(key)
        if isinstance(status, str):
            status = str.__str__(status)
        if not isinstance(status, str) or not status or status in _RESERVED:
            raise ValueError(f"status must be a word other than {', '.join(sorted(_RESERVED))}, not {status!r}")
        data = dumps(result, self._default)
        where = place_in(result if error is None else error)
        with self._mutex:
            attempt, start = self._under_way.pop(name, (0, 0.0))
            if not attempt:
                attempt = self._attempts[name] = self._attempts.get(name, 0) + 1
                start = -1.0
        elapsed = None if start < 0 else _clock.monotonic() - start
        entry = Entry(_format.event_line(status, name, _clock.wall_time(), attempt, elapsed, data, where), durable=True)
        begun = _clock.monotonic()
        self._commit(entry, name)
        self.past.ends(name)
        if _observer.saved is not None and status != UNSAVED:
            _observer.saved(_clock.monotonic() - begun, entry.problem)
        if entry.problem is not None:
            raise CheckpointSaveError(self.path, name, status, result, str(entry.problem)) from entry.problem
        return entry.line

    def close(self, *, ended: bool = False) -> None:
        """Write what is still queued and close the file. `ended=True` marks the run as ended: it is not resumed."""
        about = {"event": CLOSED, "time": round(_clock.wall_time(), 6), "pid": os.getpid()}
        line = _format.seal(about) if ended else b""
        entry = Entry(line, durable=True)
        if self._closed:
            return
        try:
            self._commit(entry, None)
        except CheckpointClosed:  # another thread was faster
            return
        finally:
            self._journal.close()
            _writers.discard(self)
        lost = [waiting for waiting in self._queue if waiting.durable and waiting.line]
        if entry.problem is not None and (lost or ended):
            what = f"{len(lost)} records and the end of the run" if ended else f"{len(lost)} records"
            raise CheckpointSaveError(
                self.path, None, CLOSED, [bytes(waiting.line) for waiting in lost], f"{what}: {entry.problem}"
            ) from entry.problem

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(ended=kind is None)

    def __repr__(self) -> str:
        return f"<CheckpointWriter {self.path}{' closed' if self._closed else ''}>"

    def _key_of(self, key: Any) -> Key:
        return checked_key(key if self._key is None else self._key(key))

    # --- group commit -------------------------------------------------------------------------------------------

    def _commit(self, entry: Entry, key: Key | None) -> None:
        """Queue `entry` and return when it is settled: by another thread, or by leading. `key` is None for the last."""
        try:
            with self._mutex:
                if self._closed:
                    raise CheckpointClosed(self.path, key)
                self._closed = key is None
                self._queue.append(entry)
                if self._leader is None:
                    self._leader = entry
                leads = self._leader is entry
            if not leads:
                entry.gate.acquire()
                if entry.next is not None:
                    entry.next.open_gate()
            if not entry.settled:
                self._lead(entry)
        except BaseException:
            with self._mutex:
                entry.waiting = False
            self._hand_on(entry)
            raise

    def _lead(self, entry: Entry) -> None:
        self._write(entry)
        self._hand_on(entry)

    def _take(self, entry: Entry) -> list[Entry]:
        """Add what is queued to the batch that `entry` leads."""
        with self._mutex:
            entry.batch.extend(self._queue)
            self._queue.clear()
        return entry.batch

    def _hand_on(self, entry: Entry) -> None:
        """Give the lead to the next saver and let the settled ones go. May be repeated if it was interrupted."""
        batch = entry.batch
        with self._mutex:
            if self._leader is entry:
                queued = set(map(id, self._queue))
                again = [waiting for waiting in batch if not waiting.settled and id(waiting) not in queued]
                self._queue.extendleft(reversed(again))
                self._leader = next((waiting for waiting in self._queue if waiting.waiting), None)
            leader = self._leader
            # A saver that was interrupted while it waited wakes nobody: it must not be in the chain. (One that is
            # interrupted from now on finds its successor in `next`.)
            chain = [waiting for waiting in batch if waiting.settled and waiting.waiting and waiting is not entry]
            for waiting, after in itertools.pairwise(chain):
                waiting.next = after
            following = chain[0] if chain else entry.next
        if leader is not None:
            # Before the others: the next sync should be under way while they wake up.
            leader.open_gate()
        # One after the other, each woken by the one before: all at once they would only queue for the interpreter
        # lock, and 100 threads on two cores save 1.3 times as fast this way.
        if following is not None:
            following.open_gate()

    # --- one commit: only the leader's thread gets here ---------------------------------------------------------

    def _write(self, leader: Entry) -> None:
        problem = self._try_journal(leader)
        written = problem is None
        batch = leader.batch if problem is None else self._take(leader)
        lines = [entry.line for entry in batch if entry.line]
        if problem is not None:
            problem = self._try_spill(lines, problem) if lines else None
        for entry in batch:
            entry.problem = problem
            entry.settled = True
        if written:  # not before: if it is interrupted in between, its batch is queued again
            self._journal.settled()
        if problem is not None:
            self._keep(batch)

    def _keep(self, batch: list[Entry]) -> None:
        """Queue again what no file took. Its saver has been told and has left; the next commit tries once more."""
        kept = [entry.again() for entry in batch if entry.line and entry.durable]
        with self._mutex:
            self._queue.extendleft(reversed(kept))

    def _try_journal(self, leader: Entry) -> OSError | None:
        pauses = () if self._unavailable else _PAUSES
        for wait in (*pauses, None):
            try:
                self._append(leader)
            except CheckpointLockTimeout as error:
                problem: OSError = error
                break
            except OSError as error:
                problem = error
                if error.errno not in _PASSING or wait is None:
                    break
                log.warning("%s: %s; trying again in %g s", self.path, error, wait)
                pause(wait)
            else:
                if self._unavailable:
                    log.warning("%s can be written again", self.path)
                self._unavailable = False
                return None
        self._unavailable = True
        return problem

    def _append(self, leader: Entry) -> None:
        if not leader.line and self._spill.path is None and not any(entry.line for entry in self._take(leader)):
            return  # closing, and nothing to write
        journal = self._journal
        with journal.lock.held(min(self._lock_timeout, _IMPATIENT) if self._unavailable else self._lock_timeout):
            journal.ensure_current()
            # Only now: who queued while the lock was waited for still shares this sync.
            batch = self._take(leader)
            lines = [entry.line for entry in batch if entry.line]
            sync = any(entry.durable for entry in batch)
            if self._spill.path is not None:
                lines = [*self._spill.lines(), *lines]
            journal.append(lines, sync=sync and journal.durable)
            self._spill.remove()

    def _try_spill(self, lines: list[bytes], problem: OSError) -> OSError | None:
        try:
            place = self._spill.append(self._journal.header_line(), lines)
        except OSError as error:
            log.critical("%s: %d records could not be saved (%s), nor to a spill file (%s); they are kept in memory "
                         "and tried again with the next save", self.path, len(lines), problem, error)
            return problem
        log.error("%s: %s. %d records went to the spill file %s instead; they are read with the journal, and move back "
                  "into it as soon as it can be written", self.path, problem, len(lines), place)
        return None

    def _after_fork_in_child(self) -> None:
        self._mutex = threading.Lock()
        self._queue = deque()
        self._leader = None
        self._spill = _spill.SpillFile(self.path)
        self._journal.after_fork_in_child()


_writers: weakref.WeakSet[CheckpointWriter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
