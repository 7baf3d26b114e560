"""What differs between two runs: keys, statuses, results."""

from __future__ import annotations

from dataclasses import dataclass, field

from threadsafe_timeout.checkpoint import _format
from threadsafe_timeout.checkpoint._format import Key
from threadsafe_timeout.checkpoint._records import Checkpoint, Record

__all__ = ["Difference", "compare"]


@dataclass(slots=True)
class Difference:
    """Keys only in one journal, those whose status changed (old, new), and those whose result alone changed."""

    only_a: list[Key] = field(default_factory=list)
    only_b: list[Key] = field(default_factory=list)
    status: dict[Key, tuple[str, str]] = field(default_factory=dict)
    result: list[Key] = field(default_factory=list)
    same: int = 0

    def __bool__(self) -> bool:
        return bool(self.only_a or self.only_b or self.status or self.result)


def compare(a: Checkpoint, b: Checkpoint) -> Difference:
    """Compare the last records of two journals. Two records at a time are in memory."""
    found = Difference(only_b=[key for key in b if key not in a])
    for key, record in a.items():
        other = b.get(key)
        if other is None:
            found.only_a.append(key)
        elif other.status != record.status:
            found.status[key] = (record.status, other.status)
        elif _differ(record, other):
            found.result.append(key)
        else:
            found.same += 1
    return found


def _differ(record: Record, other: Record) -> bool:
    ours, theirs = _format.result_bytes(record.raw_line()), _format.result_bytes(other.raw_line())
    return ours != theirs and record.plain() != other.plain()
