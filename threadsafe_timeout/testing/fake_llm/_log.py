"""The server's log: one JSON line per event, written when it happens; and how to read it back.

Never in it: headers, keys, message texts. A task is named as the runner named it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ConnectionRecord", "LogWriter", "RequestRecord", "ServerLog", "read_log"]


@dataclass(frozen=True)
class RequestRecord:
    """One request, as the server saw it. Instants are the server's monotonic clock, in seconds."""

    id: int
    connection: int
    run: str
    task: str
    behaviour: str
    path: str
    start: float
    wall: float
    late: bool
    """It began after its task's deadline."""
    after_deadline: float | None
    """Seconds between the deadline and the beginning; None if it was not late."""
    end: float | None = None
    """None: still open when the log was read."""
    outcome: str | None = None
    """answered, client_closed, dropped or server_stopped; None: still open."""
    status: int | None = None
    """The HTTP status that was sent; None: none was."""
    bytes: int = 0
    """Bytes of body that were sent."""
    closing: bool = False
    """The answer said that the task is completed."""
    held_after_deadline: float = 0.0
    """Seconds it was open after its task's deadline."""


@dataclass(frozen=True)
class ConnectionRecord:
    """One TCP connection. `task` is the last one that used it."""

    id: int
    opened: float
    closed: float | None = None
    task: str | None = None
    by: str | None = None
    """Who closed it: client or server."""


@dataclass(frozen=True)
class ServerLog:
    """What a log file held when it was read."""

    requests: list[RequestRecord] = field(default_factory=list)
    connections: list[ConnectionRecord] = field(default_factory=list)
    runs: dict[str, float] = field(default_factory=dict)
    """When each run began."""
    stopped: float | None = None
    """When the server stopped; None while it runs (or if it was killed)."""


class LogWriter:
    """Appends events to a file. Each line is one write, so a reader never sees two mixed."""

    def __init__(self, path: str | None) -> None:
        self._fd = -1
        if path == "-":
            self._fd = os.dup(1)
        elif path is not None:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **event: object) -> None:
        if self._fd >= 0:
            os.write(self._fd, json.dumps(event, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _request(start: Mapping[str, Any], end: Mapping[str, Any]) -> RequestRecord:
    return RequestRecord(
        id=start["id"], connection=start["connection"], run=start["run"], task=start["task"],
        behaviour=start["behaviour"], path=start["path"], start=start["t"], wall=start["wall"], late=start["late"],
        after_deadline=start["after_deadline"], end=end.get("t"), outcome=end.get("outcome"), status=end.get("status"),
        bytes=end.get("bytes", 0), closing=end.get("closing", False),
        held_after_deadline=end.get("held_after_deadline", 0.0),
    )


def read_log(path: str | os.PathLike[str]) -> ServerLog:
    """Read a log, also one that is still being written: an unfinished last line is left out."""
    events: dict[str, list[dict[str, Any]]] = {}
    for line in Path(path).read_bytes().split(b"\n")[:-1]:
        event = json.loads(line)
        events.setdefault(event["event"], []).append(event)
    ends = {event["id"]: event for event in events.get("end", ())}
    closes = {event["connection"]: event for event in events.get("close", ())}
    connections = []
    for event in events.get("open", ()):
        close = closes.get(event["connection"], {})
        connections.append(ConnectionRecord(
            event["connection"], event["t"], close.get("t"), close.get("task"), close.get("by")
        ))
    return ServerLog(
        requests=[_request(event, ends.get(event["id"], {})) for event in events.get("start", ())],
        connections=connections,
        runs={event["run"]: event["t"] for event in events.get("run", ())},
        stopped=next((event["t"] for event in events.get("stop", ())), None),
    )
