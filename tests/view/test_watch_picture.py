"""What is shown of a run: in which order, what is counted, and that all of it fits the terminal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from made_runs import HOSTILE, make_run, workers
from rich.cells import cell_len

from threadsafe_timeout._view.picture import ORDERS, Picture, as_json, important, picture_of
from threadsafe_timeout._view.plain import lines_of
from threadsafe_timeout._view.reading import read_run
from threadsafe_timeout._view.watch_screen import StackView, View, screen_lines
from threadsafe_timeout._view.words import ago, clock_time, duration, rate_in_words, sparkline

NOW = 1_790_000_000.0


def done(took: float, number: int = 10) -> list[dict[str, Any]]:
    return [{"kind": "task", "t": NOW, "took": took, "task": f"done-{place}", "outcome": "done"} for place in range(number)]


def picture(status_dir: Path, events: list[dict[str, Any]] | None = None, order: str = "trouble", after: float = 0.0, **status: Any) -> Picture:
    run = read_run(make_run(status_dir, now=NOW, **status))
    return picture_of(run, events or [], NOW + after, order)


def troubled() -> list[dict[str, Any]]:
    found = workers(7, NOW)
    for place, state in enumerate(("idle", "running", "abandoned", "overdue", "running", "interrupting")):
        found[place]["state"] = state
    return found


def test_those_in_trouble_come_first_then_the_longest_idle(tmp_path: Path) -> None:
    rows = picture(tmp_path, workers=troubled()).rows
    assert [row.worker for row in rows] == [f"batch_{place}" for place in (2, 5, 3, 6, 4, 1, 0)]


@pytest.mark.parametrize("order", ORDERS)
def test_idle_workers_are_last_in_every_order(tmp_path: Path, order: str) -> None:
    assert picture(tmp_path, workers=troubled(), order=order).rows[-1].state == "idle"


def test_the_time_left_does_not_count_stragglers(tmp_path: Path) -> None:
    at_work = workers(10, NOW, started=NOW - 5, deadline_left=60)
    at_work[0].update(started=NOW - 500)  # 100 times the median
    at_work[1].update(deadline_left=-1)
    at_work[2].update(state="interrupting")
    at_work[3].update(state="abandoned")  # of those that run it is none
    seen = picture(tmp_path, done(5.0), workers=at_work, rate=2.0, totals={"pending": 100, "running": 9})
    assert (seen.stragglers, seen.eta) == (3, 53.0)
    assert "0:53 left without stragglers (3 not counted)" in "\n".join(lines_of(seen, []))


def test_without_a_rate_nothing_is_promised(tmp_path: Path) -> None:
    seen = picture(tmp_path, rate=0)
    assert seen.eta is None
    assert "no task finished in the last minute" in "\n".join(lines_of(seen, []))


def test_times_go_on_since_the_status_was_written(tmp_path: Path) -> None:
    row = picture(tmp_path, workers=workers(1, NOW), after=4.0).rows[0]
    assert (row.age, row.idle, row.left, row.phase) == (104.0, 5.0, 496.0, "LLM call 0:45, attempt 2")


def test_a_silent_run_that_lives_is_told(tmp_path: Path) -> None:
    (note,) = picture(tmp_path, after=12.0).notes
    assert note.startswith("no sign for 12 s: the interpreter may be held by C code; see `threadsafe-timeout stacks ")


def test_a_silent_run_with_nothing_to_do_is_not(tmp_path: Path) -> None:
    assert picture(tmp_path, after=500.0, totals={"done": 3, "pending": 0, "running": 0}).notes == []


def test_a_dead_run_says_since_when_and_how_to_go_on(tmp_path: Path) -> None:
    seen = picture(tmp_path, after=720.0, start_time=1, resume=f"python runner.py {'x' * 400}")
    assert seen.state == f"dead since {clock_time(NOW, NOW)} (12 min ago)"
    assert seen.notes[0].endswith("x" * 400)
    assert seen.rows[0].age == 102.0  # as when it died


def test_an_ended_run_says_so_with_its_totals(tmp_path: Path) -> None:
    lines = list(lines_of(picture(tmp_path, after=60.0, state="ended", workers=[]), []))
    assert lines[0].endswith(f"ended at {clock_time(NOW, NOW)} (60 s ago)")
    assert lines[1].startswith("done 812 · failed 3 · timed out 5")


def test_events_about_trouble_are_not_crowded_out() -> None:
    events = [{"kind": "abandoned", "t": 1}, *done(1.0, 30), {"kind": "tick"}, {"kind": "loop"}]
    assert [event["kind"] for event in important(events, 4)] == ["abandoned", "task", "task", "loop"]
    assert important(events, 0) == []


def test_for_programs_texts_are_as_they_are(tmp_path: Path) -> None:
    seen = picture(tmp_path, workers=[*workers(1, NOW), {"worker": HOSTILE, "state": "overdue", "task": HOSTILE}])
    found = json.loads(json.dumps(as_json(seen, [])))
    assert [one["worker"] for one in found["workers"]] == [HOSTILE, "batch_0"]
    assert found["totals"]["done"] == 812


def hostile_events() -> list[dict[str, Any]]:
    error = {"type": HOSTILE, "message": HOSTILE, "where": [HOSTILE, 3, HOSTILE]}
    kinds = ("task", "abandoned", "loop", "scope", "pool", "end", "run", HOSTILE)
    return [
        {"kind": kind, "t": NOW, "task": HOSTILE, "key": HOSTILE, "pool": HOSTILE, "loop": HOSTILE, "detail": HOSTILE,
         "action": HOSTILE, "name": HOSTILE, "how": HOSTILE, "reason": HOSTILE, "program": HOSTILE, "outcome": HOSTILE,
         "error": error, "where": [HOSTILE, 3, HOSTILE]}
        for kind in kinds
    ]  # fmt: skip


def hostile(status_dir: Path) -> Picture:
    worker = dict.fromkeys(("pool", "worker", "state", "task", "key", "phase"), HOSTILE)
    worker = {**worker, "where": [HOSTILE, 1, HOSTILE], "stack": [[HOSTILE, 1, HOSTILE]], "started": NOW - 3}
    return picture(status_dir, workers=[worker, {**worker, "state": "idle"}], program=HOSTILE, resume=HOSTILE, start_time=1)


def test_nothing_that_came_from_a_task_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    seen = hostile(tmp_path)
    shown = [*lines_of(seen, hostile_events())]
    for view in (View(), View(wanted="alert"), View(stack=StackView("w", "note", [HOSTILE]))):
        shown += [line.plain for line in screen_lines(seen, hostile_events(), view, 200, 60, False)]
    assert all(line.isprintable() for line in shown)
    assert sum("<script>" in line for line in shown) > 10
    assert any("[bold]" in line for line in shown)  # no markup either


def test_values_of_any_kind_are_survived(tmp_path: Path) -> None:
    for number, value in enumerate((None, True, "x", -1, 1e308, [], [[]], {"a": []}, [None, {}])):
        worker = dict.fromkeys(workers(1, NOW)[0], value)
        status = dict.fromkeys(("totals", "rate", "effective", "pools", "started", "program", "resume", "settings", "t"), value)
        run = read_run(make_run(tmp_path / str(number), now=NOW, **{"workers": [worker], **status}))
        seen = picture_of(run, [dict.fromkeys(("kind", "t", "took", "task", "outcome", "error", "where"), value)], NOW)
        events = [{"kind": kind, "t": value, "took": value, "error": value, "where": value} for kind in ("task", "loop", "end", "x")]
        assert list(lines_of(seen, events))
        assert screen_lines(seen, events, View(), 80, 24, False)
        json.dumps(as_json(seen, events))


@pytest.mark.parametrize("columns", [40, 49, 50, 63, 64, 71, 72, 80, 89, 90, 99, 100, 120, 139, 140, 250])
@pytest.mark.parametrize("height", [3, 5, 8, 12, 24, 60])
def test_the_screen_is_filled_and_no_line_is_wider(tmp_path: Path, columns: int, height: int) -> None:
    names = ["名前" * 30, "é" * 80, "case-1", HOSTILE]
    many = [{**one, "task": names[place % 4], "worker": f"batch_{place}"} for place, one in enumerate(workers(50, NOW))]
    seen = picture(tmp_path, workers=many, start_time=1)
    for view in (View(), View(help=True), View(typing=True, wanted="case"), View(stack=StackView("w", "n", ["x" * 500] * 99))):
        lines = screen_lines(seen, [*done(1.0), *hostile_events()], view, columns, height, False)
        assert len(lines) == height
        assert max(cell_len(line.plain) for line in lines) <= columns


def test_the_chosen_worker_is_in_sight(tmp_path: Path) -> None:
    seen = picture(tmp_path, workers=workers(50, NOW))
    view = View(worker=seen.rows[40].worker)
    lines = [line.plain for line in screen_lines(seen, [], view, 80, 24, False)]
    assert any(line.startswith("> ") and seen.rows[40].task in line for line in lines)


def test_times_in_words() -> None:
    assert [duration(one) for one in (None, 0, 41.9, 723, 3723, 200_000, -12, -0.4)] == [
        "", "0:00", "0:41", "12:03", "1:02:03", "2d 07:33", "-0:12", "0:00"]  # fmt: skip
    assert [ago(NOW - one, NOW) for one in (0, 59, 150, 7300, 200_000)] == ["0 s ago", "59 s ago", "2 min ago", "2 h ago", "2 days ago"]
    assert clock_time(1e300, NOW) == "an unknown time"
    yesterday = time.strftime("%Y-%m-%d", time.localtime(NOW - 86400))
    assert clock_time(NOW - 86400, NOW).startswith(yesterday)
    assert [rate_in_words(one) for one in (None, 0, 2.5, 0.05, 0.001)] == [
        "no task finished in the last minute"] * 2 + ["2.5 tasks/s", "3.0 tasks/min", "3.6 tasks/h"]  # fmt: skip


def test_bars_stand_for_the_share_of_the_workers_at_work() -> None:
    assert sparkline([0, 50, 100], 100, 10) == "▁▅█"
    assert sparkline(list(range(100)), 100, 5, ascii_only=True) == "@@@@@"
    assert sparkline([], 0, 5) == ""
