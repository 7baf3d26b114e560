"""The server's state: which run it is, when each task's deadline is, what is logged. And how it runs and ends.

One event loop, one thread: nothing here needs a lock. `loop.time()` is the monotonic clock, the same for every process
of the machine, so a reader can compare the log's instants with its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from dataclasses import dataclass, field
from typing import IO

from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.testing.fake_llm._connection import Connection
from threadsafe_timeout.testing.fake_llm._log import LogWriter
from threadsafe_timeout.testing.fake_llm._mix import Deck, stable_hash
from threadsafe_timeout.testing.fake_llm._options import ServerOptions

__all__ = ["Exchange", "Server", "serve"]

CLASSIFIER_TASK = "classifier"
_BACKLOG = 1024  # a pool of hundreds connects at once


@dataclass
class TaskState:
    """What the server knows of one task in the current run."""

    first: float
    requests: int = 0


@dataclass
class Exchange:
    """One request and its answer."""

    id: int
    connection: int
    run: str
    task: str
    behaviour: str
    ordinal: int
    """Which request of its task in this run: 1 is the first."""
    deadline_at: float | None
    status: int | None = None
    bytes: int = 0
    closing: bool = False
    ended: bool = field(default=False, repr=False)


class Server:
    """The one object all connections share."""

    def __init__(self, options: ServerOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.options = options
        self.loop = loop
        self.deck = Deck(options.mix, options.seed, options.tasks)
        self.pattern = re.compile(options.task_pattern)
        self.log = LogWriter(options.log)
        self.connections: set[Connection] = set()
        self.stopping = False
        self._tasks: dict[str, TaskState] = {}
        self._last_id = 0
        self._last_connection = 0
        self.begin_run("run-1")

    def begin_run(self, name: str) -> float:
        """Restart every task's deadline clock. Requests that are open stay in the run they began in."""
        self.run = name
        self._tasks = {}
        now = self.loop.time()
        self.log.write(event="run", run=name, t=now, wall=_clock.wall_time())
        return now

    def task_in(self, text: str) -> str:
        """The task `text` names; without a name, one made from the text itself."""
        found = self.pattern.search(text)
        return found[1] if found else f"text:{stable_hash(text) % 10**8:08d}"

    def opened(self, connection: Connection) -> int:
        self.connections.add(connection)
        self._last_connection += 1
        self.log.write(event="open", connection=self._last_connection, t=self.loop.time())
        return self._last_connection

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.log.write(event="close", connection=connection.id, t=self.loop.time(), task=connection.task,
                       by=connection.closed_by)

    def begin(self, connection: int, task: str, path: str) -> Exchange:
        """A request of `task` has arrived."""
        now = self.loop.time()
        behaviour, deadline = self.options.classifier, None
        ordinal = 0
        if task == CLASSIFIER_TASK:
            behaviour = "classifier" if behaviour == "good" else behaviour
        else:
            behaviour = self.deck.behaviour(task)
            state = self._tasks.setdefault(task, TaskState(now))
            state.requests += 1
            ordinal = state.requests
            if self.options.deadline is not None:
                deadline = state.first + self.options.deadline
        self._last_id += 1
        late = deadline is not None and now > deadline
        self.log.write(event="start", id=self._last_id, connection=connection, t=now, wall=_clock.wall_time(),
                       run=self.run, task=task, behaviour=behaviour, path=path, late=late,
                       after_deadline=now - deadline if late and deadline is not None else None)
        return Exchange(self._last_id, connection, self.run, task, behaviour, ordinal, deadline)

    def end(self, exchange: Exchange, outcome: str) -> None:
        """The request is over. Only the first call for an exchange counts."""
        if exchange.ended:
            return
        exchange.ended = True
        now = self.loop.time()
        held = 0.0 if exchange.deadline_at is None else max(0.0, now - exchange.deadline_at)
        self.log.write(event="end", id=exchange.id, t=now, outcome=outcome, status=exchange.status,
                       bytes=exchange.bytes, closing=exchange.closing, held_after_deadline=held)

    def stop(self) -> None:
        """Close every connection; what was open is logged as `server_stopped`."""
        self.stopping = True
        for connection in list(self.connections):
            connection.abort()


def _stop_at_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """End when stdin does: its other end is held by the process that started this one, alive or dead."""
    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop.set()

    try:
        loop.add_reader(0, readable)
    except OSError:  # a file or /dev/null, which nobody can wait for: it is at its end
        stop.set()


async def _serve(options: ServerOptions, until_stdin_closes: bool, announce: IO[str]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        _stop_at_eof(loop, stop)
    server = Server(options, loop)
    listener = await loop.create_server(lambda: Connection(server), options.host, options.port, backlog=_BACKLOG)
    address = listener.sockets[0].getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    line = {"port": address[1], "pid": os.getpid(), "base_url": f"http://{host}:{address[1]}/v1"}
    announce.write(json.dumps(line) + "\n")
    announce.flush()
    await stop.wait()
    listener.close()
    server.stop()
    await asyncio.sleep(0)  # connection_lost of the connections just closed
    server.log.write(event="stop", t=loop.time())
    server.log.close()


def serve(options: ServerOptions, *, until_stdin_closes: bool = False, announce: IO[str] | None = None) -> None:
    """Serve until SIGINT, SIGTERM or, if asked, the end of stdin. Says where on `announce` (default: stdout)."""
    asyncio.run(_serve(options, until_stdin_closes, announce or sys.stdout))
