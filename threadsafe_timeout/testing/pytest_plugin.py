"""Fixtures for tests of code that has deadlines. Found by pytest through its entry-point group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from threadsafe_timeout.testing.clock import MockClock

__all__ = ["autojump_clock", "mock_clock"]


@pytest.fixture
def mock_clock() -> Iterator[MockClock]:
    """Time stands still; `mock_clock.jump(seconds)` moves it."""
    with MockClock() as clock:
        yield clock


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    """Time jumps to whatever is waited for, as soon as everybody waits."""
    with MockClock(autojump=0.01) as clock:
        yield clock
