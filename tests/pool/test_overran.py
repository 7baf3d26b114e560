"""Tasks that end by themselves after their deadline."""

import ctypes
import sys

import pytest

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor, sleep

HOLDS_THE_GIL = ctypes.PyDLL(None).usleep if sys.platform != "win32" else None


def run(function, *args, timeout):
    """Its outcome, and the events of the pool, in their order."""
    events = []
    with ThreadPoolExecutor(1, task_timeout=timeout) as pool:
        pool.on_event(events.append)
        future = pool.submit(function, *args)
        try:
            outcome = future.result()
        except DeadlineExceeded as error:
            outcome = error
    assert pool._crew.events.flush(60)
    return outcome, events


@pytest.mark.skipif(sys.platform == "win32", reason="usleep")
def test_a_call_that_held_the_gil_over_its_deadline_is_late_and_its_result_counts(caplog):
    outcome, events = run(HOLDS_THE_GIL, 600_000, timeout=0.01)
    assert outcome == 0
    (event,) = [event for event in events if event.kind == "overran"]
    assert event.elapsed >= 0.6
    assert float(event.reason.removesuffix(" s late")) >= 0.5
    assert "late" not in {one.kind for one in events}
    (line,) = [record for record in caplog.records if getattr(record, "event", None) == "overran"]
    assert "ended by itself" in line.getMessage()
    assert "(limit 0.01 s), and its result counts" in line.getMessage()


def test_one_that_ends_in_time_is_not():
    outcome, events = run(int, timeout=100)
    assert (outcome, events) == (0, [])


def test_one_that_its_deadline_ends_is_not():
    outcome, events = run(sleep, 100, timeout=0.01)
    assert isinstance(outcome, DeadlineExceeded)
    assert "timed_out" in {event.kind for event in events}
    assert "overran" not in {event.kind for event in events}
