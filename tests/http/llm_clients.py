"""What the tests of openai's and anthropic's clients share: one way to ask, for each client and each way to call it."""

from __future__ import annotations

import asyncio
import contextlib

import openai

import threadsafe_timeout
from threadsafe_timeout._patching import install as _install
from threadsafe_timeout.testing.fake_llm import FakeLLM

SOON = 120.0  # generous: what is asserted is that the call ended, not how fast
MESSAGES = [{"role": "user", "content": "case task-1\nRequired tools: a"}]
MODES = ["sync", "async", "stream", "async stream"]


@contextlib.contextmanager
def limits(**settings):
    threadsafe_timeout.install(checkpoint="off", **settings)
    try:
        assert not _install.installed().problems
        yield
    finally:
        threadsafe_timeout.install(checkpoint="off")


class Servers(dict):
    """One server for each mood, started when it is first asked for; a test's own: one that shared its server with the
    test before could find a request in its log that this one had left there."""

    def __init__(self, stack):
        self.stack = stack

    def __missing__(self, mood):
        self[mood] = self.stack.enter_context(FakeLLM(mix={mood: 1}, minute=1.0))
        return self[mood]


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
