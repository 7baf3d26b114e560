"""What the tests of commands share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def keeps_sigint() -> Iterator[None]:
    """`run` gives Ctrl-C to the program; a test that calls it in this process gets it back."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
