"""The journal says where an error came from, its readers show it, and files without it stay readable."""

from __future__ import annotations

import argparse
import csv
import io
import json
import linecache
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from blocked import LONG, expire

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor, check_cancelled, deadline
from threadsafe_timeout.checkpoint import (
    CheckpointWriter,
    RecordedError,
    _format,
    checkpointed,
    command,
    iter_records,
    load_checkpoint,
)

PLACE = ("agent.py", 41, "ask")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        assert command.run(parser.parse_args([str(argument) for argument in arguments])) == 0
        return capsys.readouterr().out

    return call


def expired() -> DeadlineExceeded:
    with pytest.raises(DeadlineExceeded) as caught, deadline(0):
        check_cancelled()  # here
    return caught.value


def parse(text: str) -> int:
    return int(text)  # here


def is_here(where: tuple[str, int, str] | None) -> bool:
    return where is not None and where[0] == __file__ and "# here" in linecache.getline(where[0], where[1])


def raised(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whichever
        call()
    return caught.value


def test_an_error_that_is_saved(path: Path) -> None:
    error = expired()
    with CheckpointWriter(path) as writer:
        writer.save("timeout", error, "timeout")
        writer.save("failed", raised(lambda: parse("x")), "failed")
        writer.save("mine", {"error": "as my runner has it"}, "timeout", error=error)
        writer.save("done", {"score": 1})
        writer.save("bare", ValueError("never raised"), "failed")
        writer.started("running")
    for records in (load_checkpoint(path), {record.key: record for record in iter_records(path)}):
        assert records["timeout"].where == records["mine"].where == error.where
        assert is_here(records["timeout"].where)
        assert is_here(records["failed"].where)
        assert records["failed"].where[2] == "parse"  # type: ignore[index]
        assert [records[key].where for key in ("done", "bare", "running")] == [None] * 3
        assert records["mine"].result == {"error": "as my runner has it"}
        assert isinstance(records["timeout"].result, RecordedError)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["where"] for line in lines if "where" in line] == [list(error.where), lines[2]["where"], list(error.where)]  # type: ignore[arg-type]


def test_an_error_that_comes_back_and_is_saved_again_has_no_place(path: Path) -> None:
    """It is not where the program reads its results."""
    with CheckpointWriter(path) as writer:
        writer.save("a", expired(), "timeout")
    saved = load_checkpoint(path)["a"].result
    with pytest.raises(RecordedError):
        raise saved
    with CheckpointWriter(path) as writer:
        writer.save("b", saved, "timeout")
    assert load_checkpoint(path)["b"].where is None


def test_a_file_without_places_is_read_and_gone_on_with(path: Path) -> None:
    """What earlier releases wrote; and what they would make of a line with a place: its fields, by name."""
    with CheckpointWriter(path) as writer:
        writer.close()
    with path.open("ab") as stream:
        stream.write(_format.event_line("failed", "old", 1.0, 1, 0.5, b'{"$type":"exception","class":"builtins.ValueError","message":"m","traceback":""}'))
    assert load_checkpoint(path)["old"].where is None
    with CheckpointWriter(path) as writer:
        writer.save("new", expired(), "timeout")
    loaded = load_checkpoint(path)
    assert loaded["old"].where is None
    assert is_here(loaded["new"].where)
    raw = _format.event_line("failed", "k", 1.0, 1, 0.5, b"1", PLACE)
    assert raw.startswith(b'{"v":1,"event":"failed","key":"k","time":1.000000,"attempt":1,"pid":')
    assert b',"elapsed":0.500000,"where":["agent.py",41,"ask"],"result":1,"sum":"' in raw
    assert _format.is_intact(raw.removesuffix(b"\n"))


def test_a_place_with_any_name(path: Path) -> None:
    place = ('<a "b"\n\u2028\udc80>', 1, "f.<locals>.<lambda>")
    with CheckpointWriter(path) as writer:
        writer.save("a", 1, "failed", error=DeadlineExceeded(where=place))
    assert load_checkpoint(path)["a"].where == place


# Pools, and functions


def cooperative(_question: str) -> None:
    with deadline(0):
        check_cancelled()  # here


def test_tasks_of_a_pool(path: Path) -> None:
    begun, gate = threading.Event(), threading.Event()

    def acquire(_question: str) -> None:  # the name says that no interrupt strikes in it
        begun.set()  # here, too, it may be found
        gate.wait(LONG)  # here

    with CheckpointWriter(path) as writer, ThreadPoolExecutor(2, grace=0.05, checkpoint=writer) as pool:
        stuck = pool.with_options(key="stuck").submit(acquire, "q")
        assert begun.wait(LONG)
        assert not stuck.cancel()
        late = pool.with_options(key="late").submit(cooperative, "q")
        failed = pool.with_options(key="failed").submit(parse, "x")
        errors = {"stuck": stuck.exception(LONG), "late": late.exception(LONG), "failed": failed.exception(LONG)}
        gate.set()
    loaded = load_checkpoint(path)
    assert all(is_here(record.where) for record in loaded.values())
    for key in ("stuck", "late"):
        error = errors[key]
        assert isinstance(error, DeadlineExceeded)
        assert (loaded[key].where, loaded[key].status) == (error.where, "timeout")


def test_a_checkpointed_function(path: Path) -> None:
    @checkpointed(path, key=str)
    def answer(question: str) -> int:
        if question == "late":
            expire(0)
            check_cancelled()  # here
        return parse(question)

    with pytest.raises(DeadlineExceeded), deadline(LONG):
        answer("late")
    with pytest.raises(ValueError, match="invalid literal"):
        answer("x")
    answer.close()
    loaded = load_checkpoint(path)
    assert {key: record.status for key, record in loaded.items()} == {"late": "timeout", "x": "failed"}
    assert all(is_here(record.where) for record in loaded.values())


# The command


def many(path: Path) -> None:
    with CheckpointWriter(path, mode="fast") as writer:
        for number in range(10):
            error = DeadlineExceeded(f"ask('q{number}')", 5, 5 + number / 7, "deadline", PLACE)
            writer.save(f"q{number}", error, "timeout")
        for number in range(5):
            writer.save(f"p{number}", raised(lambda number=number: parse(f"x{number}")), "failed")  # type: ignore[misc]
        for number in range(3):
            writer.save(f"m{number}", {"error": f"task m{number} took {number}.5 s on 'host-{number}'"}, "timeout")
        writer.save("other", DeadlineExceeded("ask('r')", 5, 5, "deadline", ("agent.py", 99, "search")), "timeout")


def test_show_groups_errors_by_kind_and_place(run: Callable[..., str], path: Path) -> None:
    many(path)
    out = run("show", path)
    lines = out[out.index("errors:") :].splitlines()
    assert lines[1:3] == [
        "        10 × timeout: DeadlineExceeded at agent.py:41, in ask",
        "             first q0: ask('q0') timed out after 5.0 seconds (its deadline was 5 s), at agent.py:41, in ask",
    ]
    assert lines[3].startswith("         5 × failed: ValueError at ")
    assert lines[4] == "             first p0: invalid literal for int() with base 10: 'x0'"
    assert lines[5:7] == ["         3 × timeout", "             first m0: task m0 took 0.5 s on 'host-0'"]
    assert lines[7] == "         1 × timeout: DeadlineExceeded at agent.py:99, in search"
    assert len(lines) == 9
    few = run("show", path, "-n", 1)
    assert few.endswith("  and 3 other kinds (-n 4 shows them)\n")


def test_show_groups_what_has_no_place_by_its_text(run: Callable[..., str], path: Path) -> None:
    """Files of earlier releases: what texts have in common counts, not their numbers and keys."""
    with CheckpointWriter(path, mode="fast") as writer:
        for key in ("alpha", "beta", "gamma"):
            writer.save(key, ValueError(f"{key}: no answer in {len(key)} s (id 0x{ord(key[0]):x})"), "failed")
        writer.save("delta", ValueError("something else"), "failed")
    out = run("show", path)
    assert "         3 × failed: ValueError\n             first alpha: alpha: no answer in 5 s" in out
    assert "         1 × failed: ValueError\n             first delta: something else\n" in out


def test_exports(run: Callable[..., str], path: Path, tmp_path: Path) -> None:
    many(path)
    rows = json.loads(run("export", path, "--to", "json"))
    assert rows[0]["where"] == list(PLACE)
    table = list(csv.DictReader(io.StringIO(run("export", path, "--to", "csv"))))
    assert table[0]["where"] == "agent.py:41, in ask"
    run("export", path, "--to", "parquet", "-o", tmp_path / "run.parquet")
    columns = pyarrow.parquet.read_table(tmp_path / "run.parquet").to_pydict()
    assert columns["where"][0] == "agent.py:41, in ask"
    with CheckpointWriter(path) as writer:
        writer.save("fine", {"where": "mine"})
    assert json.loads(run("export", path, "--to", "json", "--status", "done"))[0]["where"] is None
    [row] = csv.DictReader(io.StringIO(run("export", path, "--to", "csv", "--status", "done")))
    assert (row["where"], row["result.where"]) == ("", "mine")


def test_places_survive_compacting_and_repair(run: Callable[..., str], path: Path) -> None:
    many(path)
    before = {key: record.where for key, record in load_checkpoint(path).items()}
    run("compact", path)
    with path.open("r+b") as stream:
        stream.seek(0, 2)
        stream.write(b"damage\n")
    run("repair", path)
    assert {key: record.where for key, record in load_checkpoint(path).items()} == before
