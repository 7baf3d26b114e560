"""openai's and anthropic's clients: what ends a call at peers that go wrong at one point, and what it leaves usable."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time

import anthropic
import httpx
import httpx2
import openai
import pytest
from llm_clients import MESSAGES, MODES, SOON, OpenAI, ask, assert_timed_out, limits, openai_piece
from paces import at_some_pace
from peers import HEAD, Peer, byte_by_byte, half_a_body, keep_alive_comments, silent, unanswered

import threadsafe_timeout
from threadsafe_timeout import _settings, deadline

pytestmark = pytest.mark.usefixtures("installed")


class Anthropic:
    def __init__(self, url, **options):
        self.errors = anthropic
        self.options = {"base_url": url, "api_key": "unused", **options}
        self.call = {"model": "m", "max_tokens": 10, "messages": MESSAGES}

    def sync(self):
        with self.errors.Anthropic(**self.options) as client:
            return client.messages.create(**self.call).content[0].text

    def stream(self):
        with self.errors.Anthropic(**self.options) as client:
            return "".join(getattr(event, "text", event.type) for event in client.messages.create(stream=True, **self.call))

    async def run_async(self):
        async with self.errors.AsyncAnthropic(**self.options) as client:
            return (await client.messages.create(**self.call)).content[0].text

    async def run_async_stream(self):
        async with self.errors.AsyncAnthropic(**self.options) as client:
            return "".join([event.type async for event in await client.messages.create(stream=True, **self.call)])


CLIENTS = [OpenAI, Anthropic]


# Against peers that go wrong at one point, and both clients


def assert_left(peer):
    # On a machine that is busy enough the time was over before there was a connection.
    assert peer.connections == 0 or peer.left.acquire(timeout=SOON), "a connection is still open"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("behave", [silent, keep_alive_comments])
def test_the_total_ends_in_the_clients_own_timeout(kind, behave, mode):
    with Peer(behave) as peer, limits(llm_timeout=0.15):
        client = kind(peer.url, timeout=None)
        with pytest.raises(client.errors.APITimeoutError) as caught:
            ask(client, mode)
        assert_timed_out(caught.value, "llm_timeout")
        assert_left(peer)
        assert peer.requests <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_connect_that_gets_no_answer_is_bounded(kind, mode):
    with unanswered() as address, limits(llm_timeout=0.15):
        client = kind(f"http://127.0.0.1:{address[1]}/", timeout=None)
        with pytest.raises(client.errors.APITimeoutError) as caught:
            ask(client, mode)
        assert_timed_out(caught.value, "llm_timeout")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", CLIENTS)
def test_first_byte_ends_an_attempt_and_the_client_may_try_again(kind, mode):
    retries = 1 if mode == "sync" else 0  # back-off is half a second
    with Peer(silent) as peer, limits(llm_first_byte=0.1):
        client = kind(peer.url, timeout=None, max_retries=retries)
        with pytest.raises(client.errors.APITimeoutError) as caught:
            ask(client, mode)
        assert_timed_out(caught.value, "llm_first_byte")
        assert peer.requests <= 1 + retries
        assert peer.connections <= 1 + retries


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("behave", [keep_alive_comments, half_a_body])
def test_idle_content_ends_a_body_that_is_only_kept_alive(kind, behave, mode):
    with Peer(behave) as peer, limits(llm_idle_content=0.05):
        client = kind(peer.url, timeout=None, max_retries=0)
        with pytest.raises(client.errors.APITimeoutError) as caught:
            ask(client, mode)
        assert_timed_out(caught.value, "llm_idle_content")
        assert_left(peer)


def events_of(*pieces, pause=0.0):
    """A peer that sends these pieces of an event stream, with a pause before each."""

    def behave(peer, connection):
        while peer.request(connection):
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for piece in pieces:
                peer.stopping.wait(pause)
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")

    return behave


CHUNK = b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("mode", ["stream", "async stream"])
def test_content_keeps_a_stream_going(mode):
    def read(pace):
        with Peer(events_of(*[CHUNK] * 20, DONE, pause=0.02 * pace)) as peer, limits(llm_idle_content=0.25 * pace):
            assert ask(OpenAI(peer.url), mode) == "x" * 20

    at_some_pace(read)


@pytest.mark.parametrize("mode", ["stream", "async stream"])
def test_a_ping_of_anthropic_is_not_content(mode):
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    with Peer(events_of(*[ping] * 1000, pause=0.02)) as peer, limits(llm_idle_content=0.1):
        client = Anthropic(peer.url)
        with pytest.raises(client.errors.APITimeoutError) as caught:
            ask(client, mode)
        assert_timed_out(caught.value, "llm_idle_content")


def test_what_the_program_takes_to_read_is_not_the_servers_idleness():
    def read(pace):
        with Peer(events_of(*[CHUNK] * 3, DONE)) as peer, limits(llm_idle_content=0.1 * pace), openai.OpenAI(
            base_url=peer.url, api_key="unused"
        ) as client:
            seen = 0
            for _ in client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
                seen += 1
                threading.Event().wait(0.12 * pace)
            assert seen == 3

    at_some_pace(read)


def refusing(status, headers):
    def behave(peer, connection):
        while peer.request(connection):
            connection.sendall(b"HTTP/1.1 %d No\r\n%sContent-Length: 0\r\n\r\n" % (status, headers))

    return behave


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("limited_by", ["llm_timeout", "scope"])
def test_a_retry_after_that_is_longer_than_what_is_left_ends_the_call_at_once(kind, mode, limited_by):
    scope = deadline(45) if limited_by == "scope" else None
    with Peer(refusing(429, b"Retry-After: 50\r\n")) as peer, limits(llm_timeout=45 if scope is None else None):
        client = kind(peer.url)
        start = time.monotonic()
        with pytest.raises(client.errors.APITimeoutError) as caught:
            ask(client, mode, scope)
        assert time.monotonic() - start < SOON
        assert_timed_out(caught.value, "Retry-After", "50 s")
        assert peer.requests == 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_attempt_that_would_come_too_late_is_not_waited_for(kind, monkeypatch):
    with Peer(refusing(500, b"")) as peer, limits(llm_timeout=SOON):
        client = kind(peer.url)
        base = sys.modules[client.errors.__name__.partition(".")[0] + "._base_client"]
        for name in ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"):
            monkeypatch.setattr(base, name, 10 * SOON)
        with pytest.raises(client.errors.APITimeoutError) as caught:
            ask(client, "sync")
        assert_timed_out(caught.value, "next attempt")
        assert peer.requests == 1


def slow_then_good(peer, connection):
    """While the total is short a connection gets comments only, later a stream that ends well."""
    short = _settings.settings().llm_timeout < 1
    (keep_alive_comments if short else events_of(CHUNK, DONE))(peer, connection)


def test_the_client_stays_usable_after_a_stream_that_took_too_long():
    with Peer(slow_then_good) as peer, limits(llm_timeout=0.15), openai.OpenAI(base_url=peer.url, api_key="unused") as client:
        with pytest.raises(openai.APITimeoutError):
            list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
        assert_left(peer)
        threadsafe_timeout.install(llm_timeout=60)
        for _ in range(2):
            assert len(list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))) == 1


def test_the_async_client_stays_usable_after_a_stream_that_took_too_long():
    async def run(peer):
        async with openai.AsyncOpenAI(base_url=peer.url, api_key="unused") as client:
            with pytest.raises(openai.APITimeoutError):
                async for _ in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
                    pass
            await asyncio.to_thread(assert_left, peer)
            threadsafe_timeout.install(llm_timeout=60)
            for _ in range(2):
                stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
                assert len([event async for event in stream]) == 1

    with Peer(slow_then_good) as peer, limits(llm_timeout=0.15):
        asyncio.run(run(peer))


def test_a_stream_may_be_read_in_another_thread_and_keeps_its_total():
    at_some_pace(read_in_another_thread)


def read_in_another_thread(pace):
    with (
        Peer(keep_alive_comments) as peer,
        limits(llm_timeout=0.15 * pace),
        openai.OpenAI(base_url=peer.url, api_key="unused") as client,
    ):
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        caught = []

        def read():
            try:
                list(stream)
            except openai.APITimeoutError as exc:
                caught.append(exc)

        reader = threading.Thread(target=read)
        reader.start()
        reader.join(SOON)
        assert_timed_out(caught[0], "llm_timeout")


def test_a_stream_that_is_dropped_half_read_gives_its_connection_up():
    with Peer(keep_alive_after(CHUNK)) as peer, limits(llm_idle_content=60), openai.OpenAI(base_url=peer.url, api_key="unused") as client:
        with client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
            assert openai_piece(next(stream)) == "x"
        assert peer.left.acquire(timeout=SOON)


def keep_alive_after(piece):
    def behave(peer, connection):
        peer.request(connection)
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        peer.drip(connection, b"e\r\n: keep-alive\n\n\r\n")

    return behave


@pytest.mark.parametrize("mode", ["raw", "streaming"])
def test_raw_and_streaming_responses_have_a_total_too(mode):
    with Peer(byte_by_byte) as peer, limits(llm_timeout=0.15), openai.OpenAI(base_url=peer.url, api_key="unused") as client:
        completions = client.chat.completions
        with pytest.raises(openai.APITimeoutError):
            if mode == "raw":
                completions.with_raw_response.create(model="m", messages=MESSAGES)
            else:
                with completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
                    for _ in response.iter_bytes():
                        pass


def test_whoever_uses_httpx_himself_has_no_limits_but_his_own():
    module = httpx2 if hasattr(openai._base_client, "httpx2") else httpx
    with Peer(events_of(b"x" * 10, pause=0.3)) as peer, limits(llm_timeout=0.1, llm_first_byte=0.1, llm_idle_content=0.1):
        with module.Client(trust_env=False) as client:
            assert client.get(peer.url).content == b"x" * 10


def test_none_means_no_limit(servers):
    with limits(llm_timeout="off"):
        assert ask(OpenAI(servers["good"].base_url), "sync")
        with pytest.raises(openai.APITimeoutError):
            ask(OpenAI(servers["hang"].base_url, timeout=0.1, max_retries=0), "sync")


def test_the_error_keeps_no_key():
    with Peer(silent) as peer, limits(llm_timeout=0.1), openai.OpenAI(base_url=peer.url, api_key="a-secret") as client:
        with pytest.raises(openai.APITimeoutError) as caught:
            client.models.list()
    error = caught.value
    assert "a-secret" not in repr(vars(error)) + str(error) + repr(dict(error.request.headers))

def content(kind="text/event-stream", **headers):
    from threadsafe_timeout_patches._body import Content

    return Content({"content-type": kind, **headers})


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b": keep-alive\n\n"], [False]),
        ([b":", b" keep", b"-alive", b"\n", b"\n"], [False] * 5),
        ([b"data: x\n\n"], [True]),
        ([b"da", b"ta: ", b"x", b"y", b"\n\n"], [False, False, True, True, True]),
        ([b"event: ping\ndata: {}\n\n", b"data: x\n\n"], [False, True]),
        ([b"event: pi", b"ng\r", b"\ndata: {}\r\n\r\n", b"data: x\r\n"], [False, False, False, True]),
        ([b": data: x\ndata: y"], [True]),
        ([b"data:\n\n", b"data:  \n\n", b"retry: 5\nid: 7\n\n"], [False] * 3),
        ([b"event: message\n", b"data: " + b"x" * 100, b"y", b"\n: z\n"], [False, True, True, True]),
    ],
)
def test_content_of_an_event_stream(pieces, expected):
    watch = content()
    assert [watch.is_in(piece) for piece in pieces] == expected


def test_content_of_other_bodies():
    assert [content("application/json").is_in(piece) for piece in (b"  \n", b" {", b"")] == [False, True, False]
    assert [content("audio/mpeg").is_in(piece) for piece in (b" ", b"")] == [True, False]
    assert content(**{"content-encoding": "gzip"}).is_in(b": x\n")


def test_json_that_is_preceded_by_white_space_is_late_all_the_same():
    body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}).encode()

    def behave(peer, connection):
        peer.request(connection)
        connection.sendall(HEAD.replace(b"text/event-stream", b"application/json") + b"Content-Length: 99999\r\n\r\n")
        peer.drip(connection, b" ")
        connection.sendall(body)

    with Peer(behave) as peer, limits(llm_idle_content=0.1):
        with pytest.raises(openai.APITimeoutError) as caught:
            ask(OpenAI(peer.url, max_retries=0), "sync")
        assert_timed_out(caught.value, "llm_idle_content")


def test_what_a_call_has_left_to_a_task_of_its_own_may_sleep_for_longer_than_it():
    """As litellm's logging does: only the client itself is at an end if it sleeps for too long."""
    slept = []

    async def on_the_side():
        slept.append("begun")
        await asyncio.sleep(3000)

    async def good_call(peer):
        async with openai.AsyncOpenAI(base_url=peer.url, api_key="unused") as client:
            sent = client._client.send

            async def send(*args, **kwargs):
                task = asyncio.create_task(on_the_side())
                await asyncio.sleep(0)
                try:
                    return await sent(*args, **kwargs)
                finally:
                    task.cancel()

            client._client.send = send
            return [event async for event in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)]

    with Peer(events_of(CHUNK, DONE)) as peer, limits(llm_timeout=SOON):
        assert len(asyncio.run(good_call(peer))) == 1
        assert slept == ["begun"]
