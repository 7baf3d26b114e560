"""HTTP in scopes, client by client: the total is bounded at whatever point the server goes wrong; the connection is
closed and not used again; the client stays usable."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import sys
import threading
import time
import urllib.request

import httpx
import httpx2
import pytest
import requests
import urllib3
from peers import CERTIFICATE, MISBEHAVING, Peer, bad_then_good, good, mute, silent, unanswered

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline

pytestmark = pytest.mark.usefixtures("installed")

SOON = 120.0  # generous: what is asserted is that the call ended, not how fast


class HttpClient:
    """`http.client`: a connection object is used again after it was closed."""

    def __init__(self, url, context):
        host = url.split("/")[2]
        self.connection = http.client.HTTPSConnection(host, context=context) if context else http.client.HTTPConnection(host)

    def get(self, url):
        try:
            self.connection.request("GET", "/")
            with self.connection.getresponse() as answer:
                return answer.read()
        except BaseException:
            self.connection.close()  # the protocol is the caller's to keep; what is shown is that he can
            raise

    def close(self):
        self.connection.close()


class Urllib:
    def __init__(self, url, context):
        self.context = context

    def get(self, url):
        with urllib.request.urlopen(url, context=self.context) as answer:
            return answer.read()

    def close(self):
        pass


class Urllib3:
    def __init__(self, url, context):
        self.pool = urllib3.PoolManager(ssl_context=context, retries=5, timeout=None)

    def get(self, url):
        return self.pool.request("GET", url).data

    def close(self):
        self.pool.clear()


class Requests:
    def __init__(self, url, context):
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = str(CERTIFICATE)

    def get(self, url):
        return self.session.get(url, timeout=None).content

    def close(self):
        self.session.close()


class Httpx:
    module = httpx

    def __init__(self, url, context):
        self.client = self.module.Client(verify=context or True, timeout=None, trust_env=False)

    def get(self, url):
        return self.client.get(url).content

    def close(self):
        self.client.close()


class Httpx2(Httpx):
    module = httpx2


@contextlib.contextmanager
def deadline_after(began):
    """A scope whose deadline is a moment after the server has reached the point where it goes wrong."""
    scope = deadline(60)

    def bring_forward():
        began.wait(120)
        scope.deadline = time.monotonic() + 0.02

    thread = threading.Thread(target=bring_forward)
    thread.start()
    try:
        yield scope
    finally:
        began.set()
        thread.join(120)


CLIENTS = [HttpClient, Urllib, Urllib3, Requests, Httpx, Httpx2]


@contextlib.contextmanager
def client_of(kind, url):
    import ssl

    context = ssl.create_default_context(cafile=CERTIFICATE) if url.startswith("https") else None
    with contextlib.closing(kind(url, context)) as client:
        yield client


@pytest.mark.parametrize("behave", MISBEHAVING)
@pytest.mark.parametrize("kind", CLIENTS)
def test_the_total_is_bounded_whatever_the_server_does(kind, behave):
    with Peer(behave) as peer, client_of(kind, peer.url) as client:
        with deadline_after(peer.began) as scope, pytest.raises(DeadlineExceeded), scope:
            client.get(peer.url)
        assert peer.left.acquire(timeout=SOON), "the connection is closed while the client lives on"
        assert peer.connections == 1, "and no other attempt was made"


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_connect_that_gets_no_answer_is_bounded(kind):
    with unanswered() as address:
        url = f"http://127.0.0.1:{address[1]}/"
        with client_of(kind, url) as client, pytest.raises(DeadlineExceeded), deadline(0.05):
            client.get(url)


@pytest.mark.parametrize("kind", CLIENTS)
def test_tls_is_bounded(kind):
    with Peer(mute) as peer:
        url = peer.url.replace("http:", "https:")
        with client_of(kind, url) as client:
            with deadline_after(peer.began) as scope, pytest.raises(DeadlineExceeded), scope:
                client.get(url)
            assert peer.left.acquire(timeout=SOON)
    with Peer(silent, tls=True) as peer, client_of(kind, peer.url) as client:
        with deadline_after(peer.began) as scope, pytest.raises(DeadlineExceeded), scope:
            client.get(peer.url)
        assert peer.left.acquire(timeout=SOON)
        assert peer.requests == 1


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("kind", CLIENTS)
def test_cancelled_from_another_thread_it_ends_and_the_client_stays_usable(kind, tls):
    with Peer(bad_then_good, tls=tls) as peer, client_of(kind, peer.url) as client:
        scope = CancelScope()

        def cancel():
            peer.began.wait(120)
            scope.cancel("enough")

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with scope:
            client.get(peer.url)
        canceller.join(120)
        assert scope.cancelled_caught
        assert peer.left.acquire(timeout=SOON)
        assert client.get(peer.url) == b"good"
        with deadline(60):
            assert client.get(peer.url) == b"good"
        assert peer.connections >= 2, "the connection that was cancelled is not used again"


@pytest.mark.parametrize("kind", CLIENTS)
def test_in_a_scope_with_time_left_a_connection_is_kept_alive(kind):
    with Peer(good) as peer, client_of(kind, peer.url) as client:
        for _ in range(3):
            with deadline(60):
                assert client.get(peer.url) == b"good"
        assert peer.connections == (3 if kind is Urllib else 1)


@pytest.mark.parametrize("module", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_waiting_for_a_free_connection_is_bounded(module):
    with Peer(bad_then_good) as peer, module.Client(
        timeout=None, limits=module.Limits(max_connections=1), trust_env=False
    ) as client:
        scope = CancelScope()

        def hold():
            with scope:
                client.get(peer.url)

        holder = threading.Thread(target=hold)
        holder.start()
        assert peer.began.wait(120)
        with pytest.raises(DeadlineExceeded), deadline(0.05):
            client.get(peer.url)
        scope.cancel("let go")
        holder.join(120)
        assert client.get(peer.url).content == b"good", "the place in the pool is free again"


def test_waiting_for_a_free_connection_of_requests_is_bounded():
    with Peer(bad_then_good) as peer, requests.Session() as session:
        session.trust_env = False
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=1, pool_block=True))
        scope = CancelScope()

        def hold():
            with scope:
                session.get(peer.url)

        holder = threading.Thread(target=hold)
        holder.start()
        assert peer.began.wait(120)
        with pytest.raises(DeadlineExceeded), deadline(0.05):
            session.get(peer.url)
        scope.cancel("let go")
        holder.join(120)
        assert session.get(peer.url).content == b"good", "the place in the pool is free again"


def unavailable(peer, connection):
    while peer.request(connection):
        connection.sendall(b"HTTP/1.1 503 Unavailable\r\nRetry-After: 1000\r\nContent-Length: 0\r\n\r\n")
        peer.began.set()


def test_the_retries_and_the_back_off_of_urllib3_are_bounded():
    retries = urllib3.Retry(10, status_forcelist=[503], respect_retry_after_header=True)
    with Peer(unavailable) as peer, urllib3.PoolManager(retries=retries) as pool:
        with deadline_after(peer.began) as scope, pytest.raises(DeadlineExceeded), scope:
            pool.request("GET", peer.url)
        assert peer.requests == 1


def through_and_silent(peer, connection):
    """A proxy that opens a tunnel to nowhere: the TLS handshake gets no answer."""
    peer.request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    peer.until_it_leaves(connection)


@pytest.mark.parametrize("module", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_a_tunnel_that_leads_nowhere_keeps_no_place_in_the_pool(module):
    options = {"timeout": None, "limits": module.Limits(max_connections=1), "trust_env": False}

    async def run(peer):
        async with module.AsyncClient(proxy=peer.url, **options) as client:
            for _ in range(2):
                peer.began.clear()
                with deadline_after(peer.began) as scope, pytest.raises(DeadlineExceeded):
                    with scope:
                        await client.get("https://127.0.0.1:1/")
                assert await asyncio.to_thread(peer.left.acquire, timeout=SOON)

    with Peer(through_and_silent) as peer, module.Client(proxy=peer.url, **options) as client:
        for _ in range(2):
            peer.began.clear()
            with deadline_after(peer.began) as scope, pytest.raises(DeadlineExceeded), scope:
                client.get("https://127.0.0.1:1/")
            assert peer.left.acquire(timeout=SOON)
        asyncio.run(run(peer))


@pytest.mark.parametrize("behave", MISBEHAVING)
@pytest.mark.parametrize("module", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_async_the_total_is_bounded_and_the_client_stays_usable(module, behave):
    async def run(peer, fine):
        async with module.AsyncClient(timeout=None, trust_env=False, limits=module.Limits(max_connections=1)) as client:
            with deadline_after(peer.began) as scope, pytest.raises(DeadlineExceeded):
                with scope:
                    await client.get(peer.url)
            assert await asyncio.to_thread(peer.left.acquire, timeout=SOON), "closed while the client lives on"
            assert (await client.get(fine.url)).content == b"good"

    with Peer(behave) as peer, Peer(good) as fine:
        asyncio.run(run(peer, fine))


@pytest.mark.parametrize("module", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_async_connecting_shaking_hands_and_waiting_for_a_connection_are_bounded(module):
    async def ask(client, url, scope):
        with pytest.raises(DeadlineExceeded):
            with scope:
                await client.get(url)

    async def run(address, deaf, peer):
        async with module.AsyncClient(timeout=None, trust_env=False, limits=module.Limits(max_connections=1)) as client:
            await ask(client, f"http://127.0.0.1:{address[1]}/", deadline(0.05))
            with deadline_after(deaf.began) as scope:
                await ask(client, deaf.url.replace("http:", "https:"), scope)
            assert await asyncio.to_thread(deaf.left.acquire, timeout=SOON)
            holder = asyncio.create_task(client.get(peer.url))
            await asyncio.to_thread(peer.began.wait, SOON)
            await ask(client, peer.url, deadline(0.05))
            holder.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holder
            assert (await client.get(peer.url)).content == b"good"

    with unanswered() as address, Peer(mute) as deaf, Peer(bad_then_good) as peer:
        asyncio.run(run(address, deaf, peer))


def test_what_is_protected_exists():
    """An interrupt must not pass through the modules that are protected by name."""
    from threadsafe_timeout._introspection.transparent import _PROTECTED_MODULES, is_protected

    for name in _PROTECTED_MODULES:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
            frame = sys._getframe()
            inside = eval("(lambda get: get())", {"__name__": name})(sys._getframe)
            assert is_protected(inside)
            assert not is_protected(frame)
