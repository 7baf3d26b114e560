"""The JSON of the OpenAI API: bodies of answers, chunks of streams, errors, vectors."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections.abc import Iterator
from typing import Any

from threadsafe_timeout.testing.fake_llm._mix import stable_hash

__all__ = ["completion", "embeddings", "encode", "error", "models", "stream_chunks"]

MODELS = ("fake-llm", "fake-llm-classifier", "fake-llm-embedding")
_DIMENSIONS = 64
_OWNER = "threadsafe-timeout"


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _tokens(text: str) -> int:
    return max(1, len(text) // 4)


def _usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def completion(request_id: int, created: int, model: str, prompt_size: int, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": f"chatcmpl-fake-{request_id}", "object": "chat.completion", "created": created, "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(max(1, prompt_size // 4), _tokens(text)),
    }


def stream_chunks(
    request_id: int, created: int, model: str, prompt_size: int, text: str, *, include_usage: bool
) -> Iterator[bytes]:
    """The server-sent events of one answer, `[DONE]` included."""
    head = {"id": f"chatcmpl-fake-{request_id}", "object": "chat.completion.chunk", "created": created, "model": model}

    def event(delta: dict[str, str], finish: str | None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return b"data: " + encode({**head, "choices": choices}) + b"\n\n"

    yield event({"role": "assistant", "content": ""}, None)
    for piece in re.findall(r"\s*\S+\s*\S*\s*", text):  # two words at a time
        yield event({"content": piece}, None)
    yield event({}, "stop")
    if include_usage:
        usage = _usage(max(1, prompt_size // 4), _tokens(text))
        yield b"data: " + encode({**head, "choices": [], "usage": usage}) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _vector(text: str, dimensions: int) -> list[float]:
    """A unit vector of hashed words: texts that share words are near each other, as with a real model."""
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [text]:
        place = stable_hash(word)
        vector[place % dimensions] += 1.0 if place >> 63 else -1.0
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0.0:  # words that cancelled each other out
        vector[0] = norm = 1.0
    return [value / norm for value in vector]


def embeddings(request: dict[str, Any], inputs: list[str]) -> dict[str, Any]:
    dimensions = request.get("dimensions") or _DIMENSIONS
    as_base64 = request.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(inputs):
        vector = _vector(text, dimensions)
        packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if as_base64 else vector
        data.append({"object": "embedding", "index": index, "embedding": packed})
    size = sum(map(_tokens, inputs))
    return {"object": "list", "data": data, "model": request.get("model", MODELS[2]),
            "usage": {"prompt_tokens": size, "total_tokens": size}}


def models() -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": _OWNER}
                                       for name in MODELS]}
