"""Sockets and TLS in scopes: every call that blocks ends with the scope, and outside scopes all is as it was."""

from __future__ import annotations

import _socket
import contextlib
import errno
import functools
import io
import os
import socket
import ssl
import threading
import time

import pytest
from peers import CERTIFICATE, Peer, mute, unanswered
from threadsafe_timeout_patches.socket import _METHODS

import threadsafe_timeout
from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, move_on_after
from threadsafe_timeout._scopes import registration as _registration

SOON = 120.0  # generous: what is asserted is that the call ended, not how fast


@pytest.fixture(autouse=True, scope="module")
def installed():
    with threadsafe_timeout.patched(checkpoint="off"):
        yield


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
SEND = {
    "send": lambda sock, file: sock.send(b"x" * 10_000_000),
    "sendall": lambda sock, file: sock.sendall(b"x" * 10_000_000),
    "sendmsg": lambda sock, file: sock.sendmsg([b"x" * 10_000_000]),
    "sendfile": lambda sock, file: sock.sendfile(file),
}


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("call", RECEIVE)
def test_receiving_ends_with_the_scope(call, timeout):
    with pair() as (mine, theirs):
        mine.settimeout(timeout)
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            RECEIVE[call](mine)
        assert mine.gettimeout() == timeout
        if call != "recv all":  # the one that blocks in spite of readiness: its connection was shut down
            theirs.sendall(b"0123456789")
            assert mine.recv(120) == b"0123456789", "the connection is as good as before"


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("call", SEND)
def test_sending_ends_with_the_scope(call, timeout, tmp_path):
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    with pair() as (mine, _theirs), open(tmp_path / "file", "rb") as file:
        fill(mine)
        mine.settimeout(timeout)
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            SEND[call](mine, file)


def test_in_a_scope_a_call_that_need_not_wait_is_as_it_was():
    with deadline(60), pair() as (mine, theirs):
        assert mine.send(b"abc") == 3
        assert theirs.recv(2) == b"ab"
        buffer = bytearray(2)
        assert theirs.recv_into(buffer) == 1
        assert buffer == b"c\0"
        received = []
        reader = threading.Thread(target=lambda: received.append(theirs.recv(3_000_000, socket.MSG_WAITALL)))
        reader.start()
        assert mine.send(b"x" * 3_000_000) == 3_000_000, "a blocking send returns when all is sent"
        reader.join(120)
        assert len(received[0]) == 3_000_000
        mine.close()
        assert theirs.recv(1) == b""
        with pytest.raises(OSError, match="Bad file descriptor"):
            mine.recv(1)


def test_the_sockets_own_timeout_keeps_its_meaning():
    with deadline(60), pair() as (mine, _theirs):
        mine.settimeout(0.02)
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            mine.recv(1)
        fill(mine)
        mine.settimeout(0.02)
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            mine.send(b"x")
    with deadline(60), unanswered() as address, socket.socket() as sock:
        sock.settimeout(0.02)
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            sock.connect(address)


def test_a_socket_that_never_blocks_is_not_touched_not_even_in_a_cancelled_scope():
    with pair() as (mine, theirs), CancelScope() as scope:
        scope.cancel()
        mine.setblocking(False)
        with pytest.raises(BlockingIOError):
            mine.recv(1)
        assert mine.send(b"x") == 1
        theirs.setblocking(False)
        assert theirs.recv(1) == b"x"
    assert not scope.cancelled_caught


@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_file_whose_read_was_cancelled_is_not_read_again(buffering):
    # What had come of it is gone with the buffer: the rest must not pass for the whole.
    with pair() as (mine, theirs), mine.makefile("rb", buffering) as file:
        theirs.sendall(b"hel")
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            file.readline()
        theirs.sendall(b"lo\n")
        with pytest.raises(OSError, match="cannot read from timed out object"):
            file.readline()
        with mine.makefile("rb") as another:
            assert another.readline() == b"lo\n", "the socket is as good as before"


def unconnected():
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


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


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("call", [*ANSWERED_AT_ONCE, "recvfrom of less", "recvfrom_into of less"])
def test_what_does_not_wait_outside_does_not_wait_in_a_scope(call, timeout):
    calls = {
        **ANSWERED_AT_ONCE,
        "recvfrom of less": lambda sock: sock.recvfrom(-1),
        "recvfrom_into of less": lambda sock: sock.recvfrom_into(bytearray(2), -1),
    }
    with pair() as (mine, _theirs):
        mine.settimeout(timeout)
        expected = outcome(lambda: calls[call](mine))
        with deadline(SOON):
            assert outcome(lambda: calls[call](mine)) == expected


def test_a_datagram_of_which_nothing_is_read_is_waited_for():
    with pair(socket.SOCK_DGRAM) as (mine, theirs):
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            mine.recvfrom(0)
        theirs.send(b"x")
        with deadline(60):
            assert mine.recvfrom(0)[0] == b""


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("call", ["send", "sendall", "sendmsg"])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_whole_messages_is_as_good_after_sending_was_cancelled(kind, call, timeout):
    with pair(kind) as (mine, theirs):
        mine.settimeout(timeout)
        data = [b"x"] if call == "sendmsg" else b"x"
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            while True:
                getattr(mine, call)(data)
        assert mine.gettimeout() == timeout
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.recv(120)
        with deadline(60):
            getattr(mine, call)(data)
        assert theirs.recv(120) == b"x"


def test_a_datagram_socket_is_as_good_after_receiving_all_was_cancelled():
    with pair(socket.SOCK_DGRAM) as (mine, theirs):
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            mine.recv(10, socket.MSG_WAITALL)
        theirs.send(b"x")
        with deadline(60):
            assert mine.recv(10, socket.MSG_WAITALL) == b"x"


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("call", ["sendto", "sendto with flags", "sendmsg"])
def test_sending_to_a_unix_socket_whose_queue_is_full(call, timeout, tmp_path):
    path = os.path.relpath(tmp_path / "socket")
    calls = {
        "sendto": lambda sock: sock.sendto(b"x", path),
        "sendto with flags": lambda sock: sock.sendto(b"x", 0, path),
        "sendmsg": lambda sock: sock.sendmsg([b"x"], [], 0, path),
    }
    with unconnected() as mine, unconnected() as theirs:
        theirs.bind(path)
        mine.settimeout(timeout)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), deadline(0.1):
            while True:
                calls[call](mine)
        assert time.monotonic() - began < SOON
        reader = threading.Timer(0.02, theirs.recv, [10])
        reader.start()
        with deadline(60):
            assert calls[call](mine) == 1, "sent as soon as there is room"
        reader.join()


def test_the_timeout_of_a_socket_that_sends_to_a_full_unix_socket(tmp_path):
    path = os.path.relpath(tmp_path / "socket")
    with unconnected() as mine, unconnected() as theirs:
        theirs.bind(path)
        mine.settimeout(0.02)
        with deadline(60), pytest.raises(TimeoutError, match=r"^timed out$"):
            while True:
                mine.sendto(b"x", path)


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("arguments", [(), (2,), (0, 4), (2, 4)])
def test_sendfile_sends_the_same_and_leaves_the_file_at_the_same_place(arguments, timeout, tmp_path):
    def send():
        with pair() as (mine, theirs), open(tmp_path / "file", "rb") as file:
            mine.settimeout(timeout)
            file.seek(5)
            return mine.sendfile(file, *arguments), theirs.recv(100), file.tell()

    (tmp_path / "file").write_bytes(b"0123456789")
    expected = send()
    with deadline(60):
        assert send() == expected


def test_sendfile_of_what_is_no_file():
    with deadline(60), pair() as (mine, theirs):
        assert mine.sendfile(io.BytesIO(b"0123"), 1) == 3
        assert theirs.recv(120) == b"123"


def receive_at_once(sock):
    """What another process would get: the socket's own timeout is not looked at."""
    duplicate = _socket.socket(fileno=os.dup(sock.fileno()))
    try:
        return [duplicate.recv(10, socket.MSG_DONTWAIT)]
    except BlockingIOError:
        return []
    finally:
        duplicate.close()


def losing_a_race(sock, name, take):
    """`sock.name`, but whenever it is about to be called the first times, `take()` was faster."""
    original = getattr(_socket.socket, name)
    times = 3

    def call(receiver, *args):
        nonlocal times
        if times:
            times -= 1
            take()
        return original(receiver, *args)

    return functools.partial(_METHODS[name](call), sock)


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_who_loses_the_race_for_a_datagram_does_not_outlast_the_scope(timeout):
    with pair(socket.SOCK_DGRAM) as (mine, theirs):
        theirs.send(b"x")
        mine.settimeout(timeout)
        taken = []

        def take():
            taken.extend(receive_at_once(mine))

        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), deadline(0.1):
            losing_a_race(mine, "recv", take)(10)
        assert taken == [b"x"]
        assert time.monotonic() - began < SOON
        assert mine.gettimeout() == timeout


def test_who_loses_the_race_for_a_connection_to_a_listener_with_a_timeout_does_not_outlast_the_scope():
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.settimeout(120)
        stack.enter_context(socket.create_connection(listener.getsockname()))
        taken = []

        def take():
            if not taken:
                descriptor, _ = _socket.socket._accept(listener)
                taken.append(stack.enter_context(socket.socket(fileno=descriptor)))

        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), deadline(0.1):
            losing_a_race(listener, "_accept", take)()
        assert taken
        assert time.monotonic() - began < SOON


def test_who_loses_a_race_still_has_the_timeout_of_his_own_and_no_longer():
    with pair(socket.SOCK_DGRAM) as (mine, theirs), deadline(60):
        theirs.send(b"x")
        mine.settimeout(0.05)

        with pytest.raises(TimeoutError, match=r"^timed out$"):
            losing_a_race(mine, "recv", lambda: receive_at_once(mine))(10)


def test_a_default_timeout_changes_nothing():
    socket.setdefaulttimeout(30)
    try:
        with pair(socket.SOCK_DGRAM) as (mine, theirs):
            theirs.send(b"x")
            with deadline(60):
                assert mine.recv(120) == b"x"
            with pytest.raises(DeadlineExceeded), deadline(0.03):
                mine.recv(120)
            assert mine.gettimeout() == 30
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.parametrize("call", [*RECEIVE, "accept", "sendto"])
def test_a_descriptor_that_never_blocks_under_a_socket_that_does(call):
    # What socket.fromfd() makes of one.
    with contextlib.ExitStack() as stack:
        if call == "accept":
            sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            attempt = sock.accept
        elif call == "sendto":
            sock, _ = stack.enter_context(pair(socket.SOCK_DGRAM))
            fill(sock)
            attempt = functools.partial(sock.send, b"x")
        else:
            sock, _ = stack.enter_context(pair())
            attempt = functools.partial(RECEIVE[call], sock)
        os.set_blocking(sock.fileno(), False)
        assert sock.gettimeout() is None
        expected = outcome(attempt)
        with deadline(SOON):
            assert outcome(attempt) == expected


def test_accept_ends_with_the_scope_and_the_listener_goes_on():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for timeout in (None, 60):
            listener.settimeout(timeout)
            with pytest.raises(DeadlineExceeded), deadline(0.03):
                listener.accept()
        with socket.create_connection(listener.getsockname()), deadline(60), listener.accept()[0] as accepted:
            assert accepted.getpeername()


def test_a_datagram_socket_goes_on():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            sock.recvfrom(10)
        with deadline(60):
            assert other.sendto(b"", sock.getsockname()) == 0
            assert other.sendto(b"abc", 0, sock.getsockname()) == 3
            assert sock.recvfrom(10)[0] == b""
            assert sock.recv(120) == b"abc"


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("how", ["connect", "connect_ex", "create_connection"])
def test_connect_ends_with_the_scope_and_leaves_no_socket_open(how, timeout):
    with unanswered() as address:
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            if how == "create_connection":
                socket.create_connection(address, timeout)
            else:
                sock = socket.socket()
                sock.settimeout(timeout)
                getattr(sock, how)(address)
    if how != "create_connection":
        assert sock.fileno() == -1


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("how", ["connect", "connect_ex"])
def test_a_scope_that_ends_in_the_moment_in_which_connecting_begins(how, timeout):
    gate = threading.Lock()
    gate.acquire()

    def late(sock, address):
        # In one line: an interrupt would come between two.
        return gate.acquire() and getattr(_socket.socket, how)(sock, address)

    with unanswered() as address, socket.socket() as sock:
        sock.settimeout(timeout)
        with pytest.raises(DeadlineExceeded) as caught, deadline(0.03):
            registration = _registration.on_cancel(gate.release)
            _METHODS[how](late)(sock, address)
        registration.unregister()
    assert caught.value.elapsed < SOON


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_connecting_succeeds_and_fails_as_ever(timeout):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        for connect, result in (("connect", None), ("connect_ex", 0)):
            with socket.socket() as sock, deadline(60):
                sock.settimeout(timeout)
                assert getattr(sock, connect)(address) is result
                assert sock.gettimeout() == timeout
                sock.sendall(b"x")
                with listener.accept()[0] as accepted:
                    assert accepted.recv(1) == b"x"
    with socket.socket() as sock, deadline(60):
        sock.settimeout(timeout)
        with pytest.raises(ConnectionRefusedError) as caught:
            sock.connect(address)
        assert caught.value.errno == errno.ECONNREFUSED
    with socket.socket() as sock, deadline(60):
        assert sock.connect_ex(address) == errno.ECONNREFUSED
    with pytest.raises(OSError, match="Bad file descriptor"), deadline(60):
        sock.connect(address)


def test_connecting_has_a_timeout_of_its_own():
    with unanswered() as address, deadline(60):
        with socket.socket() as sock:
            sock.settimeout(0.02)
            with pytest.raises(TimeoutError, match="timed out"):
                sock.connect(address)
        with socket.socket() as sock:
            sock.settimeout(0.02)
            assert sock.connect_ex(address) == errno.EAGAIN


def test_connecting_to_a_unix_socket_whose_queue_is_full(tmp_path):
    path = os.path.relpath(tmp_path / "socket")  # the full path may be too long for one
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as filler:
        listener.bind(path)
        listener.listen(0)
        filler.connect(path)
        with socket.socket(socket.AF_UNIX) as sock, pytest.raises(DeadlineExceeded), deadline(0.03):
            sock.connect(path)
        with socket.socket(socket.AF_UNIX) as sock, deadline(60):
            listener.accept()[0].close()
            sock.connect(path)
            assert sock.gettimeout() is None


def test_nothing_is_begun_in_a_cancelled_scope():
    with pair() as (mine, theirs):
        theirs.sendall(b"x")
        for call in (lambda: mine.recv(1), lambda: mine.sendall(b"x"), lambda: mine.send(b"x")):
            with pytest.raises(DeadlineExceeded), deadline(0):
                call()


@pytest.mark.parametrize("where", ["recv", "send", "connect", "accept", "tls read", "tls handshake"])
def test_cancelling_from_another_thread_ends_the_call(where):
    scope = CancelScope()
    with contextlib.ExitStack() as stack:
        call = BLOCKED[where](stack)
        blocked = threading.Event()
        canceller = threading.Thread(target=cancel_when_blocked, args=(scope, blocked, threading.get_ident()))
        canceller.start()
        with scope:
            blocked.set()
            call()
        canceller.join(120)
    assert scope.cancelled_caught


def cancel_when_blocked(scope, blocked, ident):
    """Cancel once the thread has been at one instruction of one frame for a while: it waits in C."""
    import sys

    blocked.wait(120)
    pause = threading.Event()
    seen, times = None, 0
    while times < 5:
        pause.wait(0.003)
        frame = sys._current_frames().get(ident)
        at = (id(frame), frame.f_lasti) if frame is not None else None
        seen, times = at, times + 1 if at == seen else 0
    scope.cancel("enough")


def _blocked_send(stack):
    mine, _theirs = stack.enter_context(pair())
    fill(mine)
    return lambda: mine.sendall(b"x" * 1_000_000)


def _blocked_connect(stack):
    address = stack.enter_context(unanswered())
    return lambda: socket.create_connection(address)


def _blocked_handshake(stack):
    peer = stack.enter_context(Peer(mute))
    sock = stack.enter_context(socket.create_connection(peer.address))
    return lambda: ssl.create_default_context(cafile=CERTIFICATE).wrap_socket(sock, server_hostname="localhost")


BLOCKED = {
    "recv": lambda stack: functools.partial(stack.enter_context(pair())[0].recv, 1),
    "send": _blocked_send,
    "connect": _blocked_connect,
    "accept": lambda stack: stack.enter_context(socket.create_server(("127.0.0.1", 0))).accept,
    "tls read": lambda stack: functools.partial(stack.enter_context(tls_pair())[0].recv, 1),
    "tls handshake": _blocked_handshake,
}


# TLS


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_handshake_ends_with_the_scope_and_leaves_no_socket_open(timeout):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    with Peer(mute) as peer, socket.create_connection(peer.address, timeout) as sock:
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            context.wrap_socket(sock, server_hostname="localhost")
        assert peer.left.acquire(timeout=SOON)


@pytest.mark.parametrize("positional", [True, False])
def test_a_handshake_that_blocks_although_the_socket_does_not_ends_with_the_scope(positional):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    with Peer(mute) as peer, socket.create_connection(peer.address) as plain:
        with context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as sock:
            sock.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError), deadline(60):
                sock.do_handshake()
            with pytest.raises(DeadlineExceeded), deadline(0.03):
                sock.do_handshake(True) if positional else sock.do_handshake(block=True)
            assert sock.fileno() == -1


READ_BY_TLS = {"recv into too little", "recv_into of less"}  # as much as there is room for


@pytest.mark.parametrize("call", ["read of nothing", *sorted(ANSWERED_AT_ONCE.keys() - READ_BY_TLS)])
def test_a_tls_read_that_does_not_wait_outside_does_not_wait_in_a_scope(call):
    calls = {**ANSWERED_AT_ONCE, "read of nothing": lambda sock: sock.read(0)}
    with tls_pair() as (mine, _theirs):
        expected = outcome(lambda: calls[call](mine))
        with deadline(SOON):
            assert outcome(lambda: calls[call](mine)) == expected


def test_an_accepting_handshake_ends_with_the_scope():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with socket.create_server(("127.0.0.1", 0)) as listener, context.wrap_socket(listener, server_side=True) as server:
        with socket.create_connection(server.getsockname()), pytest.raises(DeadlineExceeded), deadline(0.03):
            server.accept()


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("call", ["recv", "recv_into", "read", "makefile"])
def test_a_tls_read_that_waits_for_a_record_leaves_the_connection_as_it_was(call, timeout):
    calls = {**RECEIVE, "read": lambda sock: sock.read(10)}
    with tls_pair() as (mine, theirs):
        mine.settimeout(timeout)
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            calls[call](mine)
        theirs.sendall(b"0123456789")
        with deadline(60):
            assert mine.recv(4) == b"0123"
            assert mine.recv(120) == b"456789"


def test_a_tls_read_in_the_middle_of_a_record_ends_with_the_scope():
    with tls_pair() as (mine, theirs):
        raw = os.dup(theirs.fileno())
        with open(raw, "wb", buffering=0) as wire:
            wire.write(b"\x17\x03\x03\x01\x00half")
            with pytest.raises(DeadlineExceeded), deadline(0.03):
                mine.recv(120)


@pytest.mark.parametrize("call", ["send", "sendall", "write"])
def test_a_tls_write_ends_with_the_scope(call):
    with tls_pair() as (mine, _theirs):
        with pytest.raises(DeadlineExceeded), deadline(0.03):
            while True:
                getattr(mine, call)(b"x" * 1_000_000)


def test_unwrapping_ends_with_the_scope():
    with tls_pair() as (mine, _theirs), pytest.raises(DeadlineExceeded), deadline(0.03):
        mine.unwrap()


def test_tls_timeouts_and_non_blocking_tls_are_as_they_were():
    with deadline(60), tls_pair() as (mine, _theirs):
        mine.settimeout(0.02)
        with pytest.raises(TimeoutError, match="The read operation timed out"):
            mine.recv(1)
        mine.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            mine.recv(1)


# What it is built on


def test_waiting_leaves_no_descriptor_behind_and_wakes_nobody_else():
    from threadsafe_timeout_patches import _descriptors

    before = len(_descriptors._spare)
    with pair() as (mine, theirs):
        for _ in range(50):
            with move_on_after(0.001):
                mine.recv(1)
        with move_on_after(60) as scope:
            timer = threading.Timer(0.05, theirs.send, [b"x"])
            timer.start()
            assert mine.recv(1) == b"x", "a wake-up that was used before is not still set"
            timer.join()
        assert not scope.cancel_called
    assert len(_descriptors._spare) <= max(before, 1)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_on_descriptors_of_its_own():
    with pair() as (mine, theirs):
        with move_on_after(0.001):
            mine.recv(1)
        child = os.fork()
        if child == 0:
            try:
                with move_on_after(0.01) as scope:
                    mine.recv(1)
                os._exit(0 if scope.cancelled_caught else 3)
            finally:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with move_on_after(60):
            theirs.send(b"x")
            assert mine.recv(1) == b"x"


def test_a_deadline_ends_the_wait_of_many_threads():
    outcomes = []

    def wait():
        with pair() as (mine, _theirs), move_on_after(0.05) as scope:
            mine.recv(1)
        outcomes.append(scope.cancelled_caught)

    threads = [threading.Thread(target=wait) for _ in range(50)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert outcomes == [True] * 50
    assert time.monotonic() - start < SOON
