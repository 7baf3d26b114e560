"""What the tests of sockets share: two ends, one that is full, and TLS between them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

from peers import CERTIFICATE

SOON = 120.0  # generous: what is asserted is that the call ended, not how fast


@contextlib.contextmanager
def pair(kind=socket.SOCK_STREAM):
    mine, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with mine, theirs:
        yield mine, theirs


@contextlib.contextmanager
def tls_pair():
    """Both ends of a connection over TLS, hands shaken, with nothing left to read on either side."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    server.num_tickets = 0
    client = ssl.create_default_context(cafile=CERTIFICATE)
    mine, theirs = socket.socketpair()
    accepted = []
    thread = threading.Thread(target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True)))
    thread.start()
    with client.wrap_socket(mine, server_hostname="localhost") as ours:
        thread.join(120)
        with accepted[0] as peer:
            yield ours, peer


def fill(sock):
    """Send until the peer's buffers are full."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"x" * 65536)
    sock.setblocking(True)


RECEIVE = {
    "recv": lambda sock: sock.recv(120),
    "recv with flags": lambda sock: sock.recv(10, socket.MSG_PEEK),
    "recv all": lambda sock: sock.recv(10, socket.MSG_WAITALL),
    "recv_into": lambda sock: sock.recv_into(bytearray(10)),
    "recv_into with keywords": lambda sock: sock.recv_into(bytearray(10), nbytes=5, flags=0),
    "recvfrom": lambda sock: sock.recvfrom(10),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(10), 5),
    "recvmsg": lambda sock: sock.recvmsg(10),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(10)], 0),
    "makefile": lambda sock: sock.makefile("rb").read(10),
    "readline": lambda sock: sock.makefile("r").readline(),
}


def outcome(call):
    try:
        return call()
    except Exception as exc:
        return repr(exc)


ANSWERED_AT_ONCE = {
    "recv of nothing": lambda sock: sock.recv(0),
    "recv into nothing": lambda sock: sock.recv_into(bytearray()),
    "recv of less": lambda sock: sock.recv(-1),
    "recv of no number": lambda sock: sock.recv("x"),
    "recv into what cannot be written": lambda sock: sock.recv_into(b"xx"),
    "recv into too little": lambda sock: sock.recv_into(bytearray(2), 3),
    "recv_into of less": lambda sock: sock.recv_into(bytearray(2), -1),
}
