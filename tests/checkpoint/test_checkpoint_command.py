"""`threadsafe-timeout checkpoint …`, and what legacy runs left."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout.checkpoint import (
    CheckpointWriter,
    _export,
    _progress,
    command,
    load_checkpoint,
    task_fingerprint,
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, as it is installed."""

    def call(*arguments: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        status = command.run(parser.parse_args([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with something of everything."""
    journal = tmp_path / "run.jsonl"
    with CheckpointWriter(journal) as writer:
        writer.started("slow")
        writer.save("slow", {"score": 1.5, "tags": ["a"], "ok": True})
        writer.save("other", {"score": 2, "key": "clash"})
        for number in range(3):
            writer.save(f"f{number}", ValueError("no such model"), status="failed")
        writer.save("late", {"error": "Test timeout after 3 seconds\nmore"}, status="timeout")
        writer.save("evil\x1b[2J", "text", status="loop")
        writer.started("in flight")
    return journal


def test_show(run: Run, path: Path) -> None:
    status, out, _ = run("show", path)
    assert status == 0
    assert "failed          3" in out
    assert "started         1  (in flight" in out
    assert "all             8" in out
    assert "slowest:" in out
    assert "3 × failed: ValueError\n             first f0: no such model\n" in out
    assert "1 × timeout\n             first late: Test timeout after 3 seconds\n" in out
    assert "\x1b" not in out
    assert "evil\\x1b[2J" in out
    assert "and 2 other kinds" in run("show", path, "-n", 1)[1]


def test_show_of_a_torn_journal(run: Run, path: Path) -> None:
    with open(path, "ab") as stream:
        stream.write(b'{"v":1')
    assert "torn last line: 6 bytes" in run("show", path)[1]


def test_verify_and_repair(run: Run, path: Path) -> None:
    assert run("verify", path)[:2] == (0, f"{path}: 11 intact lines, {path.stat().st_size} bytes, 0 damaged places\n")
    assert "nothing to repair" in run("repair", path)[1]
    data = path.read_bytes().replace(b"no such", b"no suck", 1)
    path.write_bytes(data)
    status, out, _ = run("verify", path)
    assert status == 1
    assert "line 5, byte" in out
    status, _, err = run("show", path)
    assert status == 1
    assert "checkpoint repair" in err
    status, out, _ = run("repair", path)
    assert status == 0
    assert "10 intact lines kept" in out
    assert run("verify", path)[0] == 0


def test_compact(run: Run, path: Path) -> None:
    status, out, _ = run("compact", path)
    assert status == 0
    assert "11 → 10 lines" in out
    assert len(load_checkpoint(path)) == 8


def test_export_json(run: Run, path: Path) -> None:
    status, out, _ = run("export", path, "--to", "json")
    records = json.loads(out)
    assert status == 0
    assert [record["key"] for record in records][:2] == ["slow", "other"]
    assert records[0]["result"] == {"score": 1.5, "tags": ["a"], "ok": True}
    assert records[-1]["result"] is None
    assert json.loads(run("export", path, "--to", "json", "--status", "loop")[1])[0]["key"] == "evil\x1b[2J"


def test_export_csv(run: Run, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    status, out, _ = run("export", path, "--to", "csv", "-o", target)
    assert (status, out) == (0, f"{target}: 8 records\n")
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    assert len(rows) == 8
    assert (rows[0]["key"], rows[0]["score"], rows[0]["tags"], rows[0]["ok"]) == ("slow", "1.5", '["a"]', "true")
    assert (rows[1]["key"], rows[1]["result.key"]) == ("other", "clash")
    assert list(tmp_path.glob("*.new-*")) == []


def test_export_csv_holds_no_formulas(run: Run, tmp_path: Path) -> None:
    path, target = tmp_path / "formulas.jsonl", tmp_path / "out.csv"
    with CheckpointWriter(path) as writer:
        writer.save("=key", {"text": '=HYPERLINK("x")', "number": -1, "plain": "a=b"})
    assert run("export", path, "--to", "csv", "-o", target)[0] == 0
    (row,) = csv.DictReader(io.StringIO(target.read_text(encoding="utf-8")))
    assert (row["key"], row["text"], row["number"], row["plain"]) == ("'=key", "'=HYPERLINK(\"x\")", "-1", "a=b")


def test_export_parquet(run: Run, path: Path, tmp_path: Path) -> None:
    from pyarrow import parquet
    assert run("export", path, "--to", "parquet", "-o", tmp_path / "out.parquet")[0] == 0
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["key"] for row in table] == list(load_checkpoint(path))
    assert json.loads(table[0]["result"])["score"] == 1.5


def test_export_parquet_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"threadsafe-timeout\[parquet\]"):
        _export.write_parquet(lambda: load_checkpoint(path).values(), io.BytesIO())


def test_diff(run: Run, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    with CheckpointWriter(other) as writer:
        writer.save("slow", {"ok": True, "score": 1.5, "tags": ["a"]})
        writer.save("other", {"score": 3})
        writer.save("late", 1)
        writer.save("new", 1)
    status, out, _ = run("diff", path, other)
    assert status == 1
    assert out.splitlines()[-5:-1] == ["- in flight", "+ new", "! late: timeout → done", "~ other: another result"]
    assert "1 the same, 1 with another result, 1 with another status, 5 only in" in out
    assert run("diff", path, path)[0] == 0


def test_a_missing_file_is_one_line(run: Run, tmp_path: Path) -> None:
    for action in ("show", "verify", "repair", "compact"):
        status, _, err = run(action, tmp_path / "none.jsonl")
        assert status == 1
        assert err.count("\n") == 1


def test_a_progress_bar_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with _progress.progress_bar("reading", 1 << 30) as advance:
        for _ in range(4):
            advance(1 << 28)
    assert "100 %" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    monkeypatch.setattr("sys.stderr", quiet := io.StringIO())
    with _progress.progress_bar("reading", 1 << 30) as advance:
        advance(1 << 30)
    assert quiet.getvalue() == ""


# --- legacy -----------------------------------------------------------------------------------------------------


@dataclass
class LegacyTask:
    model: str
    task_type: str
    prompt_type: str
    difficulty: str = "easy"
    is_flawed: bool = False
    flaw_type: str | None = None
    task_instance: dict[str, Any] | None = None
    timeout: int = 60
    tool_success_rate: float = 0.8
    required_tools: list[str] | None = None


def legacy_result(**fields: Any) -> dict[str, Any]:
    return {
        "success": True, "task_type": "simple", "prompt_type": "baseline", "difficulty": "easy", "is_flawed": False,
        "flaw_type": None, "tool_success_rate": 0.8, "task_instance": {"id": 1}, "error": None, **fields,
    }  # fmt: skip


def test_result_files_are_imported_under_the_keys_of_a_patched_run(run: Run, tmp_path: Path) -> None:
    results = [legacy_result(), legacy_result(), legacy_result(success=False, error="Test timeout after 60 seconds")]
    (tmp_path / "a.json").write_text(json.dumps(results))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(legacy_result(model="n", error_type="search_loop")) for _ in "ab"))
    journal = tmp_path / "run.jsonl"
    arguments = ("import", journal, "--from", "legacy", tmp_path / "a.json", tmp_path / "b.jsonl", "--set", "model=m")
    assert run(*arguments)[1] == f"{journal}: 5 records added, 0 were there already\n"
    assert run(*arguments)[1] == f"{journal}: 0 records added, 5 were there already\n"
    loaded = load_checkpoint(journal)
    task = LegacyTask("m", "simple", "baseline", task_instance={"id": 1}, timeout=600)
    key = task_fingerprint(task, ignore=("timeout",))
    assert loaded[key].result == results[0]
    assert loaded[f"{key}#2"].status == "done"
    assert loaded[f"{key}#3"].status == "timeout"
    assert loaded.counts() == {"done": 2, "timeout": 1, "loop": 2}
    assert not loaded.ended


def test_the_database_holds_counters_only(run: Run, tmp_path: Path) -> None:
    leaf = {"total": 4, "success": 3, "avg_turns": 2.5}
    levels: Any = {"total": 4, "by_tool_success_rate": {"0.8": {"by_difficulty": {"easy": {"by_task_type": {"simple": leaf}}}}}}
    database = {"version": "3.0", "models": {"m": {"overall_stats": {}, "by_prompt_type": {"baseline": levels}}}, "summary": {}}
    (tmp_path / "master_database.json").write_text(json.dumps(database))
    assert run("import", tmp_path / "run.jsonl", "--from", "legacy", tmp_path / "master_database.json")[0] == 0
    loaded = load_checkpoint(tmp_path / "run.jsonl")
    assert {key: (record.status, record.result) for key, record in loaded.items()} == {
        "legacy/m/baseline/0.8/easy/simple": ("counted", leaf)
    }


def test_export_legacy_is_what_the_runner_returns(run: Run, tmp_path: Path) -> None:
    results = [legacy_result(model="m", turns=n) for n in range(3)]
    (tmp_path / "a.json").write_text(json.dumps({"results": results}))
    run("import", tmp_path / "run.jsonl", "--from", "legacy", tmp_path / "a.json")
    assert json.loads(run("export", tmp_path / "run.jsonl", "--to", "legacy")[1]) == results


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "neither JSON nor"),
        ("[1]", "holds no legacy results"),
        ('{"a": 1}', "holds no legacy results"),
        (json.dumps([legacy_result()]), "--set model="),
    ],
)
def test_what_is_not_legacy_is_refused(run: Run, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    status, _, err = run("import", tmp_path / "run.jsonl", "--from", "legacy", tmp_path / "a.json")
    assert status == 1
    assert message in err
    status, _, err = run("import", tmp_path / "run.jsonl", "--from", "legacy", tmp_path / "a.json", "--set", "size=1")
    assert status == 1
    assert "no field 'size'" in err
