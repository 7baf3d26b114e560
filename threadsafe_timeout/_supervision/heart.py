"""How long a program has told nothing of itself."""

from __future__ import annotations

import contextlib
import json
import os
import select
from typing import Any

from threadsafe_timeout._timing import clock as _clock

__all__ = ["Heart"]

_STARTING = 60.0
_STEP = 1.0


class Heart:
    """The supervisor's end of the pipe that `_startup/heartbeat` writes to.

    It counts the time in which the supervisor runs itself: if both were stopped (Ctrl-Z), or the machine was too busy
    for either of them, the program is not to blame.
    """

    def __init__(self, reading: int, stall: float) -> None:
        self.hears = True  # the program has not closed its end
        self.told: list[dict[str, Any]] = []  # what it has had to say
        self._line = b""  # that it has begun to say
        self.reading = reading
        self._stall = stall
        self._still = min(stall - _STARTING, 0.0)  # until its first beat it has at least that long
        self._now = _clock.monotonic()

    @property
    def stalled(self) -> bool:
        return self._still > self._stall

    def forgive(self) -> None:
        self._still = 0.0

    def listen(self, seconds: float) -> None:
        """Wait so long for a beat."""
        if self.hears and select.select([self.reading], [], [], seconds)[0]:
            if data := os.read(self.reading, 4096):
                self._still = 0.0
                self._take(data)
            else:  # it is ending; or it has closed all descriptors, or run another program in its place
                self.hears = False
        before, self._now = self._now, _clock.monotonic()
        self._still += min(self._now - before, _STEP)

    def listen_to_the_end(self) -> None:
        """The program is over; a child of its may still hold the pipe."""
        while self.hears and select.select([self.reading], [], [], 0)[0]:
            self.listen(0)

    def _take(self, data: bytes) -> None:
        """Beats are points, and between them are lines of JSON."""
        if not self._line:
            data = data.lstrip(b".")
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                self.told.append(json.loads(line.lstrip(b".")))
        self._line = self._line if self._line.strip(b".") else b""
