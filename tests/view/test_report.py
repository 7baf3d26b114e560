"""The report: what it says of made-up runs is what their files hold, and nothing in them becomes markup."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_pages import NOW, hostile_report, large_report, task, tick
from made_runs import make_run
from pages import Reader

from threadsafe_timeout._view.reading import read_run
from threadsafe_timeout._view.report import gather, report


def made(tmp_path: Path, events: list[dict[str, Any]], **status: Any) -> Path:
    return make_run(tmp_path / "s", now=NOW, events=events, **status)


def test_nothing_of_a_run_becomes_markup(tmp_path: Path) -> None:
    page = hostile_report(tmp_path)
    reader = Reader(page)
    assert "script" not in reader.tags
    assert "<script>alert('1')</script>" in reader.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert not [one for one in reader.attributes if one[1].startswith("on") or one[1] in ("src", "style", "srcset")]
    assert all(value.startswith("#") for _, name, value in reader.attributes if name == "href")
    assert "exit status True" not in reader.text


def test_the_policy_allows_the_one_style_and_nothing_else(tmp_path: Path) -> None:
    reader = Reader(report(read_run(made(tmp_path, [task(1)]))))
    policy = next(value for tag, name, value in reader.attributes if name == "content" and "default-src" in value)
    assert re.fullmatch(r"default-src 'none'; style-src 'sha256-[\w+/=]+'; base-uri 'none'; form-action 'none'", policy)
    assert not {"script", "img", "link", "iframe", "object", "form", "base"} & set(reader.tags)


def test_its_totals_are_those_of_the_events(tmp_path: Path) -> None:
    outcomes = ["done"] * 900 + ["failed"] * 30 + ["timeout"] * 20 + ["loop"] * 7 + ["abandoned"] * 3
    events = [task(place, outcome) for place, outcome in enumerate(outcomes)]
    folder = made(tmp_path, events, totals={}, pid=2**22 + 1)
    facts = gather(read_run(folder))
    assert facts.run.state == "dead"
    wanted = {"done": 900, "failed": 37, "timed_out": 23, "loops": 7, "abandoned": 3}  # the first three are all
    assert {name: facts.totals[name] for name in wanted} == wanted
    text = re.sub(r"\s+", " ", Reader(report(facts.run)).text)
    assert "tasks done 900" in text
    assert "timed out 23" in text
    assert "It died" in text


def test_lines_with_an_outcome_that_is_not_known_are_counted_and_said(tmp_path: Path) -> None:
    events = [task(1), task(2, "teleported"), task(3, "teleported"), {"kind": "task", "outcome": "done"}]
    text = Reader(report(read_run(made(tmp_path, events)))).text
    assert "3 task lines have no time, or an outcome that this version does not know (teleported, done)" in text


def test_a_run_without_length_and_one_without_events(tmp_path: Path) -> None:
    one = {**task(1), "t": NOW, "start": NOW, "took": 0.0}
    assert "What each worker did" in report(read_run(made(tmp_path, [one, tick(NOW, 1, 1)])))
    folder = make_run(tmp_path / "none", now=NOW)
    (folder / "events.jsonl").unlink()
    assert "events.jsonl is missing" in Reader(report(read_run(folder))).text


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    folder = made(tmp_path, [task(1)], pid=2**22 + 1)
    with open(folder / "events.jsonl", "a") as file:
        file.write('nonsense\n[1]\n{"kind": "task", "t": 1')
    text = Reader(report(read_run(folder))).text
    assert "2 lines of events.jsonl are damaged" in text
    assert "The last line of events.jsonl is torn" in text


def test_the_line_of_finished_tasks_ends_at_the_last_value_and_a_stall_is_kept(tmp_path: Path) -> None:
    """Two thousand moments fall into less than five hundred columns."""
    events = [tick(NOW + place, 0 if place == 1000 else 8, place) for place in range(2000)]
    page = report(read_run(made(tmp_path, events)))
    effective, finished = re.findall(r'class="line" d="([^"]*)"', page)
    heights = [float(found) for found in re.findall(r"V([\d.]+)", finished)]
    assert heights[-1] == 248.0  # the top of its panel: all 1999
    assert "V170" in effective  # the bottom of its own: no worker


def test_ten_thousand_tasks_keep_the_page_small(tmp_path: Path) -> None:
    page = large_report(tmp_path)
    assert len(page) < 1_000_000
    assert "9,700" in page


@pytest.mark.parametrize("target", ["missing", "999999999"])
def test_the_command_names_what_is_not_there(tmp_path: Path, target: str) -> None:
    done = call(tmp_path, target)
    assert done.returncode == 2
    assert target in done.stderr
    assert not (tmp_path / "threadsafe-timeout-report.html").exists()


def test_the_command_writes_the_page_for_its_owner_only(tmp_path: Path) -> None:
    made(tmp_path, [task(1)])
    done = call(tmp_path, "s", "-o", "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"page: {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o600
    assert call(tmp_path, "s", "-o", "-").stdout.startswith("<!doctype html>")
    assert call(tmp_path, "s", "-o", "no/such/page.html").returncode == 2


def call(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "threadsafe_timeout.cli", "report", *arguments], cwd=cwd, text=True,
                          capture_output=True, timeout=120, check=False)  # fmt: skip


def test_json_of_the_files_is_what_it_says(tmp_path: Path) -> None:
    folder = made(tmp_path, [task(1)])
    assert json.loads((folder / "status.json").read_text())["totals"]["done"] == gather(read_run(folder)).totals["done"]
