"""One way to ask, for each client and each way to call it: whole or as a stream, sync or async. Each returns the text."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

import boto3
import botocore.config
import botocore.exceptions
import cohere
import httpx
import httpx2
import litellm
import mistralai.client
import ollama
from google import genai
from google.genai import types

MESSAGES = [{"role": "user", "content": "hello"}]


class Client:
    """`timeouts` are the classes that the client's users catch; `retries` says whether it tries again by itself."""

    timeouts: tuple[type[Exception], ...]
    modes = ("sync", "stream", "async", "async stream")

    def __init__(self, url: str, retries: bool = False) -> None:
        self.url = url.rstrip("/")
        self.retries = retries

    def ask(self, mode: str, scope: Any = None) -> str:
        scope = scope or contextlib.nullcontext()
        if "async" not in mode:
            with scope:
                return getattr(self, mode)()

        async def run() -> str:
            with scope:
                return await getattr(self, mode.replace(" ", "_") if " " in mode else "async_")()

        return asyncio.run(run())


class GoogleGenAI(Client):
    timeouts = (httpx.ReadTimeout, httpx2.ReadTimeout, TimeoutError)
    transport: ClassVar[dict[str, Any]] = {}

    @contextlib.contextmanager
    def client(self):
        again = types.HttpRetryOptions(attempts=1000, initial_delay=0.01, max_delay=0.02, jitter=0.01) if self.retries else None
        options = types.HttpOptions(base_url=self.url, retry_options=again, **self.transport)
        client = genai.Client(api_key="unused", http_options=options)
        try:
            yield client
        finally:
            client.close()

    def sync(self):
        with self.client() as client:
            return client.models.generate_content(model="m", contents="hello").text

    def stream(self):
        with self.client() as client:
            return "".join(each.text or "" for each in client.models.generate_content_stream(model="m", contents="hello"))

    async def async_(self):
        with self.client() as client:
            try:
                return (await client.aio.models.generate_content(model="m", contents="hello")).text
            finally:
                await client.aio.aclose()

    async def async_stream(self):
        with self.client() as client:
            try:
                stream = await client.aio.models.generate_content_stream(model="m", contents="hello")
                return "".join([each.text or "" async for each in stream])
            finally:
                await client.aio.aclose()


class GoogleGenAIOverHttpx(GoogleGenAI):
    """The same where aiohttp is not what it sends through."""

    timeouts = (httpx.ReadTimeout, httpx2.ReadTimeout)

    @property
    def transport(self):
        return {"async_client_args": {"transport": httpx2.AsyncHTTPTransport()}}


class Mistral(Client):
    timeouts = (httpx.ReadTimeout, httpx2.ReadTimeout)

    def client(self):
        from mistralai.client.utils import BackoffStrategy, RetryConfig

        again = RetryConfig("backoff", BackoffStrategy(10, 50, 1.5, 60_000), True) if self.retries else None
        return mistralai.client.Mistral(api_key="unused", server_url=self.url, retry_config=again)

    def sync(self):
        with self.client() as client:
            return client.chat.complete(model="m", messages=MESSAGES).choices[0].message.content

    def stream(self):
        with self.client() as client, client.chat.stream(model="m", messages=MESSAGES) as events:
            return "".join(event.data.choices[0].delta.content or "" for event in events)

    async def async_(self):
        async with self.client() as client:
            return (await client.chat.complete_async(model="m", messages=MESSAGES)).choices[0].message.content

    async def async_stream(self):
        async with self.client() as client, await client.chat.stream_async(model="m", messages=MESSAGES) as events:
            return "".join([event.data.choices[0].delta.content or "" async for event in events])


class Cohere(Client):
    timeouts = (httpx.ReadTimeout,)

    @property
    def call(self):
        return {
            "model": "m", "messages": MESSAGES, "request_options": {"max_retries": 1000 if self.retries else 0},
        }  # fmt: skip

    @staticmethod
    def text(event):
        return event.delta.message.content.text if event.type == "content-delta" else ""

    def sync(self):
        with cohere.ClientV2("unused", base_url=self.url) as client:
            return client.chat(**self.call).message.content[0].text

    def stream(self):
        with cohere.ClientV2("unused", base_url=self.url) as client:
            return "".join(map(self.text, client.chat_stream(**self.call)))

    async def async_(self):
        async with cohere.AsyncClientV2("unused", base_url=self.url) as client:
            return (await client.chat(**self.call)).message.content[0].text

    async def async_stream(self):
        async with cohere.AsyncClientV2("unused", base_url=self.url) as client:
            return "".join([self.text(event) async for event in client.chat_stream(**self.call)])


class Ollama(Client):
    timeouts = (httpx.ReadTimeout,)

    def sync(self):
        with ollama.Client(self.url) as client:
            return client.chat("m", MESSAGES).message.content

    def stream(self):
        with ollama.Client(self.url) as client:
            return "".join(part.message.content or "" for part in client.chat("m", MESSAGES, stream=True))

    async def async_(self):
        async with ollama.AsyncClient(self.url) as client:
            return (await client.chat("m", MESSAGES)).message.content

    async def async_stream(self):
        async with ollama.AsyncClient(self.url) as client:
            return "".join([part.message.content or "" async for part in await client.chat("m", MESSAGES, stream=True)])


class Bedrock(Client):
    timeouts = (botocore.exceptions.ReadTimeoutError,)
    modes = ("sync", "stream")
    keys: ClassVar = {"aws_access_key_id": "unused", "aws_secret_access_key": "unused", "region_name": "us-east-1"}

    @contextlib.contextmanager
    def client(self):
        again = {"mode": "standard", "total_max_attempts": 10 if self.retries else 1}
        config = botocore.config.Config(retries=again, read_timeout=60)
        client = boto3.session.Session().client("bedrock-runtime", endpoint_url=self.url, config=config, **self.keys)
        try:
            yield client
        finally:
            client.close()

    messages: ClassVar = [{"role": "user", "content": [{"text": "hello"}]}]

    def sync(self):
        with self.client() as client:
            return client.converse(modelId="m", messages=self.messages)["output"]["message"]["content"][0]["text"]

    def stream(self):
        with self.client() as client:
            events = client.converse_stream(modelId="m", messages=self.messages)["stream"]
            try:
                return "".join(each.get("contentBlockDelta", {}).get("delta", {}).get("text", "") for each in events)
            finally:
                events.close()


class BedrockInvoke(Bedrock):
    """The answer comes as a body that the program reads."""

    modes = ("sync",)

    def sync(self):
        import json

        with self.client() as client:
            body = client.invoke_model(modelId="m", body="{}")["body"]
            try:
                return json.loads(body.read())["content"][0]["text"]
            finally:
                body.close()


class LiteLLM(Client):
    timeouts = (litellm.Timeout,)
    model = "openai/m"
    suffix = "/v1"

    @property
    def call(self):
        return {
            "model": self.model, "messages": MESSAGES, "api_base": self.url + self.suffix, "api_key": "unused",
            "num_retries": 1000 if self.retries else 0, "max_retries": 0,
        }  # fmt: skip

    def sync(self):
        return litellm.completion(**self.call).choices[0].message.content

    def stream(self):
        return "".join(each.choices[0].delta.content or "" for each in litellm.completion(stream=True, **self.call))

    async def async_(self):
        return (await litellm.acompletion(**self.call)).choices[0].message.content

    async def async_stream(self):
        stream = await litellm.acompletion(stream=True, **self.call)
        return "".join([each.choices[0].delta.content or "" async for each in stream])


class LiteLLMAnthropic(LiteLLM):
    model = "anthropic/m"
    suffix = ""


class LiteLLMGemini(LiteLLM):
    model = "gemini/m"
    suffix = ""


class LiteLLMOllama(LiteLLM):
    model = "ollama_chat/m"
    suffix = ""


class LiteLLMRouter(LiteLLM):
    def router(self):
        deployment = {"model": self.model, "api_base": self.url + self.suffix, "api_key": "unused", "max_retries": 0}
        return litellm.Router(
            model_list=[{"model_name": name, "litellm_params": deployment} for name in ("one", "two")],
            fallbacks=[{"one": ["two"]}],
            num_retries=1000 if self.retries else 0,
        )

    def sync(self):
        return self.router().completion("one", MESSAGES).choices[0].message.content

    def stream(self):
        return "".join(each.choices[0].delta.content or "" for each in self.router().completion("one", MESSAGES, stream=True))

    async def async_(self):
        return (await self.router().acompletion("one", MESSAGES)).choices[0].message.content

    async def async_stream(self):
        stream = await self.router().acompletion("one", MESSAGES, stream=True)
        return "".join([each.choices[0].delta.content or "" async for each in stream])


CLIENTS = [
    GoogleGenAI, GoogleGenAIOverHttpx, Mistral, Cohere, Ollama, Bedrock, BedrockInvoke,
    LiteLLM, LiteLLMAnthropic, LiteLLMGemini, LiteLLMOllama, LiteLLMRouter,
]  # fmt: skip
WAYS = [(client, mode) for client in CLIENTS for mode in client.modes]
