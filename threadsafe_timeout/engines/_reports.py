"""In the program: what the process of a task has told, taken up for its events and for the files of the run.

The worker that waits for the process reads, a few times a second. What it reads is only shown: a process that writes
nonsense harms nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, get_args

from threadsafe_timeout._introspection.frames import users_of
from threadsafe_timeout._pool.events import Event, EventKind
from threadsafe_timeout._pool.telling import Away, loop_ended
from threadsafe_timeout._record.doing import Told
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._text import Place

if TYPE_CHECKING:
    from threadsafe_timeout._pool.task import TaskFuture

__all__ = ["Reports"]

_BLOCK = 1 << 16
_KINDS = frozenset(get_args(EventKind))
_BEGINS = os.path.join("engines", "_child.py"), "_answer"
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')


class Reports:
    """What comes from one process."""

    def __init__(self, pipe: Connection, task: TaskFuture | None) -> None:
        self._pipe = pipe
        self._descriptor = pipe.fileno()
        self._task = task
        self._rest = b""
        self._frames: list[Place] = []  # of the thread whose stack is being read, the innermost first
        self.stacks = False  # whether the signal has the stacks written
        self.away = Away()
        os.set_blocking(self._descriptor, False)

    def take(self) -> None:
        """Take up what is there."""
        parts = [self._rest]
        with contextlib.suppress(OSError):
            while part := os.read(self._descriptor, _BLOCK):
                parts.append(part)
        *lines, self._rest = b"".join(parts).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if text.startswith("{"):
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    self._heed(json.loads(text))
            else:
                self._take_stack(text)

    def close(self) -> None:
        self._pipe.close()

    def _heed(self, message: dict[str, Any]) -> None:
        task = self._task
        if "stacks" in message:
            self.stacks = True
            return
        if task is None:
            return
        if "doing" in message:
            worker: Any = _around.workers.get(threading.get_ident())
            if worker is not None and worker.task is task:
                if not isinstance(worker.doing, Told) or worker.doing.number != task._number:
                    worker.doing = Told(task._number)
                worker.doing.take(message["doing"])
            return
        kind, reason = message["event"], message.get("reason")
        where: Place | None = tuple(message["where"]) if message.get("where") else None
        if kind == "loop":
            what, _, detail = str(reason).partition(": ")
            loop_ended(task, what, detail, where)
        elif kind in _KINDS:
            inner = message.get("task")
            text = f"task {inner} of its process: {reason}" if inner else f"in its process: {reason}"
            events, worker_name = task._crew.events, threading.current_thread().name
            events.put(logging.DEBUG, text, Event(
                kind, task._crew.prefix, task._task_name(), task._options.key, worker_name, task.elapsed(), text, where,
                pids=tuple(message.get("pids") or ()),
            ))  # fmt: skip
            events.tell()

    def _take_stack(self, line: str) -> None:
        """A line of what faulthandler writes. The task's thread is the one in which that function called it. (Another
        one may have got the signal.)"""
        match = _FRAME.match(line)
        if match is None:
            self._frames = []
        elif match[1].endswith(_BEGINS[0]) and match[3] == _BEGINS[1]:
            self.away.frames, self.away.where = self._frames[::-1], users_of(self._frames)
        else:
            self._frames.append((match[1], int(match[2]), match[3]))
