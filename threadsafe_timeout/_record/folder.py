"""The folder of a run: its events, one line each, and its status. For their owner only."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from threadsafe_timeout._processes import tree as _tree
from threadsafe_timeout._timing import clock as _clock

__all__ = ["EVENTS", "STATUS", "RunFolder", "start_time"]

EVENTS, STATUS = "events.jsonl", "status.json"
_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


def start_time(pid: int) -> int | None:
    """When a process began, in ticks of the system: tells it from a later one with its number. None if not known."""
    found = _tree.status(pid) if _tree.HAS_PROC else None
    return None if found is None else found.started


class RunFolder:
    """Raises OSError if it cannot be made, or written to. Used by one thread at a time."""

    def __init__(self, status_dir: str, keep: int) -> None:
        runs = Path(os.path.abspath(status_dir), "runs")
        runs.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.fromtimestamp(_clock.wall_time())
        self.path = _new_folder(runs, f"{now:%Y%m%d-%H%M%S}-{os.getpid()}")
        self._events = os.open(self.path / EVENTS, _FLAGS | os.O_APPEND | os.O_EXCL, 0o600)
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
    return json.dumps(fields, separators=(",", ":"), default=str).encode() + b"\n"


def _new_folder(runs: Path, name: str) -> Path:
    number = 1
    while True:
        path = runs / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(mode=0o700)
            return path
        except FileExistsError:  # this process has recorded one in this second
            number += 1


def _delete_old(runs: Path, keep: int) -> None:
    """All but the newest `keep`; none whose process may be there still."""
    folders = sorted((one for one in runs.iterdir() if one.is_dir()), key=lambda one: one.name, reverse=True)
    for folder in folders[keep:]:
        if not _may_live(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _may_live(folder: Path) -> bool:
    try:
        status = json.loads((folder / STATUS).read_bytes())
        if status["state"] == "ended":
            return False
        pid, started = int(status["pid"]), status.get("start_time")
    except (OSError, ValueError, KeyError, TypeError):
        return False  # it has come to no status, or to one that nobody can read
    if _tree.HAS_PROC:
        return bool(start_time(pid) == started)
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return True
