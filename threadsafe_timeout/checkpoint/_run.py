"""Taking up a run where it was killed, or starting a fresh one: the decision, made once, under the lock."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

from threadsafe_timeout._text import nearest
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint import _disk, _spill
from threadsafe_timeout.checkpoint._format import POISON, STARTED, Key
from threadsafe_timeout.checkpoint._journal import Journal
from threadsafe_timeout.checkpoint._records import Checkpoint, Record, load_checkpoint
from threadsafe_timeout.checkpoint._writer import CheckpointWriter, Mode

__all__ = ["Resume", "check_resume", "check_retry", "finished_records", "open_run"]

log = logging.getLogger("threadsafe_timeout.checkpoint")

STATUSES = ("done", "failed", "timeout", "loop", POISON, "started")
_TYPED = 0.85  # how like one of them a word is that was mistyped; "fail" is a word of somebody's own

Resume = Literal["unfinished", "always", "never"]


def open_run(
    path: str | os.PathLike[str],
    *,
    config: object = None,
    resume: Resume = "unfinished",
    retry: Collection[str] | None = None,
    key: Callable[[Any], Key] | None = None,
    lock_timeout: float = 30.0,
    mode: Mode = "durable",
    default: Callable[[Any], Any] | None = None,
    types: Iterable[type] = (),
) -> tuple[CheckpointWriter, dict[Key, Record]]:
    """Open the journal of a run. Returns its writer, and a dict from key to finished `Record`.

    What happens to a journal that exists already depends on `resume`:

    - `"unfinished"`: a run of the same `config` that did not end is resumed. Any other journal is renamed to
      `<name>.<time>.jsonl`, never overwritten, and a new run starts.
    - `"always"`: the run is resumed even if it ended. Another configuration raises `CheckpointConfigMismatch`.
    - `"never"`: the journal is renamed, and a new run starts.

    `retry` names the statuses that run again; tasks that are `done` never do. None means all others; `()` means none,
    so only tasks without an outcome run; `{"failed"}` runs failed tasks again, but no timeouts and loops. A task that
    `run --supervise` has marked `poison` runs again only if `retry` names that: else `started` raises `TaskPoisoned`
    for it, and so does its future in a pool.

    A damaged journal raises `CheckpointCorrupt`; nothing is discarded. If several processes share a run, let one of
    them call this, and the others open the path with `resume="always"`.
    """
    check_resume(resume)
    check_retry(retry)
    lock_timeout = CheckpointWriter.check(mode, lock_timeout, key, default)
    journal = Journal(path, config=config, durable=mode == "durable")
    _open(journal, resume, lock_timeout)
    writer = CheckpointWriter.on(journal, key=key, lock_timeout=lock_timeout, default=default)
    if retry is not None and POISON in retry:
        writer.past.forgive()
    try:
        loaded = load_checkpoint(journal.path, types=types)
        return writer, finished_records(loaded, retry)
    except BaseException:
        writer.close()
        raise


def check_resume(resume: str) -> None:
    """Raise ValueError for a `resume` that makes no sense."""
    if resume not in ("unfinished", "always", "never"):
        meant = nearest(resume, ("unfinished", "always", "never"))
        raise ValueError(f"resume must be 'unfinished', 'always' or 'never', not {resume!r}{meant}")


def _open(journal: Journal, resume: Resume, lock_timeout: float) -> None:
    with journal.lock.held_to_open(lock_timeout):
        if resume != "always":
            _make_room(journal, resume)
        journal.open()


def _make_room(journal: Journal, resume: Resume) -> None:
    state = journal.state()
    if state is None:
        return
    config, ended = state
    if resume == "unfinished" and not ended and config == journal.config:
        return
    why = "resume='never'" if resume == "never" else "that run ended" if ended else "it had another configuration"
    log.info("%s is kept as %s (%s); a fresh run begins", journal.path, _keep_aside(journal.path), why)


def _keep_aside(path: str) -> str:
    """Rename the journal and its spill files; the new name. Never onto an existing file."""
    stem, suffix = os.path.splitext(path)
    moment = datetime.datetime.fromtimestamp(_clock.wall_time(), datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = f"{stem}.{moment}{suffix}"
    os.link(path, aside)  # unlike a rename, fails if the name is taken
    os.unlink(path)
    for spill in _spill.find(path):
        with contextlib.suppress(OSError):
            _disk.rename(spill, aside + spill[spill.rindex(".spill-"):])
    _disk.sync_directory(os.path.dirname(path))
    return aside


def check_retry(retry: Collection[str] | None) -> None:
    """Refuse what would be ignored: a word that is meant to be one of ours, and `done`, which never runs again.

    Statuses of the program's own are any words; so only what is very near to one of ours is a mistake for it.
    """
    if retry is None:
        return
    if isinstance(retry, str):
        raise TypeError(f"retry is a collection of statuses, not the string {retry!r}: write {{{retry!r}}}")
    if not isinstance(retry, Collection) or not all(isinstance(word, str) for word in retry):
        raise TypeError(f"retry is a collection of statuses, such as {{'failed', 'timeout'}}; got {retry!r}")
    for word in sorted(retry):
        if word == "done":
            raise ValueError("retry names 'done', which never runs again; resume='never' begins afresh")
        meant = "" if word in STATUSES else nearest(word, STATUSES, like=_TYPED)
        if meant:
            raise ValueError(f"retry names the status {word!r}, which nothing is saved with{meant}")


def finished_records(loaded: Checkpoint, retry: Collection[str] | None = None) -> dict[Key, Record]:
    """The records of tasks that need not run again: `done`, or with a status that is not in `retry`.

    None for `retry` means all statuses but `done`.
    """
    check_retry(retry)
    return {
        key: record for key, record in loaded.items()
        if record.status == "done"
        or (record.status != STARTED and retry is not None and record.status not in retry)
    }
