"""A saver that is interrupted: nothing is lost and nothing is written twice."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from threadsafe_timeout.checkpoint import (
    CheckpointWriter,
    iter_records,
)


class Interrupted(BaseException):
    """What a cancelled task's thread may be hit by anywhere."""


@pytest.mark.parametrize("when", ["before the write", "after the write", "after the sync"])
def test_an_interrupted_leader_hands_on_and_nothing_is_lost_or_doubled(
    path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from threadsafe_timeout.checkpoint import _disk

    writer = CheckpointWriter(path)
    victim: list[threading.Thread] = []
    at_work, go_on = threading.Event(), threading.Event()

    def strike(original: Any, after: bool) -> Any:
        def call(*args: Any) -> Any:
            if not after and victim == [threading.current_thread()]:
                at_work.set()
                assert go_on.wait(120)
                victim.clear()
                raise Interrupted
            result = original(*args)
            if after and victim == [threading.current_thread()]:
                at_work.set()
                assert go_on.wait(120)
                victim.clear()
                raise Interrupted
            return result

        return call

    name = "sync" if when == "after the sync" else "write_all"
    monkeypatch.setattr(_disk, name, strike(getattr(_disk, name), when != "before the write"))

    def leader() -> None:
        victim.append(threading.current_thread())
        with pytest.raises(Interrupted):
            writer.save("leader", 0)

    threads = [threading.Thread(target=leader, daemon=True)]
    threads[0].start()
    assert at_work.wait(120)
    threads += [threading.Thread(target=writer.save, args=(n, n), daemon=True) for n in range(8)]
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    writer.close()
    saved = [record.key for record in iter_records(path)]
    assert sorted(map(str, saved)) == sorted(["leader", *map(str, range(8))])


def test_saves_are_not_logged_as_problems(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "threadsafe_timeout.checkpoint"), CheckpointWriter(path) as writer:
        writer.save("k", 1)
    assert caplog.records == []


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted_right_after_the_write_nothing_is_written_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    writer = CheckpointWriter(path)
    original, left = writer._journal.append, [times]

    def append(lines: list[bytes], *, sync: bool) -> None:
        original(lines, sync=sync)
        if left[0]:
            left[0] -= 1
            raise KeyboardInterrupt

    monkeypatch.setattr(writer._journal, "append", append)
    for number in range(times):
        with pytest.raises(KeyboardInterrupt):
            writer.save(f"interrupted-{number}", number)
    writer.save("next", 2)
    writer.close()
    assert Counter(record.key for record in iter_records(path)) == {
        "next": 1, **{f"interrupted-{number}": 1 for number in range(times)},
    }  # fmt: skip
