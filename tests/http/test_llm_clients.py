"""openai's and anthropic's clients: one call has one total, whatever the server does."""

from __future__ import annotations

import threading
import time

import openai
import pytest
from llm_clients import MODES, SOON, OpenAI, ask, assert_timed_out, limits

from threadsafe_timeout import DeadlineExceeded, deadline
from threadsafe_timeout._scopes import deadlines as _deadlines
from threadsafe_timeout._scopes import scope as _scope

pytestmark = pytest.mark.usefixtures("installed")


@pytest.mark.parametrize("mode", MODES)
def test_a_good_call_is_as_it_was(servers, mode):
    client = OpenAI(servers["good"].base_url)
    assert ask(client, mode)
    assert ask(client, mode, deadline(SOON))


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
    with limits(llm_timeout=0.25 if expected is TIMEOUT else SOON):  # what is answered is so on a busy machine, too
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
