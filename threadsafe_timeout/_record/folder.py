"""The folder of a run: its events, one line each, and its status. For their owner only."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from threadsafe_timeout._files import keep_out_of_git
from threadsafe_timeout._processes import tree as _tree
from threadsafe_timeout._timing import clock as _clock

__all__ = ["EVENTS", "STATUS", "RunFolder", "start_time"]

EVENTS, STATUS = "events.jsonl", "status.json"
_FILES = {EVENTS, STATUS, f"{STATUS}.part", "stacks.request", "stacks.txt", "stacks.txt.part", "faulthandler.txt"}
_RUN = re.compile(r"\d{8}-\d{6}-\d+(-\d+)?")
_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)

_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode  # `json.dumps` would make one for each line


def start_time(pid: int) -> int | None:
    """When a process began, in ticks of the system: tells it from a later one with its number. None if not known."""
    found = _tree.status(pid) if _tree.HAS_PROC else None
    return None if found is None else found.started


class RunFolder:
    """Raises OSError if it cannot be made, or written to. Used by one thread at a time."""

    def __init__(self, status_dir: str, keep: int) -> None:
        runs = Path(status_dir, "runs")
        try:
            runs.parent.mkdir(parents=True)
        except FileExistsError:
            pass
        else:
            keep_out_of_git(runs.parent)
        runs.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.fromtimestamp(_clock.wall_time())
        self.path = _new_folder(runs, f"{now:%Y%m%d-%H%M%S}-{os.getpid()}")
        self._events = os.open(self.path / EVENTS, _FLAGS | os.O_APPEND | os.O_EXCL, 0o600)
        _lock(self._events)
        _delete_old(runs, keep)

    def append(self, events: Iterable[dict[str, Any]]) -> None:
        """One write for all of them: a run that is killed loses the last line at most."""
        data = b"".join(_line(event) for event in events)
        while data:
            data = data[os.write(self._events, data) :]

    def put_status(self, status: dict[str, Any]) -> None:
        """In the place of what was there: a reader finds the one or the other, whole."""
        unfinished = self.path / f"{STATUS}.part"
        with open(os.open(unfinished, _FLAGS | os.O_TRUNC, 0o600), "wb") as file:
            file.write(_line(status))
        os.replace(unfinished, self.path / STATUS)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._events)


def _line(fields: dict[str, Any]) -> bytes:
    return _encode(fields).encode() + b"\n"


def _new_folder(runs: Path, name: str) -> Path:
    number = 1
    while True:
        path = runs / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(mode=0o700)
            return path
        except FileExistsError:  # this process has recorded one in this second
            number += 1


def _lock(file: int) -> bool:
    """Have it held as long as this process has it open: so that no other one, in a container where our number means
    nothing, takes the run to be over. False if another has."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not on this file system
        pass
    return True


def _delete_old(runs: Path, keep: int) -> None:
    """All runs but the newest `keep`, and never this one; none whose process may be there still, and nothing else."""
    folders = sorted(filter(_is_run, runs.iterdir()), key=lambda one: one.name, reverse=True)
    for folder in folders[max(keep, 1) :]:
        with contextlib.suppress(OSError):  # another process deletes it too, or it is another user's
            if not _may_live(folder):
                for file in list(folder.iterdir()):
                    file.unlink()
                folder.rmdir()


def _is_run(folder: Path) -> bool:
    """Whether it is called like one, and holds what one holds and nothing that somebody has put there."""
    try:
        return (
            _RUN.fullmatch(folder.name) is not None
            and not folder.is_symlink()
            and all(file.name in _FILES and not file.is_dir() for file in folder.iterdir())
        )
    except OSError:  # no folder, or it may not be read
        return False


def _may_live(folder: Path) -> bool:
    try:
        file = os.open(folder / EVENTS, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:  # it is being made, or was left empty by a process that is gone
        return _tree.is_there(int(folder.name.split("-")[2]), None)
    try:
        if not _lock(file):
            return True
    finally:
        os.close(file)
    try:
        status = json.loads((folder / STATUS).read_bytes())
        if status["state"] == "ended":
            return False
        return _tree.is_there(int(status["pid"]), status.get("start_time"))
    except (OSError, ValueError, KeyError, TypeError):  # it has come to no status, or to one that nobody can read
        return _tree.is_there(int(folder.name.split("-")[2]), None)
