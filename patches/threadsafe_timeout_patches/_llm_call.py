"""One call of an LLM client: what it may take in total, and how that holds for its attempts and its body.

The clients of openai and anthropic are made by one generator: both have a `request` that tries, backs off and tries
again, on httpx or httpx2. A client's own `timeout` is per read and per attempt. Here:

- `llm_timeout` is the total, from the call to the last byte of the answer: retries and back-off are in it, and so is
  the body of a stream, until it is exhausted or closed. A stream that the program itself reads slowly uses it up, too.
- `llm_first_byte` ends an attempt that has no answer begun after so many seconds, `llm_idle_content` one whose body
  has no content for so long. Both are to the client what its own read timeout is: it may try again. Once it has handed
  a stream to the program it cannot, and the error is raised there.
- An attempt is not waited for if the wait is longer than what is left: of the total, or of a scope around.
- The error is the client's own timeout class. A scope around that ends first wins.
- Inside a scope the guard looks at the conversation that is sent and at the answer: see `_guard.client`.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from threadsafe_timeout import _clock, _scope
from threadsafe_timeout._guard.client import guard_of_request
from threadsafe_timeout._install import Patching
from threadsafe_timeout._settings import settings

__all__ = ["Body", "Call", "Content", "current", "patch_client"]

_Wrapped = Callable[..., Any]
_Arguments = tuple[Any, ...]
_current: ContextVar[Call | None] = ContextVar("threadsafe_timeout_llm_call", default=None)
current = _current.get


class Call:
    """The limits of one call."""

    __slots__ = ("_error", "_request", "answered", "first_byte", "idle_content", "limit", "until", "why")

    def __init__(self, error: type[Exception], request: Callable[[], Any]) -> None:
        limits = settings()
        self._error = error
        self._request = request
        self.limit = limits.llm_timeout
        self.first_byte = limits.llm_first_byte
        self.idle_content = limits.llm_idle_content
        self.until = math.inf
        self.answered = False  # the client has returned: what comes now is read by the program
        self.why: str | None = None  # the present attempt was ended, because

    @property
    def has_only_a_total(self) -> bool:
        """Whether the scope around the client's whole work is all that is needed, until it returns."""
        return self.first_byte is None and self.idle_content is None

    def scope(self) -> _scope.CancelScope:
        return _scope.move_on_after(self.limit, name="LLM call")

    def timed_out(self, why: str) -> Exception:
        """The client's own timeout error. Its text decides what runners do: "timed out" they give up on."""
        error = self._error(request=self._request())  # type: ignore[call-arg]  # of openai's and anthropic's class
        return explained(error, why)

    def used_up(self) -> Exception:
        return self.timed_out(f"it took more than {self.limit:g} s in total (llm_timeout)")

    def attempt_is_late(self, why: str, read_timeout: Callable[[str], Exception]) -> Exception:
        self.why = why
        return read_timeout(f"timed out: {why}")


def explained(error: Exception, why: str) -> Exception:
    text = f"Request timed out: {why}."
    error.message = text  # type: ignore[attr-defined]  # where both classes keep it
    error.args = (text,)
    return error


def patch_client(module: ModuleType, patching: Patching) -> None:
    """Patch `_base_client` of openai or anthropic."""
    http = getattr(module, "httpx2", None) or module.httpx

    def begin(client: Any) -> Call:
        # No header and no body: only where the request went.
        return Call(module.APITimeoutError, lambda: http.Request("POST", str(client.base_url)))

    def request(wrapped: _Wrapped, client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        call = begin(client)
        guard = None if _scope.current_scope() is None else guard_of_request(_body(args, kwargs))
        if guard is not None:
            guard.asks(_body(args, kwargs))
        around = current()
        _current.set(call)
        try:
            with call.scope() as scope:
                call.until = scope.deadline
                answer = wrapped(*args, **kwargs)
                call.answered = True
                if guard is not None:
                    guard.answered(answer)
                return answer
        except module.APITimeoutError as exc:
            if call.why is not None:
                explained(exc, call.why)
            raise
        finally:
            _current.set(around)  # not a reset: see the core's _scope._MAY_RESET
        raise call.used_up()

    async def request_async(wrapped: _Wrapped, client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        call = begin(client)
        guard = None if _scope.current_scope() is None else guard_of_request(_body(args, kwargs))
        if guard is not None:
            guard.asks(_body(args, kwargs))
        around = current()
        _current.set(call)
        try:
            with call.scope() as scope:
                call.until = scope.deadline
                answer = await wrapped(*args, **kwargs)
                call.answered = True
                if guard is not None:
                    guard.answered(answer)
                return answer
        except module.APITimeoutError as exc:
            if call.why is not None:
                explained(exc, call.why)
            raise
        finally:
            _current.set(around)  # not a reset: see the core's _scope._MAY_RESET
        raise call.used_up()

    patching.wrap_object(module.SyncAPIClient, "request", request)
    patching.wrap_object(module.AsyncAPIClient, "request", request_async)
    patching.wrap_object(module.BaseClient, "_calculate_retry_timeout", _back_off)


def _body(args: _Arguments, kwargs: dict[str, Any]) -> Any:
    """What a client's `request(cast_to, options, …)` is to send."""
    options = args[1] if len(args) > 1 else kwargs.get("options")
    return getattr(options, "json_data", None)


def _back_off(wrapped: _Wrapped, client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    """How long the client waits before its next attempt; raises if that is more than is left."""
    seconds = wrapped(*args, **kwargs)
    call = current()
    left = _scope.time_remaining()
    if call is None or left == math.inf:
        return seconds
    headers = args[2] if len(args) > 2 else kwargs.get("response_headers")
    asked = client._parse_retry_after_header(headers)  # the client itself disregards a long one, and asks in vain
    if asked is not None and asked > left:
        raise call.timed_out(f"the server asks to wait {asked:.0f} s (Retry-After), and only {left:.1f} s are left")
    if seconds >= left:
        raise call.timed_out(f"the next attempt would be in {seconds:.1f} s, and only {left:.1f} s are left")
    return seconds


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
        until = call.until if call.answered else math.inf
        if call.idle_content is not None:
            self._waits_since = _clock.monotonic()
            until = min(until, self._waits_since + call.idle_content - self._waited)
        return None if until == math.inf else _scope.move_on_at(until, name="LLM call")

    def came(self, chunk: bytes) -> None:
        if self._call.idle_content is not None:
            waited = self._waited + _clock.monotonic() - self._waits_since
            self._waited = 0.0 if self._content.is_in(chunk) else waited

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
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
