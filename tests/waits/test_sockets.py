"""Sockets in scopes: every call that blocks ends with the scope, and outside scopes all is as it was."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
import time

import pytest
from blocked import Blocked
from peers import unanswered
from socket_pairs import ANSWERED_AT_ONCE, RECEIVE, SOON, fill, outcome, pair

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline

pytestmark = pytest.mark.usefixtures("installed")
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
        assert not Blocked(file.readline).cancel().returned
        theirs.sendall(b"lo\n")
        with pytest.raises(OSError, match="cannot read from timed out object"):
            file.readline()
        with mine.makefile("rb") as another:
            assert another.readline() == b"lo\n", "the socket is as good as before"


def unconnected():
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


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
