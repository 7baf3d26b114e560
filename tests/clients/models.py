"""A server with the manners of every model provider that the tests of the clients need, on loopback, and its moods.

It answers in the shape that the path of a request asks for, whole or as a stream.
"""

from __future__ import annotations

import json
import socket
import struct
import zlib
from collections.abc import Callable

from peers import Peer

USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


class Request:
    """One request, read to its end."""

    def __init__(self, peer: Peer, connection: socket.socket) -> None:
        data = peer.request(connection)
        self.came = bool(data)
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.path = lines[0].split(" ")[1] if self.came else ""
        length = int(headers.get("content-length", 0))
        while len(self.body) < length:
            piece = connection.recv(65536)
            if not piece:
                self.came = False
                return
            self.body += piece

    @property
    def stream(self) -> bool:
        if "/api/chat" in self.path:
            return b'"stream": true' in self.body or b'"stream":true' in self.body
        return "stream" in self.path.lower() or b'"stream": true' in self.body or b'"stream":true' in self.body


def _aws_event(kind: str, payload: dict[str, object]) -> bytes:
    """A message of Amazon's event stream: lengths, their checksum, headers, payload, checksum of all."""
    headers = b""
    for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event")):
        headers += struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", len(headers) + len(body) + 16, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack("!I", zlib.crc32(message))


def _answer(path: str) -> dict[str, object]:  # noqa: PLR0911  # a table, of which some keys are parts of a path
    if "enerateContent" in path:
        return {
            "candidates": [{"content": {"role": "model", "parts": [{"text": "fine"}]}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
        }
    if "/messages" in path:
        return {
            "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "fine"}],
            "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
        }  # fmt: skip
    if "/v2/chat" in path:
        return {
            "id": "1", "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": "fine"}]},
        }  # fmt: skip
    if "/api/chat" in path:
        return {"model": "m", "message": {"role": "assistant", "content": "fine"}, "done": True}
    if "/converse" in path:
        return {
            "output": {"message": {"role": "assistant", "content": [{"text": "fine"}]}}, "stopReason": "end_turn",
            "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}, "metrics": {"latencyMs": 1},
        }  # fmt: skip
    if "/invoke" in path:
        return {"content": [{"text": "fine"}]}
    message = {"role": "assistant", "content": "fine"}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}


def _events(path: str) -> tuple[str, list[bytes], bytes]:
    """Content type, the pieces of a whole stream, and what keeps it open without an end."""
    if "/model/" in path:
        said = _aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "fine"}})
        pieces = [said, _aws_event("messageStop", {"stopReason": "end_turn"})]
        return "application/vnd.amazon.eventstream", pieces, b""
    if "/api/chat" in path:
        line = {"model": "m", "message": {"role": "assistant", "content": "fine"}, "done": False}
        end = {**line, "message": {"role": "assistant", "content": ""}, "done": True}
        return "application/x-ndjson", [json.dumps(each).encode() + b"\n" for each in (line, end)], b" "
    if "enerateContent" in path:
        return "text/event-stream", [b"data: " + json.dumps(_answer(path)).encode() + b"\n\n"], b"\n"  # no comments
    if "/v2/chat" in path:
        delta = {"message": {"content": {"text": "fine"}}}
        events: list[dict[str, object]] = [
            {"type": "content-delta", "index": 0, "delta": delta},
            {"type": "message-end", "id": "1", "delta": {"finish_reason": "COMPLETE"}},
        ]
    elif "/messages" in path:
        start = {**_answer(path), "content": [], "stop_reason": None}
        block = {"type": "text", "text": ""}
        events = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "fine"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
        ]
    else:
        choice = {"index": 0, "delta": {"role": "assistant", "content": "fine"}, "finish_reason": None}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        events = [{**chunk, "choices": [choice]}, {**chunk, "choices": [last], "usage": USAGE}]
    pieces = []
    for event in events:
        kind = event.get("type")
        pieces.append((f"event: {kind}\n" if kind else "").encode() + b"data: " + json.dumps(event).encode() + b"\n\n")
    if "/chat/completions" in path:
        pieces.append(b"data: [DONE]\n\n")
    return "text/event-stream", pieces, b": keep-alive\n\n"


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def _begin(connection: socket.socket, kind: str) -> None:
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())


def good(peer: Peer, connection: socket.socket) -> None:
    while (request := Request(peer, connection)).came:
        if request.stream:
            kind, pieces, _ = _events(request.path)
            _begin(connection, kind)
            connection.sendall(b"".join(map(_chunk, pieces)) + b"0\r\n\r\n")
        else:
            body = json.dumps(_answer(request.path)).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)


def hang(peer: Peer, connection: socket.socket) -> None:
    Request(peer, connection)
    peer.until_it_leaves(connection)


def trickle(peer: Peer, connection: socket.socket) -> None:
    """An answer that begins, goes on, and has no content: no read timeout fires."""
    request = Request(peer, connection)
    if not request.stream:
        _begin(connection, "application/json")
        peer.drip(connection, _chunk(b" "))
        return
    kind, _, keep_alive = _events(request.path)
    _begin(connection, kind)
    if keep_alive:
        peer.drip(connection, _chunk(keep_alive))
    else:  # Amazon's has no comments: a message that goes on and on
        prelude = struct.pack("!II", 8_000_000, 0)
        connection.sendall(_chunk(prelude + struct.pack("!I", zlib.crc32(prelude))))
        peer.drip(connection, _chunk(b"x"))


def stall(peer: Peer, connection: socket.socket) -> None:
    """A stream that says one thing, then nothing, for ever."""
    request = Request(peer, connection)
    kind, pieces, _ = _events(request.path)
    _begin(connection, kind)
    for piece in pieces[:-1] or pieces:
        connection.sendall(_chunk(piece))
        if b"fine" in piece:
            break
    peer.until_it_leaves(connection)


def refuse(status: int, headers: str = "") -> Callable[[Peer, socket.socket], None]:
    def refusing(peer: Peer, connection: socket.socket) -> None:
        while Request(peer, connection).came:
            body = b'{"error": {"code": %d, "message": "busy", "status": "UNAVAILABLE"}, "message": "busy"}' % status
            head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)

    return refusing
