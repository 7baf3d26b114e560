"""google-genai, litellm, mistralai, cohere, ollama and botocore's bedrock-runtime: one call has one total (`llm_timeout`),
sync and async, whole and as a stream, whatever the server does, in a scope or not; the error is what their users catch."""

from __future__ import annotations

import contextlib
import threading
import time

import litellm
import pytest
from adapters import (
    CLIENTS,
    WAYS,
    Bedrock,
    Cohere,
    GoogleGenAI,
    GoogleGenAIOverHttpx,
    LiteLLM,
    LiteLLMAnthropic,
    LiteLLMRouter,
    Mistral,
)
from models import good, hang, refuse, stall, trickle
from peers import Peer

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor, deadline
from threadsafe_timeout._patching import install as _install

SOON = 30.0  # generous: what is asserted is that the call ended, not how fast
STREAMS = [way for way in WAYS if "stream" in way[1]]

# What the clients say of each other is not what is tested here.
pytestmark = [
    pytest.mark.usefixtures("installed"),
    pytest.mark.timeout(300),  # the first one pays for imports of tens of seconds
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::UserWarning"),
]


def name_of(way):
    return f"{way[0].__name__}-{way[1]}" if isinstance(way, tuple) else None


each_way = pytest.mark.parametrize("way", WAYS, ids=name_of)


@pytest.fixture(autouse=True, scope="module")
def first_calls(installed_for_the_module):
    """What is imported, and made, at the first call of all is in nobody's total."""
    with Peer(good) as peer:
        for kind, mode in WAYS:
            assert kind(peer.url).ask(mode) == "fine"
    assert not _install.installed().problems


@contextlib.contextmanager
def limits(**settings):
    threadsafe_timeout.install(checkpoint="off", **settings)
    try:
        yield
    finally:
        threadsafe_timeout.install(checkpoint="off")


def fails(way, url, *, retries=False):
    kind, mode = way
    with pytest.raises(kind.timeouts) as caught:
        kind(url, retries).ask(mode)
    text = str(caught.value)
    assert "timed out" in text
    for word in ("connection", "429", "400", "rate limit", "unused"):  # what runners try again on; and the key
        assert word not in text.lower()
    return text


def assert_left(peer):
    # On a machine that is busy enough the time was over before there was a connection.
    assert peer.connections == 0 or peer.left.acquire(timeout=SOON), "a connection is still open"


@each_way
def test_a_good_call_is_as_it_was(way):
    kind, mode = way
    with Peer(good) as peer:
        assert kind(peer.url).ask(mode) == "fine"
        assert kind(peer.url).ask(mode, deadline(SOON)) == "fine"


@each_way
@pytest.mark.parametrize("behave", [hang, trickle])
def test_the_total_ends_a_call_in_the_clients_own_timeout(way, behave):
    with Peer(behave) as peer, limits(llm_timeout=0.3):
        assert "llm_timeout" in fails(way, peer.url)
        assert_left(peer)
        assert peer.requests <= 1


@pytest.mark.parametrize("way", STREAMS, ids=name_of)
def test_the_total_ends_a_stream_that_has_begun(way):
    with Peer(stall) as peer, limits(llm_timeout=0.5):
        assert "llm_timeout" in fails(way, peer.url)
        assert_left(peer)


@each_way
def test_a_scope_that_ends_first_wins(way):
    kind, mode = way
    with Peer(hang) as peer, pytest.raises(DeadlineExceeded):
        kind(peer.url).ask(mode, deadline(0.3, name="mine"))


def quiet(peer):
    """Wait until no request has come for a while: what a client sent last may be on its way still."""
    pause, until = threading.Event(), time.monotonic() + SOON
    while time.monotonic() < until:
        asked = peer.requests
        pause.wait(0.4)
        if peer.requests == asked:
            return asked
    raise AssertionError("the client goes on to send requests")


RETRYING = [way for way in WAYS if way[0] in {GoogleGenAI, GoogleGenAIOverHttpx, Mistral, LiteLLM, LiteLLMRouter}]


@pytest.mark.parametrize("way", RETRYING, ids=name_of)
def test_the_total_is_not_multiplied_by_the_clients_retries(way):
    """Each attempt is over in no time, and there would be a thousand of them."""
    with Peer(refuse(503)) as peer, limits(llm_timeout=0.5):
        fails(way, peer.url, retries=True)
        assert quiet(peer) < 500


HONOURS_RETRY_AFTER = [
    way for way in WAYS
    if (way[0] is Mistral) or (way[0] is Cohere and "stream" not in way[1])
]  # fmt: skip


@pytest.mark.parametrize("way", HONOURS_RETRY_AFTER, ids=name_of)
@pytest.mark.parametrize("limited_by", ["llm_timeout", "scope"])
def test_an_attempt_that_would_come_too_late_is_not_waited_for(way, limited_by):
    """If it were waited for, the test would be over its own time."""
    kind, mode = way
    with Peer(refuse(429, "Retry-After: 3000\r\n")) as peer, limits(llm_timeout=50 if limited_by == "llm_timeout" else None):
        with pytest.raises(kind.timeouts) as caught:
            kind(peer.url, retries=True).ask(mode, deadline(50) if limited_by == "scope" else None)
        assert "next attempt" in str(caught.value)
        assert "are left" in str(caught.value)
        assert peer.requests == 1


@each_way
def test_nothing_is_sent_in_a_cancelled_scope(way):
    kind, mode = way
    with Peer(good) as peer:
        with pytest.raises(DeadlineExceeded):
            kind(peer.url).ask(mode, deadline(0))
        assert peer.requests == 0


POOLED = [(kind, "sync") for kind in CLIENTS] + [(GoogleGenAI, "async"), (LiteLLM, "async"), (LiteLLM, "stream")]


@pytest.mark.parametrize("way", POOLED, ids=name_of)
def test_a_task_that_tries_again_for_ever_sends_nothing_after_its_deadline(way):
    kind, mode = way
    ended = threading.Event()

    def task(url):
        try:
            while True:
                try:
                    return kind(url, retries=True).ask(mode)
                except Exception:
                    continue
        finally:
            ended.set()

    with Peer(hang) as peer, ThreadPoolExecutor(1, task_timeout=0.4, grace=1) as pool:
        with pytest.raises(DeadlineExceeded):
            pool.submit(task, peer.url).result(SOON)
        assert ended.wait(SOON)
        assert quiet(peer) <= 1


@pytest.mark.parametrize("way", [(Mistral, "sync"), (Mistral, "async"), (Cohere, "sync"), (LiteLLMAnthropic, "sync")], ids=name_of)
@pytest.mark.parametrize(("behave", "limit"), [(hang, "llm_first_byte"), (trickle, "llm_idle_content")])
def test_the_limits_of_an_attempt_hold_where_httpx_sends(way, behave, limit):
    with Peer(behave) as peer, limits(**{limit: 0.2}):
        assert limit in fails(way, peer.url)


def test_a_stream_of_bedrock_is_as_it_was_when_its_time_is_not_up():
    with Peer(good) as peer, limits(llm_timeout=SOON):
        assert Bedrock(peer.url).ask("stream") == "fine"


def test_other_services_of_amazon_are_no_llm_calls():
    import boto3

    with Peer(hang) as peer, limits(llm_timeout=0.01):
        client = boto3.session.Session().client("sqs", endpoint_url=peer.url, **Bedrock.keys)
        with pytest.raises(DeadlineExceeded), deadline(0.3):
            client.list_queues()
        client.close()


@pytest.mark.parametrize("name", ["completion", "acompletion"])
def test_names_of_litellm_that_were_imported_are_given_back(name):
    ours = getattr(litellm, name)
    before = ours.__wrapped__
    assert getattr(before, "__wrapped__", None) is not None or before.__module__.startswith("litellm")
    assert litellm.main is not None
    threadsafe_timeout.uninstall()
    try:
        assert getattr(litellm, name) is before
    finally:
        threadsafe_timeout.install(checkpoint="off")
    assert getattr(litellm, name) is not before
