"""`http_timeout`: one HTTP exchange has one total outside scopes, whatever the server does and whichever library sends,
with its redirects, retries and body; the error is the library's own timeout."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
import urllib.request

import httpx2
import pytest
import requests
import urllib3
from paces import at_some_pace
from peers import HEAD, MISBEHAVING, Peer, good, silent, unanswered

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, deadline
from threadsafe_timeout._patching import install as _install

pytestmark = pytest.mark.usefixtures("installed")

SOON = 120.0  # generous: what is asserted is that it ended, not how fast


@contextlib.contextmanager
def limit(seconds, **more):
    threadsafe_timeout.install(checkpoint="off", http_timeout=seconds, **more)
    assert not _install.installed().problems
    try:
        yield
    finally:
        threadsafe_timeout.install(checkpoint="off")


# One way to get a page, for each library and each way to read it; each returns the body


def by_requests(url):
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url).content


def by_requests_stream(url):
    with requests.Session() as session:
        session.trust_env = False
        with session.get(url, stream=True) as response:
            return b"".join(response.iter_content(16))


def by_urllib3(url):
    with urllib3.PoolManager() as pool:
        return pool.request("GET", url, retries=False).data


def by_urllib3_stream(url):
    with urllib3.PoolManager() as pool:
        response = pool.request("GET", url, preload_content=False, retries=False)
        try:
            return b"".join(response.stream(16))
        finally:
            response.close()


def by_http_client(url):
    connection = http.client.HTTPConnection(url.split("/")[2])
    try:
        connection.request("GET", "/")
        with connection.getresponse() as response:
            return response.read()
    finally:
        connection.close()


def by_urllib_request(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as response:
        return response.read()


def by_httpx(url):
    with httpx2.Client(trust_env=False, timeout=None, follow_redirects=True) as client:
        return client.get(url).content


def by_httpx_stream(url):
    with httpx2.Client(trust_env=False, timeout=None) as client, client.stream("GET", url) as response:
        return b"".join(response.iter_bytes())


def by_async_httpx(url):
    async def get():
        async with httpx2.AsyncClient(trust_env=False, timeout=None) as client:
            return (await client.get(url)).content

    return asyncio.run(get())


def by_async_httpx_stream(url):
    async def get():
        async with httpx2.AsyncClient(trust_env=False, timeout=None) as client, client.stream("GET", url) as response:
            return b"".join([piece async for piece in response.aiter_bytes()])

    return asyncio.run(get())


ERRORS = {
    by_requests: requests.exceptions.ReadTimeout,
    by_requests_stream: requests.exceptions.ReadTimeout,
    by_urllib3: urllib3.exceptions.ReadTimeoutError,
    by_urllib3_stream: urllib3.exceptions.ReadTimeoutError,
    by_http_client: TimeoutError,
    by_urllib_request: TimeoutError,
    by_httpx: httpx2.ReadTimeout,
    by_httpx_stream: httpx2.ReadTimeout,
    by_async_httpx: httpx2.ReadTimeout,
    by_async_httpx_stream: httpx2.ReadTimeout,
}
each = pytest.mark.parametrize("get", ERRORS)


def fails(get, url, seconds):
    with pytest.raises(ERRORS[get]) as caught:
        get(url)
    text = str(caught.value)
    assert "timed out" in text
    assert f"http_timeout ({seconds:g} s) passed" in text


def assert_left(peer):
    assert peer.connections == 0 or peer.left.acquire(timeout=SOON), "a connection is still open"


@each
def test_an_exchange_in_time_is_as_it_was(get):
    with Peer(good) as peer, limit(SOON):
        assert get(peer.url) == b"good"


@each
@pytest.mark.parametrize("behave", MISBEHAVING)
def test_the_total_ends_an_exchange_whatever_the_server_does(get, behave):
    with Peer(behave) as peer, limit(0.3):
        fails(get, peer.url, 0.3)
        assert_left(peer)


@each
def test_a_connect_that_gets_no_answer_is_in_it(get):
    with unanswered() as address, limit(0.3):
        fails(get, f"http://127.0.0.1:{address[1]}/", 0.3)


@each
def test_there_is_none_by_default(get):
    def late(peer, connection):
        peer.request(connection)
        peer.stopping.wait(0.5)
        connection.sendall(HEAD + b"Content-Length: 4\r\n\r\ngood")

    assert threadsafe_timeout._settings.settings().http_timeout is None
    with Peer(late) as peer, limit(None, llm_timeout=0.1):
        assert get(peer.url) == b"good"


@each
def test_a_scope_that_ends_first_wins(get):
    with Peer(silent) as peer, limit(SOON), pytest.raises(DeadlineExceeded), deadline(0.3):
        get(peer.url)


@each
def test_it_ends_an_exchange_in_a_scope_that_ends_later(get):
    with Peer(silent) as peer, limit(0.3), deadline(SOON):
        fails(get, peer.url, 0.3)


def redirecting(peer, connection):
    """For ever, each time at once."""
    while peer.request(connection):
        peer.stopping.wait(0.05)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")


def test_redirects_are_in_it():
    with Peer(redirecting) as peer, limit(0.3), requests.Session() as session:
        session.trust_env, session.max_redirects = False, 10_000
        with pytest.raises(requests.exceptions.ReadTimeout, match="http_timeout"):
            session.get(peer.url)


def busy(peer, connection):
    while peer.request(connection):
        connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")


def busy_for_long(peer, connection):
    while peer.request(connection):
        connection.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 3000\r\nContent-Length: 0\r\n\r\n")


def retrying():
    return urllib3.Retry(total=100_000, status_forcelist=[503], backoff_factor=0.01, backoff_max=0.02)


def test_retries_of_urllib3_are_in_it():
    with Peer(busy) as peer, limit(0.4), urllib3.PoolManager(retries=retrying()) as pool:
        with pytest.raises(urllib3.exceptions.ReadTimeoutError, match="timed out"):
            pool.request("GET", peer.url)


def test_a_retry_after_that_is_longer_than_what_is_left_is_not_waited_for():
    """If it were, the test would be over its own time."""
    with Peer(busy_for_long) as peer, limit(50), requests.Session() as session:
        session.trust_env = False
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retrying()))
        with pytest.raises(requests.exceptions.ReadTimeout, match=r"in 3000\.0 s, and only \d+\.\d s are left"):
            session.get(peer.url)
        assert peer.requests == 1


@pytest.mark.parametrize("get", [by_requests_stream, by_urllib3_stream, by_httpx_stream])
def test_what_a_program_takes_to_read_is_in_it(get):
    begun = threading.Event()

    def slow(peer, connection):
        peer.request(connection)
        connection.sendall(HEAD + b"Content-Length: 40\r\n\r\n" + b"x" * 20)
        begun.set()
        peer.until_it_leaves(connection)

    def read(pace):
        with Peer(slow) as peer, limit(0.4 * pace):
            fails(get, peer.url, 0.4 * pace)
            assert begun.is_set()

    at_some_pace(read)


def test_a_connection_goes_back_to_its_pool_and_the_next_exchange_has_a_time_of_its_own():
    with Peer(good) as peer, limit(SOON), requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            assert session.get(peer.url).content == b"good"
        assert peer.connections == 1


def test_each_exchange_of_one_plain_connection_has_a_time_of_its_own():
    def exchange(pace):
        def some(peer, connection):
            for _ in range(3):
                peer.request(connection)
                peer.stopping.wait(0.3 * pace)
                connection.sendall(HEAD + b"Content-Length: 4\r\n\r\ngood")

        with Peer(some) as peer, limit(0.8 * pace):
            with contextlib.closing(http.client.HTTPConnection(*peer.address)) as connection:
                for _ in range(3):
                    connection.request("GET", "/")
                    assert connection.getresponse().read() == b"good"

    at_some_pace(exchange)


def test_an_llm_call_has_llm_timeout_only():
    import openai
    with Peer(silent) as peer, limit(0.05, llm_timeout=0.4), openai.OpenAI(base_url=peer.url, api_key="unused") as client:
        with pytest.raises(openai.APITimeoutError, match=r"llm_timeout"):
            client.models.list()


def test_all_of_it_is_given_back():
    places = [
        (http.client.HTTPConnection, "request"), (http.client.HTTPConnection, "getresponse"),
        (urllib.request.OpenerDirector, "open"), (requests.Session, "send"), (requests.Response, "iter_content"),
        (urllib3.PoolManager, "urlopen"), (urllib3.HTTPConnectionPool, "urlopen"), (urllib3.HTTPResponse, "_error_catcher"),
    ]  # fmt: skip
    patched = [vars(owner)[name] for owner, name in places]
    threadsafe_timeout.uninstall()
    try:
        originals = [vars(owner)[name] for owner, name in places]
        assert not any(now is was for now, was in zip(originals, patched, strict=True))
    finally:
        threadsafe_timeout.install(checkpoint="off")
    threadsafe_timeout.uninstall()
    try:
        assert [vars(owner)[name] for owner, name in places] == originals
    finally:
        threadsafe_timeout.install(checkpoint="off")
