"""What the tests of scopes get."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from threadsafe_timeout.testing import MockClock


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with MockClock() as clock:
        yield clock
