"""What the tests of the pool get."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from left import Task


@pytest.fixture
def task() -> Iterator[Task]:
    """A task that waits until its test is over, unless that lets it go; no thread of its pools outlives the test."""
    one = Task()
    yield one
    one.let_go()
    for pool in one.pools:
        for worker in [*pool._crew.workers, *pool._crew.abandoned]:
            worker.thread.join(120)
