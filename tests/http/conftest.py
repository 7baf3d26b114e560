"""What the tests of HTTP clients get."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from llm_clients import Servers


@pytest.fixture
def servers() -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield Servers(stack)
