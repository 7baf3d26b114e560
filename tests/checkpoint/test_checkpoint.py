"""The journal as its users see it: save, load, resume, keys, configurations, what is refused."""

from __future__ import annotations

import json
import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import threadsafe_timeout.checkpoint as checkpoint_package
from threadsafe_timeout.checkpoint import (
    Checkpoint,
    CheckpointClosed,
    CheckpointConfigMismatch,
    CheckpointCorrupt,
    CheckpointError,
    CheckpointLockTimeout,
    CheckpointNotFound,
    CheckpointSaveError,
    CheckpointUnavailable,
    CheckpointVersionError,
    CheckpointWriter,
    RecordedError,
    UnserializableResult,
    config_hash,
    iter_records,
    load_checkpoint,
    open_run,
)


def journals(path: Path) -> list[str]:
    return sorted(item.name for item in path.parent.glob("*.jsonl"))


def test_saved_records_come_back_in_file_order(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        assert writer.started("b") == 1
        writer.save("b", {"score": 1.5})
        writer.save("a", [1, 2], status="failed")
        writer.save("b", {"score": 2.5})
        writer.started("in flight")
    loaded = load_checkpoint(path)
    assert list(loaded) == ["a", "b", "in flight"]
    assert loaded["b"].result == {"score": 2.5}
    assert (loaded["b"].status, loaded["b"].attempt, loaded["a"].status) == ("done", 2, "failed")
    assert loaded["in flight"].status == "started"
    assert loaded["in flight"].result is None
    assert loaded.counts() == {"done": 1, "failed": 1, "started": 1}
    assert loaded.ended
    assert [record.result for record in iter_records(path) if record.key == "b"] == [None, {"score": 1.5}, {"score": 2.5}]


def test_a_line_is_json_with_checksum_version_time_attempt_and_pid(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.started("k")
        writer.save("k", {"text": "Straße 北京"})
    header, started, done, closed = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert set(done) == {"v", "event", "key", "time", "attempt", "pid", "elapsed", "result", "sum"}
    assert (done["v"], done["event"], done["key"], done["attempt"]) == (1, "done", "k", 1)
    assert [header["event"], started["event"], closed["event"]] == ["journal", "started", "closed"]
    assert "Straße 北京" in path.read_text(encoding="utf-8")


def test_many_threads_share_a_writer(path: Path) -> None:
    with CheckpointWriter(path) as writer, ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda n: writer.save(n, {"n": n}), range(500)))
    assert {key: record.result["n"] for key, record in load_checkpoint(path).items()} == {n: n for n in range(500)}


def test_a_record_is_on_disk_before_save_returns(path: Path) -> None:
    writer = CheckpointWriter(path)
    writer.save("k", 1)
    assert load_checkpoint(path)["k"].result == 1
    assert not load_checkpoint(path).ended
    writer.close()
    assert not load_checkpoint(path).ended


def test_a_started_line_does_not_hide_an_outcome_but_counts_the_attempt(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.started("k")
        writer.save("k", "first", status="timeout")
    with CheckpointWriter(path) as writer:
        assert writer.started("k") == 2
    record = load_checkpoint(path)["k"]
    assert (record.status, record.result, record.attempt) == ("timeout", "first", 2)


def test_elapsed_is_measured_from_started(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.started("timed")
        writer.save("timed", 1)
        writer.save("untimed", 1)
    loaded = load_checkpoint(path)
    assert loaded["timed"].elapsed is not None
    assert loaded["timed"].elapsed >= 0
    assert loaded["untimed"].elapsed is None


def test_leaving_the_block_by_an_exception_leaves_the_run_unfinished(path: Path) -> None:
    def fail() -> None:
        with CheckpointWriter(path) as writer:
            writer.save("k", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not load_checkpoint(path).ended


def test_a_closed_writer_refuses(path: Path) -> None:
    writer = CheckpointWriter(path)
    writer.close()
    writer.close()
    with pytest.raises(CheckpointClosed, match="'k' was not recorded"):
        writer.save("k", 1)
    with pytest.raises(CheckpointClosed):
        writer.started("k")


@pytest.mark.parametrize("status", ["started", "closed", "journal", "", None])
def test_a_status_that_means_something_else_is_refused(path: Path, status: Any) -> None:
    with CheckpointWriter(path) as writer, pytest.raises(ValueError, match="status must be"):
        writer.save("k", 1, status=status)


@pytest.mark.parametrize("key", [None, True, 1.5, ("a", 1)])
def test_a_key_is_a_str_or_an_int(path: Path, key: Any) -> None:
    with CheckpointWriter(path) as writer, pytest.raises(TypeError, match="key=task_fingerprint"):
        writer.save(key, 1)


def test_the_key_function_names_tasks(path: Path) -> None:
    with CheckpointWriter(path, key=lambda task: task["id"]) as writer:
        writer.save({"id": 7}, "seven")
    assert load_checkpoint(path)[7].result == "seven"


def test_odd_keys_survive(path: Path) -> None:
    odd = ['","result":1,"sum":"', "a\nb", "\ud800", "", "🙂", 2**70, -1]
    with CheckpointWriter(path) as writer:
        for key in odd:
            writer.save(key, [key])
    assert {key: record.result for key, record in load_checkpoint(path).items()} == {key: [key] for key in odd}


@pytest.mark.parametrize(("name", "value"), [("mode", "quick"), ("lock_timeout", -1), ("lock_timeout", float("nan"))])
def test_bad_arguments_are_named(path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        CheckpointWriter(path, **{name: value})
    with pytest.raises(ValueError, match=name):
        open_run(path, **{name: value})
    assert not path.exists()


def test_a_new_journal_in_a_new_directory(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "run.jsonl"
    with CheckpointWriter(deep, mode="fast") as writer:
        writer.save("k", 1)
    assert load_checkpoint(deep)["k"].result == 1


def test_a_later_chdir_does_not_move_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with CheckpointWriter("run.jsonl") as writer:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        writer.save("k", 1)
    assert load_checkpoint(tmp_path / "run.jsonl")["k"].result == 1


def test_results_are_read_when_asked_for(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("big", "x" * 5_000_000)
    loaded = load_checkpoint(path)
    path.rename(path.with_name("moved.jsonl"))
    assert len(loaded["big"].result) == 5_000_000


def test_a_result_that_changed_after_loading_is_noticed(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("k", "abc")
    record = load_checkpoint(path)["k"]
    with open(path, "r+b") as stream:
        stream.seek(record.offset + 10)
        stream.write(b"#")
    with pytest.raises(CheckpointCorrupt, match="line 2"):
        _ = record.result


# --- configurations ---------------------------------------------------------------------------------------------


def test_another_configuration_is_refused_and_named_without_its_values(path: Path) -> None:
    with CheckpointWriter(path, config={"model": "a", "key": "sk-secret", "n": 1}) as writer:
        writer.save("k", 1)
    CheckpointWriter(path, config={"n": 1, "key": "sk-secret", "model": "a"}).close()
    CheckpointWriter(path).close()
    with pytest.raises(CheckpointConfigMismatch, match=r"they differ in: model, n\)") as caught:
        CheckpointWriter(path, config={"model": "b", "key": "sk-secret", "n": 2})
    assert caught.value.fields == ("model", "n")
    assert caught.value.found == config_hash({"model": "a", "key": "sk-secret", "n": 1})
    assert "sk-secret" not in path.read_text()


def test_a_journal_without_a_configuration_is_not_taken_for_one_with(path: Path) -> None:
    CheckpointWriter(path).close()
    with pytest.raises(CheckpointConfigMismatch, match=r"\(none given\)"):
        CheckpointWriter(path, config={"model": "a"})


# --- starting and resuming runs ---------------------------------------------------------------------------------


def killed_run(path: Path, config: object = None) -> None:
    writer, _ = open_run(path, config=config)
    writer.save("done", 1)
    writer.save("late", 2, status="timeout")
    writer.started("in flight")
    writer.close()


def test_an_unfinished_run_is_resumed(path: Path) -> None:
    killed_run(path, {"a": 1})
    writer, finished = open_run(path, config={"a": 1})
    writer.close()
    assert {key: record.result for key, record in finished.items()} == {"done": 1}
    assert journals(path) == ["run.jsonl"]


@pytest.mark.parametrize(
    ("retry", "expected"),
    [(None, {"done"}), ((), {"done", "late"}), ({"timeout"}, {"done"}), (["failed"], {"done", "late"})],
)
def test_retry_says_which_statuses_run_again(path: Path, retry: Any, expected: set[str]) -> None:
    killed_run(path)
    writer, finished = open_run(path, retry=retry)
    writer.close()
    assert finished.keys() == expected
    with pytest.raises(TypeError, match="collection of statuses"):
        open_run(path, retry="timeout")


@pytest.mark.parametrize("why", ["ended", "another configuration", "never"])
def test_a_fresh_run_keeps_the_old_file_aside(path: Path, why: str) -> None:
    killed_run(path, {"a": 1})
    if why == "ended":
        writer, _ = open_run(path, config={"a": 1})
        writer.close(ended=True)
    before = path.read_bytes()
    config = {"a": 2} if why == "another configuration" else {"a": 1}
    writer, finished = open_run(path, config=config, resume="never" if why == "never" else "unfinished")
    writer.save("done", "new")
    writer.close()
    assert finished == {}
    aside = [name for name in journals(path) if name != "run.jsonl"]
    assert len(aside) == 1
    assert (path.parent / aside[0]).read_bytes() == before
    assert load_checkpoint(path)["done"].result == "new"


def test_always_goes_on_with_an_ended_run_but_not_with_another_configuration(path: Path) -> None:
    with CheckpointWriter(path, config={"a": 1}) as writer:
        writer.save("done", 1)
    writer, finished = open_run(path, config={"a": 1}, resume="always")
    writer.close()
    assert finished.keys() == {"done"}
    with pytest.raises(CheckpointConfigMismatch):
        open_run(path, config={"a": 2}, resume="always")
    with pytest.raises(ValueError, match="resume"):
        open_run(path, resume="sometimes")  # type: ignore[arg-type]  # that is the test


# --- errors, names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        CheckpointClosed("p", "k"),
        CheckpointConfigMismatch("p", "a", "b", ("c",)),
        CheckpointCorrupt("p", 3, 99, "why"),
        CheckpointLockTimeout("p", 3.0, "process 1"),
        CheckpointNotFound("p", "read", 2, "look"),
        CheckpointSaveError("p", "k", "done", {"r": 1}, "full"),
        CheckpointUnavailable("p", "open", 13, "ask"),
        CheckpointVersionError("p", 2, "newer"),
        UnserializableResult("result[0]", "m.C", "no rule"),
        RecordedError("m.E", "text", "trace"),
    ],
)
def test_errors_pickle_and_say_what_happened(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert isinstance(error, CheckpointError) or type(error) is RecordedError


def test_errors_are_builtins_too() -> None:
    assert issubclass(CheckpointCorrupt, ValueError)
    assert issubclass(CheckpointLockTimeout, TimeoutError)
    assert issubclass(CheckpointNotFound, FileNotFoundError)
    assert issubclass(CheckpointSaveError, OSError)
    assert issubclass(UnserializableResult, TypeError)


def test_a_missing_checkpoint_is_a_clear_error(path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="Check the path") as caught:
        load_checkpoint(path)
    assert caught.value.filename == str(path)


def test_what_is_no_checkpoint_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("name,score\na,1\n")
    with pytest.raises(CheckpointCorrupt, match="line 1"):
        load_checkpoint(path)
    with pytest.raises(CheckpointCorrupt):
        CheckpointWriter(path)
    path.write_text("just text")
    with pytest.raises(CheckpointVersionError, match="not a threadsafe-timeout checkpoint"):
        load_checkpoint(path)
    with pytest.raises(CheckpointCorrupt):
        CheckpointWriter(path)
    assert path.read_text() == "just text"
    with pytest.raises(CheckpointUnavailable, match=r"cannot open the checkpoint for writing: .*path of a file"):
        CheckpointWriter(path.parent)


def test_a_newer_format_is_refused(path: Path) -> None:
    body = b'{"v":2,"event":"journal"'
    path.write_bytes(body + b',"sum":"%08x"}\n' % zlib.crc32(body))
    with pytest.raises(CheckpointVersionError, match="upgrade threadsafe-timeout") as caught:
        load_checkpoint(path)
    assert caught.value.version == 2
    with pytest.raises(CheckpointVersionError):
        CheckpointWriter(path)


def test_the_public_names() -> None:
    assert sorted(checkpoint_package.__all__) == checkpoint_package.__all__
    for name in checkpoint_package.__all__:
        assert getattr(checkpoint_package, name).__doc__


def test_an_empty_file_is_a_journal_not_yet_begun(path: Path) -> None:
    path.touch()
    assert len(load_checkpoint(path)) == 0
    with CheckpointWriter(path) as writer:
        writer.save("k", 1)
    assert isinstance(load_checkpoint(path), Checkpoint)
