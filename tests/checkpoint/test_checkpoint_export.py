"""What leaves a checkpoint: every value that a record may hold, in every format, whole or not at all."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import random
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threadsafe_timeout_legacy import checkpoint_formats

from threadsafe_timeout.checkpoint import CheckpointWriter, _export, command, load_checkpoint

ENDS_A_LINE = [chr(code) for code in range(sys.maxunicode + 1) if len(f"a{chr(code)}b".splitlines()) > 1]
ODD = [
    *ENDS_A_LINE, "\r\n", "\0", "\x7f", "\ud83d", "a\udc00b", "\U0001f600", "\u202e\u2066", "\x1b[2J", "", " ", '"', ",", "=1+1",
    "plain",
]  # fmt: skip
VALUES: list[Any] = [
    math.nan, math.inf, -math.inf, -0.0, 10**4001, -(10**5000), 2**64, True, None, [], {}, (), (1, "\u2028"), b"\0\xff", {"\ud83d": ["\x85"]},
    {1: "a", None: "b"}, [[[[["\u2029"]]]]], {"$type": "tuple"}, {"key": 1, "result.key": 2, "status": 3, "=x": 4},
]  # fmt: skip


def call(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def strict(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def saved(path: Path, results: list[Any]) -> Path:
    with CheckpointWriter(path, mode="fast") as writer:
        for number, result in enumerate(results):
            writer.save(number, result)
    return path


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


def test_a_line_of_the_journal_is_a_line_for_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with CheckpointWriter(path) as writer:
        for text in ODD:
            writer.started(f"key{text}")
            writer.save(f"key{text}", {"text": text, f"name{text}": [text]}, status=f"word{text}")
    lines = path.read_bytes().decode().splitlines()
    assert len(lines) == 2 + 2 * len(ODD)
    assert all(strict(line) for line in lines)
    loaded = load_checkpoint(path)
    assert [record.result["text"] for record in loaded.values()] == ODD
    assert list(loaded) == [f"key{text}" for text in ODD]


def test_a_journal_of_an_earlier_release_is_read_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has these characters as they are."""
    path = saved(tmp_path / "run.jsonl", [{"text": f"a{end}b", "success": True} for end in "\x85\u2028\u2029"])
    raw = path.read_bytes()
    for end in "\x85\u2028\u2029":
        raw = raw.replace(f"\\u{ord(end):04x}".encode(), end.encode())
    old = []
    for line in raw.split(b"\n")[:-1]:
        body = line[: line.rindex(b',"sum":')]
        old.append(body + b',"sum":"%08x"}' % zlib.crc32(body))
    path.write_bytes(b"\n".join([*old, b""]))
    assert len(raw.decode().splitlines()) > len(old)
    assert [record.result["text"] for record in load_checkpoint(path).values()] == ["a\x85b", "a\u2028b", "a\u2029b"]
    assert call("verify", path) == 0
    assert call("compact", path) == 0
    capsys.readouterr()
    for form in ("json", "legacy"):
        assert call("export", path, "--to", form) == 0
        text = capsys.readouterr().out
        assert len(text.splitlines()) == 5
        assert len(strict(text)) == 3


def read_json(path: Path) -> list[Any]:
    return [record["result"] for record in strict(path.read_text(encoding="utf-8"))]


def read_csv(path: Path) -> list[Any]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


def read_legacy(path: Path) -> list[Any]:
    return list(strict(path.read_text(encoding="utf-8")))


def read_parquet(path: Path) -> list[Any]:
    from pyarrow import parquet  # not above: it starts threads of its own, and tests fork
    return [strict(row["result"]) for row in parquet.read_table(path).to_pylist()]


READERS: dict[str, Callable[[Path], list[Any]]] = {
    "json": read_json, "csv": read_csv, "legacy": read_legacy, "parquet": read_parquet,
}  # fmt: skip


def test_every_format_is_tried_here() -> None:
    assert READERS.keys() == {*_export.FORMATS, *_export.foreign_formats()}


@pytest.mark.parametrize("form", READERS)
def test_every_exporter_takes_every_value(form: str, tmp_path: Path) -> None:
    results = [{"text": text, "more": value} for text in ODD for value in VALUES]
    path, target = saved(tmp_path / "run.jsonl", results), tmp_path / "out"
    assert call("export", path, "--to", form, "-o", target) == 0
    got = READERS[form](target)
    assert len(got) == len(results)
    if form == "csv":
        expected = [text.encode("utf-8", "backslashreplace").decode() for text in ODD for _ in VALUES]
        # (An apostrophe where a spreadsheet would see a formula.)
        assert [row["text"] for row in got] == [f"'{text}" if text[:1] in ("=", "\r") else text for text in expected]
    else:
        assert [row["text"] for row in got] == [result["text"] for result in results]


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_every_exporter_takes_what_is_no_dict(form: str, tmp_path: Path) -> None:
    results = [*VALUES, *ODD, ValueError("\ud83d\u2028")]
    path = tmp_path / "run.jsonl"
    with CheckpointWriter(path) as writer:
        for number, result in enumerate(results):
            writer.save(f"{number}\ud83d\0\u2028", result, status="odd\ud83d")
        writer.started("in flight\ud83d")
    assert call("export", path, "--to", form, "-o", tmp_path / "out") == 0
    if form == "parquet":
        from pyarrow import parquet
        assert len(parquet.read_table(tmp_path / "out")) == len(results) + 1
    else:
        assert len(READERS[form](tmp_path / "out")) == len(results) + 1


def test_random_results_leave_and_come_back(tmp_path: Path) -> None:
    """Some hundred of every shape: as JSON they are what the journal has, and as legacy results they come back."""
    chance = random.Random(7)

    def any_value(depth: int) -> Any:
        if depth == 0 or chance.random() < 0.4:
            return chance.choice([*ODD, *VALUES, chance.random(), chance.getrandbits(100), "".join(chance.choices(ODD, k=5))])
        if chance.random() < 0.5:
            return [any_value(depth - 1) for _ in range(chance.randrange(4))]
        return {"".join(chance.choices(ODD, k=2)): any_value(depth - 1) for _ in range(chance.randrange(4))}

    # (Python itself refuses to print a number of more than 4300 digits.)
    sys.set_int_max_str_digits(6000)
    try:
        results = [
            {"success": True, "model": "m", "task_type": str(n), "prompt_type": "p", "value": any_value(4)} for n in range(500)
        ]
        path, target = saved(tmp_path / "run.jsonl", results), tmp_path / "out.json"
        assert all(same(record.result, result) for record, result in zip(load_checkpoint(path).values(), results, strict=True))
        assert call("export", path, "--to", "legacy", "-o", target) == 0
        assert call("import", tmp_path / "again.jsonl", "--from", "legacy", target) == 0
        again = load_checkpoint(tmp_path / "again.jsonl")
        assert all(same(record.result, result) for record, result in zip(again.values(), results, strict=True))
        for form in ("csv", "parquet", "json"):
            assert call("export", path, "--to", form, "-o", target) == 0
            assert len(READERS[form](target)) == 500
    finally:
        sys.set_int_max_str_digits(4300)


def test_csv_loses_no_column(tmp_path: Path) -> None:
    path, target = saved(tmp_path / "run.jsonl", [{"key": 1, "result.key": 2, "=x": 3}]), tmp_path / "out.csv"
    assert call("export", path, "--to", "csv", "-o", target) == 0
    (row,) = read_csv(target)
    assert (row["key"], row["result.key"], row["result.result.key"], row["'=x"]) == ("0", "2", "1", "3")


def test_what_a_format_has_no_form_for_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "run.jsonl", [{"any": "dict"}, "text", ValueError("x")])
    assert call("export", path, "--to", "legacy", "-o", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert read_legacy(tmp_path / "out") == [{"any": "dict"}]
    assert "1 records" in said.out
    assert "2 records are not in it: legacy has no form for them" in said.err


@pytest.mark.parametrize("form", READERS)
def test_a_failed_export_leaves_the_old_file(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, target = saved(tmp_path / "run.jsonl", [{"a": number} for number in range(20)]), tmp_path / "out"
    target.write_text("the last one")

    def torn(write: Callable[..., int]) -> Callable[..., int]:
        def fail(records: Callable[[], Any], stream: Any) -> int:
            def some() -> Any:
                for number, record in enumerate(records()):
                    if number == 10:
                        raise OSError(28, "No space left on device")
                    yield record

            return write(some, stream)

        return fail

    if form == "legacy":
        monkeypatch.setattr(checkpoint_formats, "write", torn(checkpoint_formats.write))
    else:
        monkeypatch.setitem(_export.FORMATS, form, torn(_export.FORMATS[form]))
    assert call("export", path, "--to", form, "-o", target) == 1
    assert target.read_text() == "the last one"
    assert sorted(os.listdir(tmp_path)) == ["out", "run.jsonl", "run.jsonl.lock"]


def test_where_an_export_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = saved(tmp_path / "run.jsonl", [{"a": 1}]), tmp_path / "out.json"
    journal = path.read_bytes()
    assert call("export", path, "--to", "json", "-o", path) == 2
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert path.read_bytes() == journal
    target.write_text("")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    assert call("export", path, "--to", "json", "-o", tmp_path / "link") == 0
    assert (tmp_path / "link").is_symlink()
    assert len(read_json(target)) == 1
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    for wrong in (tmp_path / "none" / "out.json", tmp_path):
        assert call("export", path, "--to", "json", "-o", wrong) == 1
        assert f"'{wrong}'" in capsys.readouterr().err


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path, pipe = saved(tmp_path / "run.jsonl", [{"a": 1}]), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    try:
        assert call("export", path, "--to", "json", "-o", pipe) == 0
        text, _ = reader.communicate(timeout=120)
    finally:
        reader.kill()
        reader.wait()
    assert strict(text)[0]["result"] == {"a": 1}
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_standard_output_takes_what_the_terminals_encoding_does_not(tmp_path: Path) -> None:
    path = saved(tmp_path / "run.jsonl", [{"text": "\u4f60\u597d \ud83d\r\n"}])
    for form in ("json", "csv", "legacy"):
        process = subprocess.run(
            [sys.executable, "-m", "threadsafe_timeout.cli", "checkpoint", "export", str(path), "--to", form],
            capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, timeout=120, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        assert "\u4f60\u597d" in process.stdout.decode() or "\\u4f60" in process.stdout.decode()
