"""`http_timeout` for aiohttp: the whole exchange, its redirects and body; the error is `TimeoutError`."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from peers import HEAD, MISBEHAVING, Peer, endless_head, good, silent, unanswered

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, deadline
from threadsafe_timeout._patching import install as _install

pytestmark = pytest.mark.usefixtures("installed")

SOON = 30.0
NONE = aiohttp.ClientTimeout(total=None)


@contextlib.contextmanager
def limit(seconds):
    threadsafe_timeout.install(checkpoint="off", http_timeout=seconds)
    assert not _install.installed().problems
    try:
        yield
    finally:
        threadsafe_timeout.install(checkpoint="off")


async def whole(url):
    async with aiohttp.ClientSession(timeout=NONE) as session, session.get(url) as response:
        return await response.read()


async def in_pieces(url):
    async with aiohttp.ClientSession(timeout=NONE) as session, session.get(url) as response:
        return b"".join([piece async for piece in response.content.iter_any()])


each = pytest.mark.parametrize("get", [whole, in_pieces])


@each
def test_an_exchange_in_time_is_as_it_was(get):
    with Peer(good) as peer, limit(SOON):
        assert asyncio.run(get(peer.url)) == b"good"


@each
@pytest.mark.parametrize("behave", [each for each in MISBEHAVING if each is not endless_head])  # it refuses that by itself
def test_the_total_ends_an_exchange_whatever_the_server_does(get, behave):
    with Peer(behave) as peer, limit(0.3):
        with pytest.raises(TimeoutError, match=r"timed out: http_timeout \(0\.3 s\) passed"):
            asyncio.run(get(peer.url))
        assert peer.connections == 0 or peer.left.acquire(timeout=SOON)


@each
def test_a_connect_that_gets_no_answer_is_in_it(get):
    with unanswered() as address, limit(0.3), pytest.raises(TimeoutError, match="http_timeout"):
        asyncio.run(get(f"http://127.0.0.1:{address[1]}/"))


@each
def test_a_scope_that_ends_first_wins(get):
    async def scoped(url):
        with deadline(0.3):
            return await get(url)

    with Peer(silent) as peer, limit(SOON), pytest.raises(DeadlineExceeded):
        asyncio.run(scoped(peer.url))


def test_a_web_socket_is_no_exchange_that_ends():
    """The answer to its request comes; what is said afterwards may take as long as it takes."""

    def behave(peer, connection):
        import base64
        import hashlib

        head = peer.request(connection)
        key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")).split(b": ")[1]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        peer.stopping.wait(1.0)
        connection.sendall(b"\x81\x04late")
        peer.until_it_leaves(connection)

    async def listen(url):
        async with aiohttp.ClientSession(timeout=NONE) as session, session.ws_connect(url, timeout=aiohttp.ClientWSTimeout(ws_close=0.1)) as socket:
            return (await socket.receive()).data

    with Peer(behave) as peer, limit(0.5):
        assert asyncio.run(listen(peer.url)) == "late"


def test_a_response_that_was_read_is_not_touched_when_its_time_is_up():
    def behave(peer, connection):
        while peer.request(connection):
            connection.sendall(HEAD + b"Content-Length: 4\r\n\r\ngood")

    async def run(url):
        async with aiohttp.ClientSession(timeout=NONE) as session:
            response = await session.get(url)
            await response.content.wait_eof()
            await asyncio.sleep(0.4)
            return await response.read()

    with Peer(behave) as peer, limit(0.3):
        assert asyncio.run(run(peer.url)) == b"good"
