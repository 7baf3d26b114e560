"""The body of an answer: what in it is content, and how long the program may wait for its next piece."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from threadsafe_timeout._scopes import deadlines as _deadlines
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout_patches._llm_call import Call, begins, ends

__all__ = ["Body", "Content"]


class Content:
    """Tells content from what only keeps a connection open: comments and pings of an event stream, white space before
    JSON. What is compressed, or of another type, is content."""

    __slots__ = ("_event_stream", "_json", "_line", "_ping", "_return")

    def __init__(self, headers: Any) -> None:
        kind = "" if headers.get("content-encoding") else headers.get("content-type", "")
        self._event_stream = kind.startswith("text/event-stream")
        self._json = kind.startswith("application/json")
        self._line = b""  # the beginning of a line whose end has not come
        self._ping = False  # the event at hand is anthropic's "ping"
        self._return = False  # the last byte was a carriage return

    def is_in(self, chunk: bytes) -> bool:
        if not self._event_stream:
            return bool(chunk.strip()) if self._json else bool(chunk)
        if self._return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._return = chunk.endswith(b"\r")
        lines = re.split(b"\r\n|\r|\n", self._line + chunk)
        self._line = lines[-1][:32]
        found = self._is_content(lines[-1])
        for line in lines[:-1]:
            if not line:
                self._ping = False
            elif line.startswith(b"event:"):
                self._ping = line[6:].strip() == b"ping"
            found = self._is_content(line) or found
        return found

    def _is_content(self, line: bytes) -> bool:
        return not self._ping and line.startswith(b"data:") and bool(line[5:].strip())


class Body:
    """The limits of the body of one answer. What the program takes to read it counts for the total only."""

    __slots__ = ("_call", "_content", "_read_timeout", "_until", "_waited", "_waits_since")

    def __init__(self, call: Call, headers: Any, read_timeout: Callable[[str], Exception]) -> None:
        self._call = call
        self._content = Content(headers)
        self._read_timeout = read_timeout
        self._waited = 0.0  # for content
        self._waits_since = 0.0

    def wait(self) -> _scope.CancelScope | None:
        """The scope for waiting for the next piece; None if the one around the client's whole work will do."""
        call = self._call
        if call.answered:
            begins(call)
        until = call.until if call.answered else math.inf
        if call.idle_content is not None:
            self._waits_since = _clock.monotonic()
            until = min(until, self._waits_since + call.idle_content - self._waited)
        return None if until == math.inf else _deadlines.move_on_at(until, name="LLM call")

    def came(self, chunk: bytes) -> None:
        self.over()
        if self._call.idle_content is not None:
            waited = self._waited + _clock.monotonic() - self._waits_since
            self._waited = 0.0 if self._content.is_in(chunk) else waited

    def over(self) -> None:
        """It is not waited for any more."""
        if self._call.answered:
            ends(self._call)

    def is_late(self) -> Exception:
        call = self._call
        if call.answered and _clock.monotonic() >= call.until:
            return call.used_up()
        why = f"no content for {call.idle_content:g} s (llm_idle_content)"
        return call.timed_out(why) if call.answered else call.attempt_is_late(why, self._read_timeout)

    def pieces(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """Those of `stream`, each in time."""
        iterator = iter(stream)
        try:
            while True:
                scope = self.wait()
                if scope is None:
                    piece = next(iterator, None)
                else:
                    with scope:
                        piece = next(iterator, None)
                    if scope.cancelled_caught:
                        raise self.is_late()
                if piece is None:
                    return
                self.came(piece)
                yield piece
        finally:
            self.over()
            if hasattr(iterator, "close"):
                iterator.close()

    async def pieces_async(self, stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        iterator = aiter(stream)
        try:
            while True:
                scope = self.wait()
                if scope is None:
                    piece = await anext(iterator, None)
                else:
                    with scope:
                        piece = await anext(iterator, None)
                    if scope.cancelled_caught:
                        raise self.is_late()
                if piece is None:
                    return
                self.came(piece)
                yield piece
        finally:
            self.over()
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
