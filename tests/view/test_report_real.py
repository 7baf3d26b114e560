"""The report about real runs: one that ended, and ones that were killed. What it says is what the journal holds."""

from __future__ import annotations

from pathlib import Path

from conditions import until
from pages import Reader
from real_runs import command, in_journal, own_counts, program

TERMS = {"done": "tasks done", "failed": "failed", "timed_out": "timed out", "abandoned": "given up"}


def check(folder: Path, counts: dict[str, int]) -> Reader:
    """The page agrees with the program and the journal."""
    page, journal = Reader(command(folder, "report", "runs_here", "-o", "-")), in_journal(folder)
    assert {name: page.count(term) for name, term in TERMS.items()} == counts
    assert (page.count("tasks done"), page.count("failed"), page.count("timed out")) == (
        journal["done"], journal["failed"], journal["timeout"]
    )  # fmt: skip
    assert page.count("saved") == 60
    assert "60 finished tasks are in the journal" in page.plain
    assert "60 tasks had finished by then" in page.text
    assert "ValueError" in page.text
    assert "program.py" in page.text
    return page


def test_of_a_run_that_ended(ended_run: tuple[Path, dict[str, int]]) -> None:
    page = check(*ended_run)
    assert "It ended by itself" in page.text
    assert "not ended" not in page.numbers


def test_of_a_run_that_was_killed_when_all_was_written(tmp_path: Path) -> None:
    with program(tmp_path, "rests") as process:
        counts = own_counts(process)
    page = check(tmp_path, counts)
    assert "It died" in page.text
    assert page.count("not ended") == in_journal(tmp_path)["started"] == 3
    assert "and 3 that were running" in page.plain


def test_of_a_run_that_was_killed_at_work_it_counts_what_the_journal_holds(tmp_path: Path) -> None:
    """The events of its last second were never written."""
    journal, runs = tmp_path / "journal.jsonl", tmp_path / "runs_here" / "runs"
    with program(tmp_path, "flows") as process:
        until(lambda: [*runs.glob("*/status.json")], process.poll)
        size = journal.stat().st_size
        until(lambda: journal.stat().st_size > size + 5000, process.poll)
    page = Reader(command(tmp_path, "report", "runs_here", "-o", "-"))
    assert "It died" in page.text
    assert page.count("tasks done") >= page.count("saved") == in_journal(tmp_path)["done"] > 20
