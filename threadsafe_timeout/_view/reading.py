"""Which run is meant, whether it lives, and what its files say.

A run's files are written by another process, which may be in the middle of a line, killed, or of another version:
nothing in them is taken for granted. Keys that are not known are ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from threadsafe_timeout._errors import ThreadsafeTimeoutError
from threadsafe_timeout._processes import tree as _tree
from threadsafe_timeout._settings import load
from threadsafe_timeout._text import shown
from threadsafe_timeout._view.fields import number, whole

__all__ = ["SCHEMA", "EventReader", "NoRunError", "Run", "find_run", "is_alive", "read_run", "runs_in", "status_dir"]

SCHEMA = 1
_DEFAULT_DIR = ".threadsafe_timeout"


class NoRunError(ThreadsafeTimeoutError, LookupError):
    """There is no such run. The text says where was looked, and what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its files show it at one moment.

    - `status`: what status.json holds, with what the first event says where that is missing; not escaped
    - `state`: `running`, `ended`, or `dead`: it did not say that it ended, and its process is gone
    - `since`: when it last wrote its status: for a run that is over, when that was; None if that is not known
    - `problem`: what is to be said about its files, such as a schema that is newer than this reader; or None
    """

    folder: Path
    status: dict[str, Any]
    state: Literal["running", "ended", "dead"]
    since: float | None
    problem: str | None

    @property
    def pid(self) -> int:
        return whole(self.status.get("pid"))


class EventReader:
    """The events of a run, each once. `skipped` counts lines that were no events; `torn` says whether the last line has
    no end yet: it is being written, or was when the run was killed. With `last` those before the last so many bytes are
    left out."""

    def __init__(self, folder: Path, last: int | None = None) -> None:
        self._path = folder / "events.jsonl"
        self._offset = 0
        self._last = last
        self.skipped = 0
        self.torn = False

    def new(self) -> Iterator[dict[str, Any]]:
        """What was added since the last time. Raises PermissionError if it may not be read; no file is no events."""
        try:
            file = open(self._path, "rb")  # noqa: SIM115 - closed below: the `with` is the loop's
        except FileNotFoundError:
            return
        with file:
            if os.fstat(file.fileno()).st_size < self._offset:  # another file than the last time
                self._offset = 0
            self._leave_out(file)
            file.seek(self._offset)
            self.torn = False
            for line in file:
                if not line.endswith(b"\n"):
                    self.torn = True
                    return
                self._offset += len(line)
                event = _object(line)
                if event is None or not isinstance(event.get("kind"), str):
                    self.skipped += 1
                else:
                    yield event

    def _leave_out(self, file: BinaryIO) -> None:
        last, self._last = self._last, None
        if last is not None and (start := os.fstat(file.fileno()).st_size - last) > 0:
            file.seek(start - 1)
            self._offset = start - 1 + len(file.readline())


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def is_alive(status: dict[str, Any]) -> bool:
    """Whether the process of a run is there, and no other one that has been given its number."""
    return _tree.is_there(whole(status.get("pid")), number(status.get("start_time")))


def read_run(folder: Path) -> Run:
    """The run whose files are in `folder`. Raises NoRunError if none are there, PermissionError if they are another
    user's."""
    try:
        status = _object((folder / "status.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        status = None
    first = next(EventReader(folder).new(), None)
    if status is None and first is None:
        raise NoRunError(f"{folder} holds no run: there is neither status.json nor events.jsonl with anything in it")
    found = {**(first or {}), **(status or {})}
    since = number(found.get("t")) if status is not None else _modified(folder / "events.jsonl")
    state: Literal["running", "ended", "dead"] = "ended" if found.get("state") == "ended" else "running"
    if state == "running" and not is_alive(found):
        state = "dead"
    return Run(folder, found, state, since, _problem(status, found))


def _problem(status: dict[str, Any] | None, found: dict[str, Any]) -> str | None:
    schema = number(found.get("schema"))
    if schema is not None and schema > SCHEMA:
        return (f"the run was written by a newer version (schema {schema:g}; this one reads {SCHEMA}): some of it may "
                "be missing here; use the threadsafe-timeout that the run uses")  # fmt: skip
    return "status.json is missing or damaged: only the events are shown" if status is None else None


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def status_dir() -> Path:
    """The folder in which runs of this working directory have theirs. Raises SettingError for a bad setting."""
    return Path(getattr(load()[0], "status_dir", None) or _DEFAULT_DIR)


def runs_in(folder: Path) -> list[Path]:
    """The folders of the runs in a status_dir, the newest first."""
    try:
        found = [one for one in (folder / "runs").iterdir() if one.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda one: one.name, reverse=True)


def find_run(target: str | None = None) -> Run:
    """The run that is meant by a folder (its own, a status_dir, or one that holds a status_dir), by the number of a
    process, or, with None, in this working directory: the newest that lives, else the newest.

    Raises NoRunError, PermissionError, SettingError.
    """
    if target is None:
        return _newest([status_dir()], "in this working directory")
    folder = Path(target)
    if target.isdecimal() and not folder.exists():
        return _of_process(int(target))
    if not folder.is_dir():
        raise NoRunError(f"there is no folder {shown(target)}: give the folder of a run, its status_dir, or its pid")
    if any((folder / name).exists() for name in ("status.json", "events.jsonl")):
        return read_run(folder)
    return _newest([folder, folder / _DEFAULT_DIR], f"for {shown(target)}")


def _newest(places: Iterable[Path], asked: str) -> Run:
    newest = None
    for folder in (one for place in places for one in runs_in(place)):
        try:
            run = read_run(folder)
        except NoRunError:  # one that is being made, or deleted
            continue
        if run.state == "running":
            return run
        newest = newest or run
    if newest is None:
        looked = " and ".join(shown(str(place / "runs")) for place in places)
        raise NoRunError(
            f"no run was found {asked} (looked in {looked}). A run writes its files when its pool gets the first task, "
            "unless the setting status_dir is off: start it with the line `import threadsafe_timeout.auto`, or give "
            "the folder or the pid of a run"
        )
    return newest


def _of_process(pid: int) -> Run:
    """By what the process holds open, wherever that is; else by the names of the folders here."""
    folders = [*_open_in(pid), *(one for one in runs_in(status_dir()) if one.name.endswith(f"-{pid}"))]
    for folder in folders:
        try:
            run = read_run(folder)
        except NoRunError:
            continue
        if run.pid == pid:
            return run
    raise NoRunError(_why_none(pid))


def _open_in(pid: int) -> list[Path]:
    found: dict[Path, None] = {}
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                path = Path(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:  # closed meanwhile
                continue
            if path.name in ("events.jsonl", "faulthandler.txt") and path.parent.parent.name == "runs":
                found[path.parent] = None
    except OSError:  # gone, another user's, or there is no /proc
        pass
    return list(found)


def _why_none(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return f"process {pid} belongs to another user: run this command as that user"
    except (OSError, OverflowError):
        return f"there is no process {pid}, and no run of that number in {shown(str(status_dir() / 'runs'))}"
    return (f"process {pid} has no files of a run: it has not given a pool a task yet, its setting status_dir is off, "
            "or it does not use threadsafe_timeout; if its status_dir is elsewhere, give that folder")  # fmt: skip
