"""One TCP connection: bytes to h11 events, requests to answers, and a client that leaves noticed at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import h11

from threadsafe_timeout.testing.fake_llm import _wire
from threadsafe_timeout.testing.fake_llm._behaviour import Dropped, answer

if TYPE_CHECKING:
    from threadsafe_timeout.testing.fake_llm._server import Exchange, Server

__all__ = ["Connection"]

_LARGEST_BODY = 64 * 2**20
_JSON = ("content-type", "application/json")
_Headers = Iterable[tuple[str, str]]


class Connection(asyncio.Protocol):
    """Serves one request after another, each in an asyncio task that is cancelled when the client goes away."""

    transport: asyncio.Transport
    id: int

    def __init__(self, server: Server) -> None:
        self.server = server
        self.task: str | None = None
        self.closed_by = "client"
        self.exchange: Exchange | None = None
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._answering: asyncio.Task[None] | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.id = self.server.opened(self)

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.exchange is not None:
            self.server.end(self.exchange, "server_stopped" if self.server.stopping else "client_closed")
        if self._answering is not None:
            self._answering.cancel()
        self.server.closed(self)

    # what _behaviour uses

    def send_json(self, status: int, value: object, headers: _Headers = ()) -> None:
        """A whole answer."""
        body = _wire.encode(value)
        self.start(status, [_JSON, ("content-length", str(len(body))), *headers])
        self.finish(body)

    def start(self, status: int, headers: _Headers) -> None:
        if self.exchange is not None:
            self.exchange.status = status
        named = [*headers, ("x-request-id", f"req-{self.exchange.id if self.exchange else 0}")]
        self._write(h11.Response(status_code=status, headers=named))

    def send(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.bytes += len(data)
        self._write(h11.Data(data=data))

    def finish(self, data: bytes) -> None:
        """The last part of an answer. It is logged before it is sent: a client that has it finds it in the log."""
        wire = (self._http.send(h11.Data(data=data)) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        if self.exchange is not None:
            self.exchange.bytes += len(data)
            self.server.end(self.exchange, "answered")
        self.transport.write(wire)

    def abort(self) -> None:
        """Close now, whatever is open."""
        self.closed_by = "server"
        self.transport.abort()

    # requests

    def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self.transport.write(data)

    def _advance(self) -> None:
        """Take what has arrived as far as it goes; the next request waits until this one is answered."""
        try:
            while self._answering is None:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                self._on_event(event)
        except h11.RemoteProtocolError as problem:
            self._refuse(problem.error_status_hint, f"This is not HTTP/1.1: {problem}")
        if self._http.they_are_waiting_for_100_continue and self._answering is None:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))

    def _on_event(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._request = event
            self._body.clear()
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > _LARGEST_BODY:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            assert self._request is not None
            self._answering = self.server.loop.create_task(self._answer(self._request, bytes(self._body)))

    def _refuse(self, status: int, message: str) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.send_json(status, _wire.error(message, "invalid_request_error"), [("connection", "close")])
        self._close()

    def _close(self) -> None:
        self.closed_by = "server"
        self.transport.close()

    async def _answer(self, request: h11.Request, body: bytes) -> None:
        try:
            await self._route(request, body)
        except Dropped:
            if self.exchange is not None:
                self.server.end(self.exchange, "dropped")
            self._close()
            return
        self.exchange = None
        self._answering = None
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._advance()
        else:
            self._close()

    async def _route(self, request: h11.Request, body: bytes) -> None:
        path = request.target.decode("ascii", "replace").partition("?")[0]
        method = request.method.decode("ascii")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        try:
            value: Any = json.loads(body) if body else {}
        except ValueError:
            value = None
        if not isinstance(value, dict):
            self.send_json(400, _wire.error("The body of the request is not a JSON object.", "invalid_request_error"))
            return
        await answer(self, method, path, headers, value)
