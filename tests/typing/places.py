"""How the types of places come out; checked by mypy, never run."""

from typing import assert_type

from threadsafe_timeout import DeadlineExceeded, Event
from threadsafe_timeout.checkpoint import CheckpointWriter, Record


def places(error: DeadlineExceeded, event: Event, record: Record, writer: CheckpointWriter) -> None:
    assert_type(error.where, tuple[str, int, str] | None)
    assert_type(event.where, tuple[str, int, str] | None)
    assert_type(record.where, tuple[str, int, str] | None)
    DeadlineExceeded("name", 1.0, 1.0, "reason", ("file.py", 1, "f"))
    assert event.kind == "timed_out"
    writer.save("key", {"error": "text"}, "timeout", error=error)
