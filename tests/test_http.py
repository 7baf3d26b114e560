"""Every operation of an HTTP request is capped at the time its scope has left, against servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, _scope, deadline
from threadsafe_timeout.testing.fake_llm import FakeLLM

openai = pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def installed():
    with threadsafe_timeout.patched(checkpoint="off"):
        yield


@pytest.fixture(scope="module")
def servers():
    with contextlib.ExitStack() as stack:
        yield {
            mood: stack.enter_context(FakeLLM(mix={mood: 1}, minute=1.0))
            for mood in ("good", "hang", "trickle", "drop", "storm429")
        }


def ask(server, **options):
    with openai.OpenAI(base_url=server.base_url, api_key="unused", **options) as client:
        message = [{"role": "user", "content": "case task-1\nRequired tools: a"}]
        return client.chat.completions.create(model="m", messages=message).choices[0].message.content


def test_a_good_call_is_as_it_was(servers):
    assert ask(servers["good"])
    with deadline(30):
        assert ask(servers["good"])


@pytest.mark.parametrize("mood", ["hang", "trickle", "drop", "storm429"])
@pytest.mark.parametrize("timeout", [60, None])
def test_the_total_is_bounded_whatever_the_server_does(servers, mood, timeout):
    with pytest.raises(DeadlineExceeded), deadline(0.4):
        while True:  # a retry loop of the caller's, swallowing what it can
            try:
                ask(servers[mood], timeout=timeout)
            except Exception:
                continue


@pytest.mark.parametrize("mood", ["hang", "trickle"])
def test_cancelling_from_another_thread_ends_the_call(servers, mood):
    scope = _scope.CancelScope()
    started = threading.Event()

    def cancel():
        started.wait(10)
        scope.cancel("enough")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with scope:
        # The server has taken the call once it is in its log; from then on the client is in recv.
        before = len(servers[mood].requests())
        watcher = threading.Thread(target=_set_when, args=(servers[mood], before, started))
        watcher.start()
        ask(servers[mood], timeout=60)
    canceller.join(10)
    watcher.join(10)
    assert scope.cancelled_caught


def _set_when(server, before, started):
    until = time.monotonic() + 10
    pause = threading.Event()
    while len(server.requests()) <= before and time.monotonic() < until:
        pause.wait(0.005)
    started.set()


def test_outside_a_scope_an_llm_call_has_a_total_too(servers):
    threadsafe_timeout.uninstall()
    with threadsafe_timeout.patched(llm_timeout=0.3, checkpoint="off"), pytest.raises(openai.APITimeoutError):
        ask(servers["trickle"], timeout=60)


def test_the_scope_wins_over_the_llm_timeout(servers):
    with pytest.raises(DeadlineExceeded, match="mine"), deadline(0.2, name="mine"):
        ask(servers["hang"])


def test_a_connection_is_not_begun_in_a_cancelled_scope(servers):
    before = len(servers["good"].requests())
    with _scope.move_on_after(0):
        ask(servers["good"])
    assert len(servers["good"].requests()) == before


def test_a_connect_that_gets_no_answer_is_capped():
    """A listening socket whose backlog is full: connect() hangs."""
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        with pytest.raises(DeadlineExceeded), deadline(0.2), openai.OpenAI(
            base_url=f"http://127.0.0.1:{address[1]}/v1", api_key="unused", timeout=None
        ) as client:
            client.models.list()
