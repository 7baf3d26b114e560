"""What the tests of the interrupt, and of SIGALRM off the main thread, get."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from threadsafe_timeout._interruption import alarm as _alarm
from threadsafe_timeout._interruption import pursuit as _pursuit


@pytest.fixture
def alarms(installed: None) -> Iterator[None]:
    """The patches are applied; no alarm of a test outlives it, and the main thread keeps its handler."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert not _alarm._set, "an alarm is still set"
    assert signal.getsignal(signal.SIGALRM) is before, "the main thread's handler was changed"


@pytest.fixture
def short_grace() -> Iterator[None]:
    """A grace that is over soon."""
    _pursuit.configure(grace=0.05)
    yield
    _pursuit.configure(grace=None)
