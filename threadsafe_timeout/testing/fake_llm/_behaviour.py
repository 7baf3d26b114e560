"""What each behaviour does on the wire. Periods are in legacy seconds: a sixtieth of `minute` each.

The pace is chosen for the timeouts of the runners this stands in for: no period comes near their 60 seconds per read,
so only a limit on the *total* ends a trickle or a search.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.testing.fake_llm import _conversation, _wire

if TYPE_CHECKING:
    from threadsafe_timeout.testing.fake_llm._connection import Connection

__all__ = ["EMBEDDING_SECONDS", "RETRY_AFTER_SECONDS", "THINK_SECONDS", "TRICKLE_SECONDS", "Dropped", "answer"]

# Legacy seconds a chat answer takes, from and to, by behaviour; the seed says where in between.
THINK_SECONDS = {"good": (1.0, 3.0), "slow": (20.0, 40.0), "search": (25.0, 40.0), "paraphrase": (25.0, 40.0),
                 "cycle": (25.0, 40.0), "classifier": (1.0, 3.0)}
# The searches of a model that is lost are slow ones: ten turns of thinking and looking up outlast ten minutes.
EMBEDDING_SECONDS = {"search": (30.0, 50.0), "paraphrase": (30.0, 50.0), "cycle": (30.0, 50.0)}
_OTHERWISE = (0.2, 0.5)
TRICKLE_SECONDS = 15.0
RETRY_AFTER_SECONDS = 5.0

RUN_PATH = "/_fake_llm/run"
TASK_HEADER = "x-fake-llm-task"
_KEEP_ALIVE = b": keep-alive\n\n"
_EVENT_STREAM = [("content-type", "text/event-stream"), ("cache-control", "no-cache")]
_JSON = [("content-type", "application/json")]
# OpenAI's own paths, and those of an Azure deployment.
_ENDPOINT = re.compile(r"(?:/v1|/openai/v1|/openai/deployments/[^/]+)/(chat/completions|embeddings|models)")


class Dropped(Exception):
    """The connection is to be closed in the middle of the answer."""


async def answer(
    connection: Connection, method: str, path: str, headers: dict[str, str], value: dict[str, Any]
) -> None:
    """Answer one request, the way its task behaves."""
    if path == RUN_PATH and method == "POST":
        name = str(value.get("name", ""))
        connection.send_json(200, {"run": name, "t": connection.server.begin_run(name)})
        return
    endpoint = _ENDPOINT.fullmatch(path)
    if endpoint is None:
        connection.send_json(404, _wire.error(f"Unknown request URL: {method} {path}.", "invalid_request_error",
                                              "unknown_url"))
    elif method != ("GET" if endpoint[1] == "models" else "POST"):
        connection.send_json(405, _wire.error(f"Not allowed to {method} on {path}.", "invalid_request_error",
                                              "method_not_supported"))
    elif endpoint[1] == "models":
        connection.send_json(200, _wire.models())
    elif endpoint[1] == "embeddings":
        await _embed(connection, path, headers, value)
    else:
        await _chat(connection, path, headers, value)


def _bad_request(connection: Connection, message: str) -> None:
    connection.send_json(400, _wire.error(message, "invalid_request_error"))


async def _think(connection: Connection, salt: str, bounds: tuple[float, float], share: float = 1.0) -> None:
    """Take the time an answer takes: the same every time for the same seed, task and turn."""
    exchange, options = connection.exchange, connection.server.options
    assert exchange is not None
    jitter = random.Random(f"{options.seed}:{exchange.task}:{salt}").uniform(*bounds)
    await asyncio.sleep(jitter * share * options.minute / 60)


async def _hang() -> None:
    await asyncio.Event().wait()


async def _embed(connection: Connection, path: str, headers: dict[str, str], value: dict[str, Any]) -> None:
    given = value.get("input")
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if given is None or given == []:
        _bad_request(connection, "'input' is a required property: a string, or a list of them.")
        return
    texts = [item if isinstance(item, str) else " ".join(map(str, item or ())) for item in inputs]
    server = connection.server
    task = headers.get(TASK_HEADER) or connection.task or server.task_in("\n".join(texts))
    connection.task = task
    exchange = connection.exchange = server.begin(connection.id, task, path)
    if server.options.embeddings == "hang":
        await _hang()
    await _think(connection, texts[0], EMBEDDING_SECONDS.get(exchange.behaviour, _OTHERWISE))
    connection.send_json(200, _wire.embeddings(value, texts))


async def _chat(connection: Connection, path: str, headers: dict[str, str], value: dict[str, Any]) -> None:
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        _bad_request(connection, "'messages' is a required property: a list of messages.")
        return
    server = connection.server
    if _conversation.is_classification(str(value.get("model", "")), messages):
        task = "classifier"
    else:
        task = headers.get(TASK_HEADER) or server.task_in(_conversation.first_user_text(messages))
    connection.task = task
    exchange = connection.exchange = server.begin(connection.id, task, path)
    behaviour = exchange.behaviour
    if behaviour == "storm429" and server.options.storm is not None and exchange.ordinal > server.options.storm:
        behaviour = "good"
    if behaviour == "hang":
        await _hang()
    elif behaviour == "trickle":
        await _trickle(connection, bool(value.get("stream")))
    elif behaviour == "storm429":
        await _too_many(connection)
    elif behaviour == "error500":
        await _think(connection, str(len(messages)), _OTHERWISE)
        connection.send_json(500, _wire.error("The server had an error while processing your request.", "server_error"))
    else:
        await _speak(connection, behaviour, value, messages)


async def _trickle(connection: Connection, stream: bool) -> None:
    """Headers, then a byte now and then: white space before JSON that never comes, or comments of an event stream."""
    period = TRICKLE_SECONDS * connection.server.options.minute / 60
    connection.start(200, _EVENT_STREAM if stream else _JSON)
    body = _KEEP_ALIVE if stream else b" "
    while True:
        for place in range(len(body)):
            await asyncio.sleep(period)
            connection.send(body[place : place + 1])


async def _too_many(connection: Connection) -> None:
    """429, with the wait in whole seconds (all the standard allows) and, as OpenAI does, in milliseconds."""
    await _think(connection, "429", _OTHERWISE)
    seconds = RETRY_AFTER_SECONDS * connection.server.options.minute / 60
    wait = [("retry-after", str(max(1, round(seconds)))), ("retry-after-ms", str(max(1, round(seconds * 1000))))]
    connection.send_json(429, _wire.error("Rate limit reached. Please try again later.", "requests",
                                          "rate_limit_exceeded"), wait)


async def _speak(connection: Connection, behaviour: str, value: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    """An answer with content: whole or as a stream, in one piece or broken the way the behaviour says."""
    exchange = connection.exchange
    assert exchange is not None
    bounds = THINK_SECONDS.get(behaviour, _OTHERWISE)
    salt = str(len(messages))
    model = str(value.get("model", "fake-llm"))
    text = (_conversation.classification() if behaviour == "classifier"
            else _conversation.say(behaviour, exchange.task, messages))
    exchange.closing = text == _conversation.CLOSING
    size = sum(len(_conversation.text_of(message)) for message in messages)
    created = int(_clock.wall_time())
    if not value.get("stream"):
        await _think(connection, salt, bounds)
        body = _wire.encode(_wire.completion(exchange.id, created, model, size, text))
        _send_whole(connection, behaviour, body)
        return
    usage = bool((value.get("stream_options") or {}).get("include_usage"))
    events = list(_wire.stream_chunks(exchange.id, created, model, size, text, include_usage=usage))
    await _think(connection, salt, bounds, 0.5)
    connection.start(200, _EVENT_STREAM)
    async for event in _broken(behaviour, events[:-1]):
        await _think(connection, salt, bounds, 0.5 / len(events))
        connection.send(event)
    connection.finish(events[-1])


def _send_whole(connection: Connection, behaviour: str, body: bytes) -> None:
    if behaviour == "garbage":
        body = body[: len(body) // 2]
    connection.start(200, [*_JSON, ("content-length", str(len(body)))])
    if behaviour == "drop":
        connection.send(body[: len(body) // 2])
        raise Dropped
    connection.finish(body)


async def _broken(behaviour: str, events: list[bytes]) -> AsyncIterator[bytes]:
    """The events of a stream, but the last, as `behaviour` sends them."""
    for place, event in enumerate(events):
        if behaviour == "garbage" and place == 1:
            yield event[: len(event) // 2] + b"\n\n"
        elif behaviour == "drop" and place == max(1, len(events) // 2):
            raise Dropped
        else:
            yield event
