"""openai's and anthropic's clients: one call has one total, whatever the server does, in a scope or not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time

import pytest
from paces import at_some_pace
from peers import HEAD, Peer, byte_by_byte, half_a_body, keep_alive_comments, silent, unanswered

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, _settings, deadline
from threadsafe_timeout._patching import install as _install
from threadsafe_timeout._scopes import deadlines as _deadlines
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout.testing.fake_llm import FakeLLM

openai = pytest.importorskip("openai")

SOON = 120.0  # generous: what is asserted is that the call ended, not how fast
MESSAGES = [{"role": "user", "content": "case task-1\nRequired tools: a"}]
MODES = ["sync", "async", "stream", "async stream"]


@pytest.fixture(autouse=True, scope="module")
def installed():
    with threadsafe_timeout.patched(checkpoint="off"):
        yield


@pytest.fixture(autouse=True)
def usual_limits():
    threadsafe_timeout.install(checkpoint="off")


@contextlib.contextmanager
def limits(**settings):
    threadsafe_timeout.install(checkpoint="off", **settings)
    assert not _install.installed().problems
    yield


class Servers(dict):
    """One server for each mood, started when it is first asked for; a test's own: one that shared its server with the
    test before could find a request in its log that this one had left there."""

    def __init__(self, stack):
        self.stack = stack

    def __missing__(self, mood):
        self[mood] = self.stack.enter_context(FakeLLM(mix={mood: 1}, minute=1.0))
        return self[mood]


@pytest.fixture
def servers():
    with contextlib.ExitStack() as stack:
        yield Servers(stack)


# One way to ask, for each client and each way to call it


def openai_text(answer):
    return answer.choices[0].message.content


def openai_piece(event):
    return (event.choices[0].delta.content or "") if event.choices else ""


class OpenAI:
    errors = openai

    def __init__(self, url, **options):
        self.options = {"base_url": url, "api_key": "unused", **options}

    def sync(self, **more):
        with openai.OpenAI(**self.options) as client:
            return openai_text(client.chat.completions.create(model="m", messages=MESSAGES, **more))

    def stream(self):
        with openai.OpenAI(**self.options) as client:
            return "".join(map(openai_piece, client.chat.completions.create(model="m", messages=MESSAGES, stream=True)))

    async def run_async(self, **more):
        async with openai.AsyncOpenAI(**self.options) as client:
            return openai_text(await client.chat.completions.create(model="m", messages=MESSAGES, **more))

    async def run_async_stream(self):
        async with openai.AsyncOpenAI(**self.options) as client:
            stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            return "".join([openai_piece(event) async for event in stream])


class Anthropic:
    def __init__(self, url, **options):
        self.errors = pytest.importorskip("anthropic")
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


def ask(client, mode, scope=None):
    with scope if scope is not None and "async" not in mode else contextlib.nullcontext():
        if mode in {"sync", "stream"}:
            return getattr(client, mode)()

        async def run():
            with scope or contextlib.nullcontext():
                return await getattr(client, "run_" + mode.replace(" ", "_"))()

        return asyncio.run(run())


def assert_timed_out(error, *words):
    """A runner that decides by the text gives up on this one; it does not try again."""
    assert "timed out" in str(error)
    for word in ("connection", "429", "400", "rate limit"):
        assert word not in str(error).lower()
    for word in words:
        assert word in str(error)


# Against the embedded server, in every behaviour


@pytest.mark.parametrize("mode", MODES)
def test_a_good_call_is_as_it_was(servers, mode):
    client = OpenAI(servers["good"].base_url)
    assert ask(client, mode)
    assert ask(client, mode, deadline(30))


def asked(server):
    """How often the server was asked; no request goes on. (It may hear of one, and of its end, after the client has left.)"""
    pause = threading.Event()
    until = time.monotonic() + SOON
    while time.monotonic() < until:
        requests = server.requests()
        if all(request.end is not None for request in requests):
            return len(requests)
        pause.wait(0.01)
    raise AssertionError("a request goes on after the call has ended")


# What ends the call, and after how many attempts at most. Back-off is half a second at least, in all versions.
TIMEOUT = "timeout"
OUTCOMES = {"hang": (TIMEOUT, 1), "trickle": (TIMEOUT, 1), "drop": (TIMEOUT, 2), "storm429": (TIMEOUT, 5),
            "error500": (TIMEOUT, 2), "search": (TIMEOUT, 1), "garbage": (ValueError, 1), "good": (None, 1)}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mood", OUTCOMES)
def test_outside_scopes_the_total_is_bounded_in_every_behaviour(servers, mood, mode):
    expected, attempts = OUTCOMES[mood]
    client = OpenAI(servers[mood].base_url, timeout=60, max_retries=10)
    if mood == "drop" and "stream" in mode:
        expected = ConnectionError
    with limits(llm_timeout=0.25 if expected is TIMEOUT else 20):  # what is answered is so on a busy machine, too
        if expected is None:
            assert ask(client, mode)
        elif expected is TIMEOUT:
            with pytest.raises(openai.APITimeoutError) as caught:
                ask(client, mode)
            assert_timed_out(caught.value)
        else:  # the client's own errors, as they were
            with pytest.raises(Exception) as caught:  # noqa: PT011  # of the client, of httpx, or of json: by version
                ask(client, mode)
            assert not isinstance(caught.value, openai.APITimeoutError)
    assert asked(servers[mood]) <= attempts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mood", ["hang", "trickle", "storm429", "search"])
def test_a_scope_that_ends_first_wins(servers, mood, mode):
    # Who reckons, between two attempts, that he cannot make it says so at once.
    expected = (DeadlineExceeded, openai.APITimeoutError) if mood == "storm429" else DeadlineExceeded
    with pytest.raises(expected):
        ask(OpenAI(servers[mood].base_url, timeout=None, max_retries=10), mode, deadline(0.2, name="mine"))
    asked(servers[mood])


@pytest.mark.parametrize("mood", ["hang", "trickle", "drop", "storm429"])
def test_a_retry_loop_of_the_callers_own_ends_with_the_scope(servers, mood):
    with pytest.raises(DeadlineExceeded), deadline(0.4):
        while True:
            try:
                ask(OpenAI(servers[mood].base_url), "sync")
            except Exception:
                continue


@pytest.mark.parametrize("mood", ["hang", "trickle"])
def test_cancelling_from_another_thread_ends_the_call(servers, mood):
    server = servers[mood]
    before = len(server.requests())
    scope = _scope.CancelScope()

    def cancel():
        # The server has taken the call once it is in its log; from then on the client is in recv.
        pause = threading.Event()
        until = time.monotonic() + 120
        while len(server.requests()) <= before and time.monotonic() < until:
            pause.wait(0.005)
        scope.cancel("enough")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with scope:
        ask(OpenAI(server.base_url, timeout=60), "sync")
    canceller.join(120)
    assert scope.cancelled_caught


def test_a_call_is_not_begun_in_a_cancelled_scope(servers):
    before = len(servers["good"].requests())
    with _deadlines.move_on_after(0):
        ask(OpenAI(servers["good"].base_url), "sync")
    assert len(servers["good"].requests()) == before


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
    scope = deadline(10) if limited_by == "scope" else None
    with Peer(refusing(429, b"Retry-After: 50\r\n")) as peer, limits(llm_timeout=10 if scope is None else None):
        client = kind(peer.url)
        start = time.monotonic()
        with pytest.raises(client.errors.APITimeoutError) as caught:
            ask(client, mode, scope)
        assert time.monotonic() - start < SOON
        assert_timed_out(caught.value, "Retry-After", "50 s")
        assert peer.requests == 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_attempt_that_would_come_too_late_is_not_waited_for(kind, monkeypatch):
    with Peer(refusing(500, b"")) as peer, limits(llm_timeout=20):
        client = kind(peer.url)
        base = sys.modules[client.errors.__name__.partition(".")[0] + "._base_client"]
        for name in ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"):
            monkeypatch.setattr(base, name, 60.0)
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
    httpx = pytest.importorskip("httpx2" if hasattr(openai._base_client, "httpx2") else "httpx")
    with Peer(events_of(b"x" * 10, pause=0.3)) as peer, limits(llm_timeout=0.1, llm_first_byte=0.1, llm_idle_content=0.1):
        with httpx.Client(trust_env=False) as client:
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


# What is content


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

    with Peer(events_of(CHUNK, DONE)) as peer, limits(llm_timeout=30):
        assert len(asyncio.run(good_call(peer))) == 1
        assert slept == ["begun"]
