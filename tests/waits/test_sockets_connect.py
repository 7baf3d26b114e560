"""Connecting in scopes: it ends with the scope, and leaves no socket open."""

from __future__ import annotations

import _socket
import errno
import os
import socket
import threading

import pytest
from peers import unanswered
from socket_pairs import SOON, pair
from threadsafe_timeout_patches.socket import _METHODS

from threadsafe_timeout import DeadlineExceeded, deadline
from threadsafe_timeout._scopes import registration as _registration

pytestmark = pytest.mark.usefixtures("installed")


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
