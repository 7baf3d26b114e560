"""Disks that fill, fail, vanish and are taken away; locks that others hold. No result is lost because saving failed."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from threadsafe_timeout.checkpoint import (
    CheckpointLockTimeout,
    CheckpointSaveError,
    CheckpointUnavailable,
    CheckpointWriter,
    _disk,
    _lock,
    _records,
    _spill,
    _writer,
    iter_records,
    load_checkpoint,
    open_run,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run.jsonl"


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Spill files must not be seen by another test, nor left in the real place."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(_writer, "pause", pauses.append)
    return pauses


class Fault:
    """Makes the calls of one `_disk` function on files whose path `hits` fail, `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int, times: int, hits: Callable[[str], bool]) -> None:
        original = getattr(_disk, name)
        self.calls = 0
        self.times = times

        def call(target: Any, *args: Any) -> Any:
            where = target if isinstance(target, str) else os.readlink(f"/proc/self/fd/{target}")
            if self.calls < self.times and hits(where):
                self.calls += 1
                if name == "write" and number == errno.ENOSPC and self.calls % 2:
                    original(target, args[0][: len(args[0]) // 2])  # a full disk takes what fits first
                raise OSError(number, os.strerror(number), where)
            return original(target, *args)

        monkeypatch.setattr(_disk, name, call)


def everything(_: str) -> bool:
    return True


def journal_only(where: str) -> bool:
    return where.endswith("run.jsonl")


def results(path: Path) -> dict[Any, Any]:
    return {key: record.result for key, record in load_checkpoint(path).items() if record.status == "done"}


def lines_of(path: Path) -> list[Any]:
    return [record.key for record in iter_records(path)]


@pytest.mark.parametrize("name", ["write", "sync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EAGAIN, errno.EDQUOT, errno.ESTALE])
def test_a_passing_fault_is_retried_and_nothing_is_doubled(
    path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float], name: str, number: int
) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("before", 1)
        fault = Fault(monkeypatch, name, number, 2, journal_only)
        writer.save("k", 2)
        assert fault.calls == 2
        assert len(no_pauses) == 2
    assert results(path) == {"before": 1, "k": 2}
    assert lines_of(path) == ["before", "k"]
    assert _spill.find(str(path)) == []


@pytest.mark.parametrize("name", ["write", "sync_once"])
def test_interrupted_calls_are_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float], name: str
) -> None:
    with CheckpointWriter(path) as writer:
        fault = Fault(monkeypatch, name, errno.EINTR, 5, journal_only)
        writer.save("k", 2)
        assert fault.calls == 5
    assert lines_of(path) == ["k"]
    assert no_pauses == []


def test_short_writes_go_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = _disk.write
    monkeypatch.setattr(_disk, "write", lambda fd, data: write(fd, data[:7]))
    with CheckpointWriter(path) as writer:
        for number in range(20):
            writer.save(number, "x" * number)
    assert results(path) == {number: "x" * number for number in range(20)}


def test_a_lasting_fault_spills_loudly_and_the_records_move_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CheckpointWriter(path)
    writer.save("before", 0)
    with monkeypatch.context() as patched:
        Fault(patched, "write", errno.ENOSPC, 10**6, journal_only)
        writer.save("full", 1)
        writer.save("full too", 2)
        assert any("spill file" in record.getMessage() and record.levelno == logging.ERROR for record in caplog.records)
        (spill,) = _spill.find(str(path))
        assert Path(spill).parent == path.parent
        assert lines_of(path) == ["before"]
        assert results(path) == {"before": 0, "full": 1, "full too": 2}
        assert load_checkpoint(path).spills == (spill,)
    writer.save("after", 3)
    assert _spill.find(str(path)) == []
    assert lines_of(path) == ["before", "full", "full too", "after"]
    writer.close()


def test_when_the_whole_directory_fails_the_temporary_one_takes_the_record(
    path: Path, monkeypatch: pytest.MonkeyPatch, own_temporary_directory: Path
) -> None:
    writer = CheckpointWriter(path)
    with monkeypatch.context() as patched:
        Fault(patched, "write", errno.EIO, 10**6, lambda where: where.startswith(str(path.parent)))
        writer.save("k", 1)
        (spill,) = _spill.find(str(path))
        assert spill.startswith(str(own_temporary_directory))
        writer.close()
    assert results(path) == {"k": 1}


def test_a_spill_file_of_a_dead_process_is_taken_in_by_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CheckpointWriter(path)
    with monkeypatch.context() as patched:
        Fault(patched, "sync", errno.EIO, 10**6, journal_only)
        writer.save("k", 1)
        writer.save("l", 2)
        writer.close()
    (spill,) = _spill.find(str(path))
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    os.rename(spill, spill.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    with CheckpointWriter(path) as writer:
        assert _spill.find(str(path)) == []
        assert writer.started("k") == 2
    assert results(path) == {"k": 1, "l": 2}
    assert lines_of(path)[:2] == ["k", "l"]


def test_a_spill_file_that_moves_back_while_the_journal_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CheckpointWriter(path)
    with monkeypatch.context() as patched:
        Fault(patched, "write", errno.ENOSPC, 10**6, journal_only)
        writer.save("k", 1)
    read = _records._load_journal

    def read_and_move_back(*args: Any) -> Any:
        monkeypatch.setattr(_records, "_load_journal", read)
        loaded = read(*args)
        writer.save("l", 2)
        return loaded

    monkeypatch.setattr(_records, "_load_journal", read_and_move_back)
    assert results(path) == {"k": 1, "l": 2}
    writer.close()


def test_a_spill_file_of_an_earlier_run_stays_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, _ = open_run(path)
    with monkeypatch.context() as patched:
        Fault(patched, "write", errno.EIO, 10**6, journal_only)
        writer.save("old", 1)
        writer.close()
    writer, finished = open_run(path, resume="never")
    writer.close()
    assert finished == {}
    assert results(path) == {}
    (aside,) = [item for item in path.parent.glob("run.*.jsonl") if ".spill-" not in item.name]
    assert results(aside) == {"old": 1}


def test_when_nothing_can_be_written_the_error_holds_the_result_and_the_next_save_writes_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CheckpointWriter(path)
    with monkeypatch.context() as patched:
        Fault(patched, "write", errno.ENOSPC, 10**6, everything)
        with pytest.raises(CheckpointSaveError, match=r"'k' could not be saved: .*No space left.*kept in memory") as caught:
            writer.save("k", {"precious": 1})
        assert caught.value.result == {"precious": 1}
        assert isinstance(caught.value.__cause__, OSError)
        assert writer.started("l") == 1
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)
    assert results(path) == {}
    writer.save("m", 2)
    assert results(path) == {"k": {"precious": 1}, "m": 2}
    writer.close()


def test_close_writes_what_was_kept_or_says_that_it_could_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lasting in (False, True):
        writer = CheckpointWriter(path)
        with monkeypatch.context() as patched:
            Fault(patched, "write", errno.ENOSPC, 10**6, everything)
            with pytest.raises(CheckpointSaveError):
                writer.save(str(lasting), 1)
            if lasting:
                with pytest.raises(CheckpointSaveError, match="1 records") as caught:
                    writer.close()
                assert b'"key":"True"' in caught.value.result[0]  # type: ignore[index]  # the lines
        writer.close()
    assert results(path) == {"False": 1}


def test_many_savers_share_a_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CheckpointWriter(path)
    outcomes: dict[int, bool] = {}

    def save(number: int) -> None:
        try:
            writer.save(number, number)
            outcomes[number] = True
        except CheckpointSaveError:
            outcomes[number] = False

    with monkeypatch.context() as patched:
        Fault(patched, "write", errno.EIO, 300, everything)
        threads = [threading.Thread(target=save, args=(n,), daemon=True) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert sorted(outcomes) == list(range(40))
    writer.close()
    assert results(path) == {number: number for number in range(40)}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENAMETOOLONG])
def test_a_journal_that_cannot_be_opened_is_a_clear_error_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    Fault(monkeypatch, "open_file", number, 1, journal_only)
    with pytest.raises(CheckpointUnavailable, match="cannot open the checkpoint for writing") as caught:
        CheckpointWriter(path)
    assert caught.value.errno == number
    assert isinstance(caught.value, OSError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    with pytest.raises(CheckpointUnavailable, match="right to write"):
        CheckpointWriter(path)


# --- the file is taken away -------------------------------------------------------------------------------------


def test_a_deleted_journal_is_written_again_whole(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("a", 1)
        path.unlink()
        writer.save("b", 2)
    assert results(path) == {"a": 1, "b": 2}
    assert any("was deleted while in use" in record.getMessage() for record in caplog.records)


def test_a_vanished_directory_is_made_again(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("a", 1)
        shutil.rmtree(path.parent)
        writer.save("b", 2)
    assert results(path) == {"a": 1, "b": 2}


def test_an_older_copy_put_in_place_gets_the_missing_records(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("a", 1)
        old = path.read_bytes()
        writer.save("b", 2)
        writer.save("a", 3)
        path.with_name("copy").write_bytes(old)
        os.replace(path.with_name("copy"), path)
        writer.save("c", 4)
    assert results(path) == {"a": 3, "b": 2, "c": 4}


def test_another_runs_file_is_never_mixed_with_ours(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = CheckpointWriter(path)
    first.save("first", 1)
    second, _ = open_run(path, resume="never")
    first.save("first again", 2)
    second.save("second", 3)
    first.close()
    second.close()
    assert results(path) == {"second": 3}
    (aside,) = path.parent.glob("run.*.jsonl")
    assert results(aside) == {"first": 1, "first again": 2}
    assert any("now belongs to another run" in record.getMessage() for record in caplog.records)


def test_a_foreign_file_over_ours_is_left_alone(path: Path) -> None:
    writer = CheckpointWriter(path)
    writer.save("a", 1)
    path.with_name("foreign").write_text("something else\n")
    os.replace(path.with_name("foreign"), path)
    writer.save("b", 2)
    writer.close()
    assert path.read_text() == "something else\n"
    (recovered,) = path.parent.glob("run.jsonl.recovered-*")
    assert results(recovered) == {"a": 1, "b": 2}


def test_a_descriptor_closed_behind_our_back(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("a", 1)
        os.close(writer._journal._fd.number)
        writer.save("b", 2)
    assert results(path) == {"a": 1, "b": 2}


def test_a_descriptor_number_that_became_another_file(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("a", 1)
        number = writer._journal._fd.number
        other = os.open(path.with_name("other"), os.O_RDWR | os.O_CREAT)
        os.dup2(other, number)
        os.close(other)
        writer.save("b", 2)
    assert results(path) == {"a": 1, "b": 2}
    assert path.with_name("other").read_bytes() == b""


def test_a_torn_line_of_another_process_is_cut_off_before_ours(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.save("a", 1)
        with open(path, "ab") as stream:
            stream.write(b'{"v":1,"event":"done","key":"torn"')
        writer.save("b", 2)
    assert results(path) == {"a": 1, "b": 2}
    assert Path(f"{path}.torn").read_bytes() == b'{"v":1,"event":"done","key":"torn"\n'


# --- locks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def held(path: Path) -> Iterator[FileLock]:
    CheckpointWriter(path).close()
    lock = FileLock(f"{path}.lock", thread_local=False)
    lock.acquire()
    yield lock
    lock.release(force=True)


def test_opening_waits_for_the_lock_and_then_says_who_has_it(path: Path, held: FileLock) -> None:
    with pytest.raises(CheckpointLockTimeout, match=r"not free within 0\.05 s") as caught:
        CheckpointWriter(path, lock_timeout=0.05)
    assert caught.value.holder is None or str(os.getpid()) in caught.value.holder
    assert held.is_locked


def test_a_save_waits_for_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CheckpointWriter(path)
    waiting = threading.Event()
    pause = _lock.pause

    def noted_pause(seconds: float) -> None:
        waiting.set()
        pause(seconds)

    monkeypatch.setattr(_lock, "pause", noted_pause)
    lock = FileLock(f"{path}.lock", thread_local=False)
    lock.acquire()
    thread = threading.Thread(target=writer.save, args=("k", 1), daemon=True)
    thread.start()
    assert waiting.wait(120)
    assert results(path) == {}
    lock.release()
    thread.join(120)
    assert results(path) == {"k": 1}
    writer.close()


def test_a_lock_that_is_never_let_go_spills(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = CheckpointWriter(path, lock_timeout=0.05)
    lock = FileLock(f"{path}.lock", thread_local=False)
    lock.acquire()
    writer.save("k", 1)
    assert results(path) == {"k": 1}
    assert lines_of(path) == []
    assert any("the lock was not free" in record.getMessage() for record in caplog.records)
    lock.release()
    writer.save("l", 2)
    writer.close()
    assert lines_of(path) == ["k", "l"]
