"""Which run is meant, whether it lives, and files in every state that a run can leave them in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_runs import make_run

from threadsafe_timeout._view.fields import number, objects, place, places, text, whole
from threadsafe_timeout._view.reading import EventReader, NoRunError, find_run, read_run


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(120)
    return process.pid


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".threadsafe_timeout"


def test_a_run_of_a_process_that_lives_is_running(here: Path) -> None:
    run = read_run(make_run(here))
    assert (run.state, run.pid, run.problem) == ("running", os.getpid(), None)


def test_a_run_that_said_so_has_ended(here: Path) -> None:
    assert read_run(make_run(here, state="ended")).state == "ended"


def test_a_run_whose_process_is_gone_is_dead_since_its_last_sign(here: Path, gone: int) -> None:
    run = read_run(make_run(here, pid=gone, now=1000.5))
    assert (run.state, run.since) == ("dead", 1000.5)


def test_another_process_that_was_given_the_number_does_not_make_it_live(here: Path) -> None:
    assert read_run(make_run(here, start_time=1)).state == "dead"


def test_the_newest_that_lives_is_taken(here: Path, gone: int) -> None:
    make_run(here, name="20260101-000000-1", pid=gone)
    alive = make_run(here, name="20260101-000001-2")
    make_run(here, name="20260101-000002-3", pid=gone)
    assert find_run().folder.name == alive.name


def test_else_the_newest(here: Path, gone: int) -> None:
    make_run(here, name="20260101-000000-1", pid=gone)
    newest = make_run(here, name="20260101-000002-3", state="ended")
    assert find_run().folder.name == newest.name


def test_a_run_is_found_by_its_folder_its_status_dir_and_the_directory_of_that(here: Path) -> None:
    folder = make_run(here)
    for target in (folder, here, here.parent):
        assert find_run(str(target)).folder == folder


def test_a_run_is_found_by_its_process_here(here: Path) -> None:
    folder = make_run(here)
    assert find_run(str(os.getpid())).folder.name == folder.name


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_a_run_is_found_by_its_process_wherever_its_files_are(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = make_run(tmp_path_factory.mktemp("elsewhere"))
    with open(folder / "events.jsonl", "rb"):
        assert find_run(str(os.getpid())).folder == folder


def test_the_setting_says_where_runs_are(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(here.parent / "elsewhere")
    monkeypatch.setenv("THREADSAFE_TIMEOUT_STATUS_DIR", "elsewhere")
    assert find_run().folder.name == folder.name


@pytest.mark.parametrize("target", [None, ".", "999999999", "no/such/folder"])
def test_no_run_says_where_was_looked_and_what_to_do(here: Path, target: str | None) -> None:
    with pytest.raises(NoRunError) as caught:
        find_run(target)
    assert any(words in str(caught.value) for words in (".threadsafe_timeout/runs", "give the folder"))


def test_a_process_without_a_run_is_told_from_one_that_is_not_there(here: Path, gone: int) -> None:
    with pytest.raises(NoRunError, match="has no files of a run"):
        find_run(str(os.getpid()))
    with pytest.raises(NoRunError, match="there is no process"):
        find_run(str(gone))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"t": ' + b"[" * 100_000])
def test_a_damaged_status_leaves_the_events(here: Path, content: bytes) -> None:
    folder = make_run(here)
    (folder / "status.json").write_bytes(content)
    run = read_run(folder)
    assert (run.state, run.status["program"]) == ("running", "runner.py")
    assert "status.json" in (run.problem or "")


def test_no_events_leave_the_status(here: Path) -> None:
    folder = make_run(here)
    (folder / "events.jsonl").unlink()
    assert read_run(folder).problem is None


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NoRunError, match="holds no run"):
        read_run(tmp_path)


def test_a_newer_schema_is_told_and_shown_as_far_as_it_goes(here: Path) -> None:
    run = read_run(make_run(here, schema=7, unknown={"a": 1}))
    assert "newer version (schema 7" in (run.problem or "")
    assert run.status["program"] == "runner.py"


def test_events_come_once_and_a_torn_line_when_it_is_whole(here: Path) -> None:
    folder = make_run(here)
    reader = EventReader(folder)
    assert [event["kind"] for event in reader.new()] == ["run"]
    line = json.dumps({"kind": "tick", "t": 1}).encode() + b"\n"
    with open(folder / "events.jsonl", "ab", buffering=0) as file:
        file.write(line[:9])
        assert list(reader.new()) == []
        assert reader.torn
        file.write(line[9:] + line)
        assert [event["kind"] for event in reader.new()] == ["tick", "tick"]
    assert (list(reader.new()), reader.torn) == ([], False)


def test_lines_that_are_no_events_are_counted_and_passed_over(here: Path) -> None:
    folder = make_run(here)
    with open(folder / "events.jsonl", "ab") as file:
        file.write(b'{"kind": 3}\n[]\n\0\0\0\n\n{"kind": "from a newer version"}\n')
    reader = EventReader(folder)
    assert [event["kind"] for event in reader.new()] == ["run", "from a newer version"]
    assert reader.skipped == 4


def test_only_the_last_events_are_read_if_no_more_is_asked_for(here: Path) -> None:
    folder = make_run(here, events=[{"kind": "tick", "t": number_} for number_ in range(1000)])
    reader = EventReader(folder, last=200)
    found = [event["t"] for event in reader.new()]
    assert found == list(range(1000 - len(found), 1000))
    assert 0 < len(found) < 20
    assert reader.skipped == 0


def test_a_file_that_was_replaced_by_a_shorter_one_is_read_from_its_beginning(here: Path) -> None:
    folder = make_run(here, events=[{"kind": "tick", "t": 1}] * 9)
    reader = EventReader(folder)
    assert len(list(reader.new())) == 10
    (folder / "events.jsonl").write_text('{"kind": "run"}\n')
    assert len(list(reader.new())) == 1


def test_values_of_another_kind_are_as_good_as_absent() -> None:
    assert [number(one) for one in (1, 1.5, True, "1", None, float("nan"), float("inf"), 10**400)] == [1, 1.5, *[None] * 6]
    assert (whole(2.9), whole("x"), text(None), text(["a"]), text(3)) == (2, 0, "", "", "3")
    assert (objects([{"a": 1}, 2, None]), objects("x")) == ([{"a": 1}], [])
    assert (place(["f", 1, "g"]), place(["f", 1]), place(None), place([1, 2, 3])) == (("f", 1, "g"), None, None, None)
    assert (places([["f", 1, "g"], "x"]), places(3)) == ([("f", 1, "g")], [])


def test_a_clock_that_is_ahead_does_no_harm(here: Path) -> None:
    assert read_run(make_run(here, now=time.time() + 1e6)).state == "running"
