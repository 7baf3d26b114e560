"""In the process of a task: tells the program what the task does.

- Each message is one line of JSON and one write, which is whole or not at all. If the pipe is full, it is dropped: the
  task never waits for the program.
- What the task is in (an LLM call, tools) is told at most four times a second, and not at all if nobody asked.
- On SIGURG faulthandler writes the stacks to the same pipe, also while a call of C holds the GIL.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._introspection import dump_signal as _dump_signal
from threadsafe_timeout._introspection.frames import users_frame
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._record.doing import Doing, Step
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout._pool.events import Event
    from threadsafe_timeout._pool.observer import LLMCall

__all__ = ["PhaseReporter", "Reporter"]

_EVERY = 0.25  # seconds
_LONGEST = 1000  # characters of a text
_MOST = 4096  # bytes that a pipe takes at once or not at all: POSIX has 512 at least, Linux this


class Reporter:
    """What an observer hears, sent to the program."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe  # held: it is closed with the object
        self._descriptor = pipe.fileno()
        self._process = os.getpid()
        os.set_blocking(self._descriptor, False)
        _observer.attach(self)
        if _dump_signal.direct("run", self._descriptor):
            self._send({"stacks": True})

    def end(self) -> None:
        """The task is over."""
        _observer.detach(self)
        _dump_signal.undirect("run")

    def event(self, event: Event) -> None:
        """Something happened to a task of a pool that this task has."""
        self._send({
            "event": event.kind, "task": _short(event.task), "reason": _short(event.reason), "where": event.where,
            "pids": event.pids,
        })  # fmt: skip

    def looped(self, kind: str, detail: str) -> None:
        """A guard has ended a loop."""
        self._send({"event": "loop", "reason": _short(f"{kind}: {detail}"), "where": users_frame(sys._getframe())})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        if len(line) <= _MOST and os.getpid() == self._process:  # not one that was forked from here
            with contextlib.suppress(OSError):
                os.write(self._descriptor, line)


class PhaseReporter(Reporter):
    """The same, with what the task is in."""

    def __init__(self, pipe: Connection) -> None:
        self._doing = Doing(0)
        self._told_at = -_EVERY
        self._due = False  # it is told soon
        self._telling = threading.Lock()  # so that the last message has the last state
        super().__init__(pipe)

    def llm_begins(self, call: LLMCall) -> None:
        self._doing.calls += not call.known
        call.known = True
        self._begins(call, Step(call, 0, _clock.monotonic()))

    def llm_ends(self, call: LLMCall) -> None:
        self._ends(call)

    def tools_begin(self, key: object, searches: int) -> None:
        self._begins(key, Step(None, searches, _clock.monotonic()))

    def tools_end(self, key: object) -> None:
        self._ends(key)

    def end(self) -> None:
        super().end()
        if self._doing.calls or self._told_at >= 0:
            self._tell()

    def _begins(self, key: object, step: Step) -> None:
        self._doing.begins(key, step)
        self._has_changed()

    def _ends(self, key: object) -> None:
        self._doing.ends(key)
        self._has_changed()

    def _has_changed(self) -> None:
        if self._due:
            return
        wait = self._told_at + _EVERY - _clock.monotonic()
        if wait > 0:
            self._due = True
            _timer.call_later(wait, self._tell)
        else:
            self._tell()

    def _tell(self) -> None:
        self._due = False  # before it looks: what changes from here on is told later
        self._told_at = _clock.monotonic()
        with self._telling:
            self._send({"doing": self._doing.told()})


def _short(text: str | None) -> str | None:
    return text if text is None else text[:_LONGEST]
