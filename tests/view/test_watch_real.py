"""`watch --once` and `--json` about real runs: one that lives, one that ended, one that was killed."""

from __future__ import annotations

from pathlib import Path

from real_runs import command, in_journal, own_counts, program, watched


def test_of_a_run_that_lives_and_is_then_killed(tmp_path: Path) -> None:
    with program(tmp_path, "rests") as process:
        counts = own_counts(process)
        alive = watched(tmp_path)
        assert (alive["state"], alive["pid"]) == ("running", process.pid)
        held = [worker["task"] for worker in alive["workers"] if worker["state"] == "running"]
        assert sorted(held) == ["held-0", "held-1", "held-2"]
        lines = command(tmp_path, "watch", "--once", "runs_here")
        assert "program.py" in lines
        assert "held-1" in lines
    dead = watched(tmp_path)
    assert (dead["state"], dead["journal"]) == ("dead", str(tmp_path / "journal.jsonl"))
    for found in (alive, dead):
        assert {name: found["totals"][name] for name in counts} == counts
        assert (found["totals"]["running"], found["totals"]["saved"]) == (3, 60)
    journal = in_journal(tmp_path)
    assert [journal[status] for status in ("done", "failed", "timeout", "started")] == [40, 12, 8, 3]
    lines = command(tmp_path, "watch", "--once", "runs_here")
    assert "dead since" in lines
    assert f"to go on: {dead['resume']}" in lines
    assert "done 40 · failed 12 · timed out 8 (abandoned 2) · running 3 · pending 0 · saved 60" in lines


def test_of_a_run_that_ended(ended_run: tuple[Path, dict[str, int]]) -> None:
    folder, counts = ended_run
    found = watched(folder)
    assert (found["state"], found["notes"], found["journal"]) == ("ended", [], str(folder / "journal.jsonl"))
    assert {name: found["totals"][name] for name in counts} == counts
    assert in_journal(folder).total() == found["totals"]["saved"] == 60
    assert "ended at" in command(folder, "watch", "--once", "runs_here")
