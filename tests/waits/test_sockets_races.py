"""Sockets whose calls another thread, another process or another scope comes in between."""

from __future__ import annotations

import _socket
import contextlib
import functools
import os
import socket
import ssl
import threading
import time

import pytest
from peers import CERTIFICATE, Peer, mute, unanswered
from socket_pairs import RECEIVE, SOON, fill, outcome, pair, tls_pair
from threadsafe_timeout_patches.socket import _METHODS

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, move_on_after
from threadsafe_timeout._introspection.frames import current_frames

pytestmark = pytest.mark.usefixtures("installed")


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
    blocked.wait(120)
    pause = threading.Event()
    seen, times = None, 0
    while times < 5:
        pause.wait(0.003)
        frame = current_frames().get(ident)
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
