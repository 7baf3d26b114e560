"""Tasks of an `AsyncPool` that end by themselves after their deadline, or that catch it."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from threadsafe_timeout import AsyncPool, DeadlineExceeded
from threadsafe_timeout._pool.events import Event

pytestmark = pytest.mark.usefixtures("nothing_set")

HOLDS_THE_GIL: Any = ctypes.PyDLL(None).usleep if sys.platform != "win32" else None


def run(function: Callable[[], Coroutine[Any, Any, object]], timeout: float) -> tuple[object, list[Event]]:
    """Its outcome, and the events of the pool, in their order."""
    events: list[Event] = []

    async def main() -> object:
        async with AsyncPool(1, task_timeout=timeout, grace=100) as pool:
            pool.on_event(events.append)
            [outcome] = await pool.gather(pool.submit(function), return_exceptions=True)
            crew = pool._crew
        assert crew.events.flush(60)
        return outcome

    return asyncio.run(main()), events


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


@pytest.mark.skipif(HOLDS_THE_GIL is None, reason="usleep")
@pytest.mark.parametrize("fails", [False, True])
def test_one_whose_call_held_the_loop_over_its_deadline_is_late_and_its_outcome_counts(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> str:
        HOLDS_THE_GIL(600_000)
        if fails:
            raise ValueError("no")
        return "done"

    outcome, events = run(work, 0.01)
    assert isinstance(outcome, ValueError) if fails else outcome == "done"
    (event,) = [event for event in events if event.kind == "overran"]
    assert float((event.reason or "").removesuffix(" s late")) >= 0.5
    assert "timed_out" not in kinds(events)
    (line,) = [record for record in caplog.records if getattr(record, "event", None) == "overran"]
    counts = "its ValueError counts" if fails else "its result counts"
    assert f"after its deadline (limit 0.01 s), and {counts}" in line.getMessage()


def test_one_that_ends_in_time_is_not() -> None:
    async def work() -> int:
        return 1

    assert run(work, 100) == (1, [])


def test_one_that_its_deadline_ends_is_not() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    outcome, events = run(work, 0.01)
    assert isinstance(outcome, DeadlineExceeded)
    assert "timed_out" in kinds(events)
    assert "overran" not in kinds(events)


def test_one_that_catches_its_cancellation_is_told_of_as_timed_out(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "half"
        return "all"

    outcome, events = run(work, 0.01)
    assert outcome == "half"
    assert "timed_out" in kinds(events)
    assert "overran" not in kinds(events)
    assert "it caught that, and its own outcome counts" in caplog.text
