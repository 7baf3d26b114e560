"""TLS in scopes: every call that blocks ends with the scope, and outside scopes all is as it was."""

from __future__ import annotations

import os
import socket
import ssl

import pytest
from peers import CERTIFICATE, Peer, mute
from socket_pairs import ANSWERED_AT_ONCE, RECEIVE, SOON, outcome, tls_pair

from threadsafe_timeout import DeadlineExceeded, deadline

pytestmark = pytest.mark.usefixtures("installed")


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
