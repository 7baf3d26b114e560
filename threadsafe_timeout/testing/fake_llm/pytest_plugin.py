"""The pytest fixture `fake_llm`: a factory of servers that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from threadsafe_timeout.testing.fake_llm._client import FakeLLM

__all__ = ["fake_llm"]


@pytest.fixture
def fake_llm() -> Iterator[Callable[..., FakeLLM]]:
    """Start fake LLM servers: `llm = fake_llm(mix={"hang": 1}, minute=0.1)`. Takes what `FakeLLM` takes."""
    with ExitStack() as servers:
        yield lambda *args, **kwargs: servers.enter_context(FakeLLM(*args, **kwargs))
