"""Peers on loopback that misbehave at one point of a connection, plain or with TLS. They end with the test."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

# A key pair made for these tests, good for 127.0.0.1 only; it protects nothing.
CERTIFICATE = Path(__file__).with_name("loopback_tls.pem")

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class Peer:
    """A listener; `behave(peer, connection)` runs in a thread of its own for every connection."""

    def __init__(self, behave: Callable[[Peer, socket.socket], object], *, tls: bool = False) -> None:
        self._behave = behave
        self._context = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(CERTIFICATE)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.address[1]}/"
        self.stopping = threading.Event()
        self.connections = 0
        self.requests = 0
        self.began = threading.Event()  # a connection has reached the point at which this peer misbehaves
        self.left = threading.Semaphore(0)  # released for every connection that its client has closed
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="peer")]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), name="peer's connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            with connection:
                self._behave(self, connection)
        self.left.release()

    def request(self, connection: socket.socket) -> bytes:
        """Read one request without a body to speak of; empty once the client has closed the connection."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return b""
            data += piece
        self.requests += 1
        return data

    def until_it_leaves(self, connection: socket.socket) -> None:
        """Say nothing until the client closes the connection."""
        self.began.set()
        while connection.recv(65536):
            pass

    def drip(self, connection: socket.socket, piece: bytes, pause: float = 0.005) -> None:
        """Send `piece` again and again until the client closes the connection."""
        self.began.set()
        while not self.stopping.wait(pause):
            connection.sendall(piece)

    def close(self) -> None:
        self.stopping.set()
        accepting = self._threads[0]
        _shut_down(self._listener)
        accepting.join(120)  # one more may have been accepted just now
        self._listener.close()
        for thread in self._threads[1:]:
            for _ in range(1200):  # again: a socket that was being wrapped for TLS is another one now
                for sock in list(self._open):
                    _shut_down(sock)
                thread.join(0.1)
                if not thread.is_alive():
                    break

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


@contextlib.contextmanager
def unanswered() -> Iterator[tuple[str, int]]:
    """An address that answers no connect: its listener's queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address


# HTTP, by the point at which it goes wrong.


def silent(peer: Peer, connection: socket.socket) -> None:
    peer.request(connection)
    peer.until_it_leaves(connection)


def half_a_head(peer: Peer, connection: socket.socket) -> None:
    peer.request(connection)
    connection.sendall(HEAD + b"Content-Le")
    peer.until_it_leaves(connection)


def endless_head(peer: Peer, connection: socket.socket) -> None:
    peer.request(connection)
    connection.sendall(HEAD + b"X-Long: ")
    peer.drip(connection, b"x")


def half_a_body(peer: Peer, connection: socket.socket) -> None:
    peer.request(connection)
    connection.sendall(HEAD + b"Content-Length: 100\r\n\r\ndata: half")
    peer.until_it_leaves(connection)


def byte_by_byte(peer: Peer, connection: socket.socket) -> None:
    peer.request(connection)
    connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
    peer.drip(connection, b"x")


def endless_body(peer: Peer, connection: socket.socket) -> None:
    peer.request(connection)
    connection.sendall(HEAD + b"Connection: close\r\n\r\n")
    peer.drip(connection, b"x" * 65536, pause=0.0005)


def keep_alive_comments(peer: Peer, connection: socket.socket) -> None:
    peer.request(connection)
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    peer.drip(connection, b"e\r\n: keep-alive\n\n\r\n")


def good(peer: Peer, connection: socket.socket) -> None:
    while peer.request(connection):
        connection.sendall(HEAD + b"Content-Length: 4\r\n\r\ngood")


def bad_then_good(peer: Peer, connection: socket.socket) -> None:
    """Silent on the first connection, good on the others."""
    if peer.connections == 1:
        silent(peer, connection)
    else:
        good(peer, connection)


def mute(peer: Peer, connection: socket.socket) -> None:
    """For a client that wants to shake hands over TLS."""
    peer.until_it_leaves(connection)


MISBEHAVING = [silent, half_a_head, endless_head, half_a_body, byte_by_byte, endless_body, keep_alive_comments]
