"""A pool with a checkpoint: a future is done when its record is on disk."""

from __future__ import annotations

import pytest

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor
from threadsafe_timeout.checkpoint import CheckpointWriter, load_checkpoint


@pytest.fixture
def writer(tmp_path):
    with CheckpointWriter(tmp_path / "run.jsonl") as writer:
        yield writer


def test_a_future_with_a_key_is_done_only_when_its_record_is_on_disk(writer, gate):
    seen = []

    def look(future):
        record = load_checkpoint(writer.path)[future.key]
        seen.append((future.key, record.status))

    def work(task):
        if task["id"] == "bad":
            raise KeyError("bad")
        if task["id"] == "stuck":
            gate.wait(120)
        return {"id": task["id"]}

    with ThreadPoolExecutor(2, task_timeout=300, grace=0.02, checkpoint=writer) as pool:
        for name in ("good", "bad", "stuck"):
            options = pool.with_options(key=lambda task: task["id"], timeout=0.05 if name == "stuck" else None)
            future = options.submit(work, {"id": name})
            future.key = name
            future.add_done_callback(look)
            if name == "good":
                assert future.result(120) == {"id": "good"}
            else:
                with pytest.raises(DeadlineExceeded if name == "stuck" else KeyError):
                    future.result(120)
        gate.set()
    assert sorted(seen) == [("bad", "failed"), ("good", "done"), ("stuck", "timeout")]
    loaded = load_checkpoint(writer.path)
    assert loaded["good"].result == {"id": "good"}
    assert loaded["good"].elapsed is not None
    assert loaded["bad"].result.class_name == "builtins.KeyError"


def test_what_settle_makes_of_an_outcome_is_what_is_saved(writer):
    with ThreadPoolExecutor(1, checkpoint=writer) as pool:
        doubled = pool.with_options(key="one", settle=lambda outcome: outcome.result * 2)
        assert doubled.submit(int, 21).result(120) == 42
    assert load_checkpoint(writer.path)["one"].result == 42


def test_a_result_that_cannot_be_saved_is_not_lost(writer, caplog):
    result = object()
    with ThreadPoolExecutor(1, checkpoint=writer) as pool:
        assert pool.with_options(key=1).submit(lambda: result).result(120) is result
    assert "task 1 was not saved" in caplog.text


def test_a_key_needs_a_checkpoint():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="checkpoint="):
        pool.with_options(key="one")
