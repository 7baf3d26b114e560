"""The replay's numbers, from small recorded runs: what is counted, what is promised, what the page shows."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from paces import at_some_pace
from replays import ZERO, Recorder, record_after, record_before
from rich.console import Console
from threadsafe_timeout_legacy.replay._chart import chart
from threadsafe_timeout_legacy.replay._driver import Status, read_results
from threadsafe_timeout_legacy.replay._facts import legacy_time, notes
from threadsafe_timeout_legacy.replay._observe import Observation, Watched, observe
from threadsafe_timeout_legacy.replay._page import page
from threadsafe_timeout_legacy.replay._plan import Plan
from threadsafe_timeout_legacy.replay._progress import progress
from threadsafe_timeout_legacy.replay._promises import check
from threadsafe_timeout_legacy.replay._timeline import rows
from threadsafe_timeout_legacy.replay._workspace import LINE, Workspace, prepare, with_line

from threadsafe_timeout import cli


@pytest.fixture
def plan() -> Plan:
    """Four tasks on four workers, a second to the legacy minute: the deadline is ten seconds after a first request."""
    return Plan(minute=1.0, workers=4, tasks=4, mix={"good": 2, "hang": 2}, limit=60.0)


def test_a_stalled_run_is_counted_by_what_the_server_saw(tmp_path: Path, plan: Plan) -> None:
    record_before(Recorder(tmp_path, replace(plan, only="before")))
    _, results = read_results(tmp_path)
    before = results["before"]
    assert (before.finished, before.database, before.journal, before.threads_at_end) == (3, 0, 0, 9)
    assert before.late_requests == 1, "the second request of a3 began at 13, its deadline was 10"
    assert before.held_seconds == pytest.approx((12 - 10) + 1 + (60 - 11))
    assert before.over_grace_seconds == pytest.approx((12 - 10.5) + 1 + (60 - 11.5))
    assert before.exit_seconds is None
    assert before.makespan_minutes is None
    by_minute = {row.minute: row for row in rows(before)}
    assert [by_minute[m].finished for m in (0, 5, 10, 15, 60)] == [0, 2, 2, 3, 3]
    assert [by_minute[m].effective for m in (0, 10, 15, 60)] == [4, 3, 3, 3]
    assert before.effective_curve.at(11.5) == 2, "a3 and a4 are both past their deadlines"
    assert by_minute[120].finished is None
    assert before.kinds["good"].completed == 2


def test_every_promise_is_kept_and_the_status_is_zero(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(tmp_path, plan)
    record_before(recorder)
    record_after(recorder)
    json_path, html_path = tmp_path / "numbers.json", tmp_path / "page.html"
    status = cli.main(["replay", "--from", str(tmp_path), "--json", str(json_path), "--html", str(html_path)])
    assert status == 0
    numbers = json.loads(json_path.read_text())
    assert numbers["ok"] is True
    assert len(numbers["promises"]) == 5
    assert numbers["after"]["makespan_minutes"] == pytest.approx(11.3)
    assert numbers["after"]["exit_seconds"] == pytest.approx(0.3)
    assert [row["on_disk"] for row in numbers["after"]["timeline"]] == [0, 2, 2, 4, 4, 4, 4, 4]
    assert [row["over"] for row in numbers["after"]["timeline"]] == [False] * 3 + [True] * 5
    assert "4 of 4" in capsys.readouterr().out
    assert "The eight-hour stall, replayed" in html_path.read_text()


def spoil_late(recorder: Recorder) -> None:
    recorder.request("after", "a3", 10.3, 10.4)


def spoil_held(recorder: Recorder) -> None:
    recorder.request("after", "a3", 9.0, 10.6, "client_closed")


def nothing(_recorder: Recorder) -> None: ...


LATE, HELD = "no request begins after", "no connection is held longer"
RESULTS, DISK, EXIT = "every task has its result", "every finished task is on disk", "the process exits"
FULL = [(11.3, 4, 4)]


@pytest.mark.parametrize(("spoil", "facts", "broken"), [
    (spoil_late, {"stopped": 11.6, "samples": FULL}, [LATE]),
    (spoil_held, {"stopped": 11.6, "samples": FULL}, [HELD]),
    (nothing, {"stopped": 11.6, "samples": [(11.3, 3, 4)]}, [RESULTS]),
    (nothing, {"stopped": 13.3, "samples": [(13.1, 4, 4)]}, [RESULTS]),
    (nothing, {"stopped": 11.6, "samples": [(11.3, 4, 4), (11.4, 5, 4)]}, [RESULTS]),
    (nothing, {"stopped": 11.6, "samples": [(11.3, 4, 3)]}, [DISK]),
    (nothing, {"stopped": 12.4, "samples": FULL}, [EXIT]),
    (nothing, {"stopped": 11.6, "samples": FULL, "exit_code": 1}, [EXIT]),
    (nothing, {"stopped": 60.0, "samples": FULL, "ending": "limit"}, [EXIT]),
])
def test_a_broken_promise_is_named_and_the_status_is_one(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str], spoil, facts, broken
) -> None:
    recorder = Recorder(tmp_path, replace(plan, only="after"))
    record_after(recorder)
    spoil(recorder)
    recorder.ran("after", **facts)
    assert cli.main(["replay", "--from", str(tmp_path)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(broken)
    assert all(line.startswith(f"replay: broken promise: {text}") for line, text in zip(told, broken, strict=True))


@pytest.mark.parametrize(("asked_again", "kept"), [(("a3", "a4"), True), (("a2", "a3", "a4"), False)])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, plan: Plan, asked_again: tuple[str, ...], kept: bool) -> None:
    plan = replace(plan, only="after", kill_at=5.0)
    recorder = Recorder(tmp_path, plan)
    for task in ("a1", "a2"):
        recorder.request("after", task, 0.0, 2.0)
    for task in ("a3", "a4"):
        recorder.request("after", task, 0.0, 5.0, "client_closed", "hang")
    recorder.ran("after", 5.0, [(2.1, 0, 2)], ending="killed")
    for task in asked_again:
        recorder.request("after-resumed", task, 7.0, 9.0)
    recorder.ran("after", 9.5, [(8.0, 0, 2), (9.2, 4, 4)], run="after-resumed", started=ZERO + 6)
    loaded, results = read_results(tmp_path)
    after = results["after"]
    assert (after.saved_at_kill, after.killed_minute, after.finished) == (2, pytest.approx(5.0), 4)
    promise = check(loaded, after)[-1]
    assert "nothing that was saved runs twice" in promise.text
    assert promise.held is kept
    assert after.finished_curve.at(6.0) == (2 if kept else 1), "what the kill cut off had not finished"


def test_a_batch_over_before_the_kill_keeps_the_promise(tmp_path: Path, plan: Plan) -> None:
    recorder = Recorder(tmp_path, replace(plan, only="after", kill_at=50.0))
    record_after(recorder)
    loaded, results = read_results(tmp_path)
    assert check(loaded, results["after"])[-1].seen == "the batch was over before it could be killed"


def test_a_machine_that_is_too_slow_is_told(tmp_path: Path, plan: Plan) -> None:
    recorder = Recorder(tmp_path, replace(plan, only="before"))
    recorder.request("before", "a1", 0.0, 1.0)
    recorder.request("before", "a2", 11.0, 12.0, closing=True)
    recorder.request("before", "a3", 0.0, 1.0, "client_closed", behaviour="trickle")
    recorder.ran("before", 20.0, [], ending="limit", load=4.0)
    busy, *told = notes(*read_results(tmp_path))
    assert "4.0 processes per core" in busy
    assert "took 11.0 legacy minutes" in told[0]
    assert "1 trickling answers ended in a read timeout" in told[1]
    assert "only 1 of 2 well-behaved tasks could complete" in told[2]


def test_a_runner_that_asked_nothing_is_told_and_breaks_promises(tmp_path: Path, plan: Plan) -> None:
    recorder = Recorder(tmp_path, replace(plan, only="after"))
    recorder.ran("after", 1.0, [], exit_code=1)
    loaded, results = read_results(tmp_path)
    assert "no request reached the server" in notes(loaded, results)[0]
    assert [promise.held for promise in check(loaded, results["after"])] == [False, False, True, False, False]


class Reader(HTMLParser):
    """Collects a page's tags, policy, style and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_page_is_self_contained_and_escapes_everything(tmp_path: Path, plan: Plan) -> None:
    evil = '<script>alert("x")</script>&'
    recorder = Recorder(tmp_path, plan)
    record_before(recorder)
    recorder.request("after", "a1", 0.0, 2.0, behaviour=evil)
    recorder.ran("after", 3.0, [], command=["python", evil], difference=f"+{evil}")
    loaded, results = read_results(tmp_path)
    text = page(replace(loaded, version=evil), results, check(loaded, results["after"]))
    reader = Reader(text)
    assert reader.open == []
    names = [tag for tag, _ in reader.tags]
    assert "script" not in names
    assert not {"link", "img", "iframe"} & set(names)
    assert not any(name.startswith("on") or name in ("style", "src") for _, attrs in reader.tags for name in attrs)
    assert {attrs["href"] for _, attrs in reader.tags if "href" in attrs} == {"#main"}
    assert "".join(reader.texts).count(evil) >= 4, "shown as text: the version, the behaviour, the diff, the command"
    policy = next(attrs["content"] for tag, attrs in reader.tags if attrs.get("http-equiv"))
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "http" not in re.sub(r'http-equiv="', "", text)


def test_chart_is_well_formed_and_has_both_sides_in_each_panel(tmp_path: Path, plan: Plan) -> None:
    recorder = Recorder(tmp_path, plan)
    record_before(recorder)
    record_after(recorder)
    loaded, results = read_results(tmp_path)
    svg = ET.fromstring(chart(loaded, results))
    lines = [element.get("class") for element in svg.iter("path")]
    assert lines == ["line before", "line after"] * 3
    for element in svg.iter("path"):
        numbers = [float(number) for number in re.findall(r"H([\d.]+)", element.get("d") or "")]
        assert numbers == sorted(numbers), "time goes on"
    labels = [element.text for element in svg.iter("text")]
    assert {"before: 3", "after: 4", "before: 0", "1 h"} <= set(labels)
    assert "8 h" not in labels, "nobody looked that far"


def test_legacy_time_reads_like_speech() -> None:
    assert [legacy_time(minutes) for minutes in (0, 4.55, 59.9, 60, 480)] == ["0 min", "4.5 min", "59.9 min", "1 h", "8 h"]


@pytest.mark.parametrize(("source", "expected"), [
    ("import a\n", f"{LINE}\nimport a\n"),
    ("", f"{LINE}\n"),
    ("#!/usr/bin/python\nimport a\n", f"#!/usr/bin/python\n{LINE}\nimport a\n"),
    ('"""Doc."""\nfrom __future__ import annotations\nx = 1\n',
     f'"""Doc."""\nfrom __future__ import annotations\n{LINE}\nx = 1\n'),
])
def test_the_line_goes_first(source: str, expected: str) -> None:
    assert with_line(source) == expected
    compile(expected, "runner.py", "exec")


@pytest.mark.parametrize("version", ["2025-08-16", "last"])
def test_the_line_is_all_that_differs(tmp_path: Path, plan: Plan, version: str) -> None:
    spaces = {}
    for side in ("before", "after"):
        (tmp_path / side).mkdir()
        spaces[side] = prepare(tmp_path / side, replace(plan, version=version), side, "http://127.0.0.1:1/v1")
    assert spaces["before"].difference == ""
    changed = [line for line in spaces["after"].difference.splitlines()[2:] if line[0] in "+-"]
    assert changed == [f"+{LINE}"]

    def contents(side: str) -> dict[str, str]:
        root = tmp_path / side
        return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}

    old, new = contents("before"), contents("after")
    assert [name for name in old if old[name] != new[name]] == ["runner/common/smart_batch_runner.py"]
    settings = spaces["after"].environment.keys() - spaces["before"].environment.keys()
    assert settings == set(plan.library_settings())


def test_the_environment_of_the_caller_does_not_reach_the_runner(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("THREADSAFE_TIMEOUT_GRACE", "OPENAI_API_KEY", "HTTPS_PROXY", "all_proxy", "LEGACY_MINUTE_SECONDS"):
        monkeypatch.setenv(name, "9")
    environment = prepare(tmp_path, plan, "before", "http://127.0.0.1:1/v1").environment
    assert environment["LEGACY_MINUTE_SECONDS"] == "1"
    assert not {"THREADSAFE_TIMEOUT_GRACE", "OPENAI_API_KEY", "HTTPS_PROXY", "all_proxy"} & environment.keys()


@pytest.mark.parametrize("options", [["--minute", "0"], ["--workers", "0"], ["--mix", "nice=1"], ["--limit", "-1"],
                                     ["--only", "before", "--kill-at", "3"], ["--from", "/nowhere"],
                                     ["--checkpoint-interval", "-1"], ["--engine", "asyncio", "--version", "last"]])
def test_options_that_make_no_sense_are_refused_in_one_line(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["replay", *options]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("module", ["rich", "openai", "h11"])
def test_a_missing_extra_is_told(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["replay"]) == 2
    assert "pip install 'threadsafe-timeout[replay]'" in capsys.readouterr().err


def test_what_every_run_shares_works_with_the_client_that_is_installed(tmp_path: Path, plan: Plan) -> None:
    """Python only mentions a sitecustomize.py that fails; the replay would go on without what it does."""
    environment = prepare(tmp_path, plan, "before", "http://127.0.0.1:1/v1").environment
    code = "import openai._base_client as base; print(base.INITIAL_RETRY_DELAY, base.MAX_RETRY_DELAY)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.stderr == ""
    assert [float(word) for word in done.stdout.split()] == pytest.approx([0.5 / 60, 8 / 60])


RUNNER = """
import json, os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path("child").write_text(str(child.pid))
journal = pathlib.Path(".threadsafe_timeout"); journal.mkdir()
with open(journal / "smart_batch_runner.jsonl", "a") as file:
    for event, key in (("started", "a"), ("done", "a"), ("timeout", "b"), ("started", "c")):
        file.write(json.dumps({"v": 1, "event": event, "key": key}) + "\\n")
    file.write('{"v":1,"event":"done","ke')
database = pathlib.Path("pilot_bench_cumulative_results"); database.mkdir()
(database / "master_database.json").write_text('{"summary": {"total_te')
time.sleep(0.1)
(database / "new").write_text(json.dumps({"summary": {"total_tests": 7, "total_success": 2}}))
os.replace(database / "new", database / "master_database.json")
time.sleep(300)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_run_is_seen_from_outside_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    (tmp_path / "runner.py").write_text(RUNNER)
    work = tmp_path / "work"
    work.mkdir()
    workspace = Workspace(tmp_path, work, [sys.executable, str(tmp_path / "runner.py")], dict(os.environ), "")
    end = time.monotonic() + 120

    def decide(watched: Watched) -> str | None:
        return "limit" if watched.database == 7 or watched.now > end else None

    seen = observe("before", workspace, decide)
    assert (seen.ending, seen.exit_code, seen.threads_at_end, seen.successes) == ("limit", None, 1, 2)
    last = seen.samples[-1]
    assert (last.database, last.journal, last.done) == (7, 2, 1), "a torn line and a torn file are no results"
    child = int((work / "child").read_text())
    while alive(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(child)


def test_ctrl_c_while_a_run_is_started_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    with pytest.raises(KeyboardInterrupt):
        observe("before", Workspace(tmp_path, tmp_path, command, dict(os.environ), ""), lambda _: None)
    assert [alive(pid) for pid in started] == [False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_lines_or_bars(terminal: bool, plan: Plan) -> None:
    out = io.StringIO()
    with progress(Console(file=out, force_terminal=terminal, width=160), plan) as show:
        show.begin("before")
        show.status(Status("before", 5.2, 2, 3, Watched(0.0, 1, 2, 8)))
        show.end(Observation("before", 0.0, ending="limit"))
    text = out.getvalue()
    assert "2/4 finished" in text
    assert "3/4 workers effective" in text
    assert "still running at the limit: killed" in text


def processes_about(text: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in path.read_text() and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until_gone(text: str) -> list[int]:
    end = time.monotonic() + 120
    while (left := processes_about(text)) and time.monotonic() < end:
        time.sleep(0.02)
    return left


@pytest.mark.slow
@pytest.mark.timeout(900)  # at the slowest pace
def test_quick_replay_end_to_end(tmp_path: Path) -> None:
    """What is answered is in time, if a legacy minute is long enough for the machine."""

    def replay(pace: int) -> None:
        work = tmp_path / str(pace)
        work.mkdir()
        quick_replay_end_to_end(work, 0.4 * pace)

    at_some_pace(replay)


def quick_replay_end_to_end(tmp_path: Path, minute: float) -> None:
    html = tmp_path / "page.html"
    command = [sys.executable, "-m", "threadsafe_timeout.cli", "replay", "--quick", "--minute", str(minute), "--limit", "16",
               "--json", "-", "--html", str(html)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=700, env=environment, check=False)
    numbers = json.loads(done.stdout)
    before, after = numbers["before"], numbers["after"]
    assert before["ending"] == "limit", "the legacy runner does not exit by itself"
    assert before["finished"] < 0.85 * before["tasks"]
    assert (before["database"], before["journal"]) == (0, 0)
    assert before["late_requests"] > 0
    assert before["kinds"]["trickle"]["finished"] == 0
    assert (after["finished"], after["database"], after["journal"]) == (20, 20, 20)
    assert after["late_requests"] == 0
    assert after["over_grace_seconds"] < before["over_grace_seconds"] / 10
    assert (after["ending"], after["exit_code"]) == ("exited", 0)
    # how fast connections are closed and it exits is real time: of a machine that is busy elsewhere, only the
    # consistency is ours to assert
    assert done.returncode == (0 if numbers["ok"] else 1)
    assert numbers["ok"] == all(promise["held"] for promise in numbers["promises"])
    assert "The eight-hour stall, replayed" in html.read_text()
    assert wait_until_gone(str(tmp_path)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"], "the work directory is gone"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_process_and_no_directory(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "threadsafe_timeout.cli", "replay", "--quick", "--only", "before"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        end = time.monotonic() + 120
        while not list(tmp_path.glob("*/before/output.txt")) and time.monotonic() < end:
            time.sleep(0.02)
        assert processes_about(f"{tmp_path}/"), "the runner and the server are running"
        process.send_signal(number)
        status = process.wait(120)
    assert status == (130 if number == signal.SIGINT else 128 + number)
    assert wait_until_gone(f"{tmp_path}/") == []
    assert list(tmp_path.iterdir()) == []
