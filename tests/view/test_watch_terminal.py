"""`watch` on a terminal: its keys, its sizes, and the terminal when it is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest
from conditions import until
from made_runs import HOSTILE, make_run, workers
from terminals import COMMAND, Pty, Tmux, needs_tmux

from threadsafe_timeout._view.keys import Keys

WATCH = [*COMMAND, "watch"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of this process: it lives, and does not change by itself."""
    import time

    now = time.time()
    found = workers(30, now)
    found[4].update(state="overdue", rung=1, deadline_left=-3.0, task=HOSTILE, stack=[["/srv/app/runner.py", 7, "ask_model"]])
    found[9].update(phase="search ×3", task="needle", where=["/srv/app/search.py", 9, "look"])
    return make_run(tmp_path / ".threadsafe_timeout", now=now, workers=found)


@needs_tmux
def test_the_table_is_there_and_keys_do_what_the_page_says(run: Path, tmp_path: Path) -> None:
    with Tmux(WATCH, tmp_path) as terminal:
        screen = terminal.wait_for("q quit", "done 812", "overdue")
        assert any(line.startswith("> overdue") and "<script>" in line for line in screen)
        assert "\\x1b[31mred" in "\n".join(screen)
        terminal.press("j")
        terminal.wait_for("> running      case-29")  # the longest idle of the others
        terminal.press("Up")
        terminal.wait_for("> overdue")
        terminal.press("s")
        terminal.wait_for("sort: age")
        terminal.press("/")
        terminal.wait_for("filter: _")
        terminal.press("n", "e", "e", "d", "q", "BSpace", "Enter")
        screen = terminal.wait_for("(1 of 30 with 'need')", "needle")
        assert not any("case-29" in line for line in screen)
        terminal.press("Escape")
        terminal.wait_for("case-8")  # next to the chosen one
        terminal.press("?")
        terminal.wait_for("any key: back", "choose a worker")
        terminal.press("q")
        terminal.wait_for("q quit")
        terminal.press("q")
        terminal.wait_for("left with 0")


@needs_tmux
def test_enter_opens_the_stack_that_the_status_holds(run: Path, tmp_path: Path) -> None:
    with Tmux(WATCH, tmp_path) as terminal:
        terminal.wait_for("> overdue")
        terminal.press("Enter")
        terminal.wait_for("worker batch_4", 'File "/srv/app/runner.py", line 7, in ask_model', "q or escape: back")
        terminal.press("Escape")
        terminal.wait_for("q quit")
        assert not (run / "stacks.request").exists()


@needs_tmux
def test_enter_asks_the_run_for_a_stack_that_is_not_there(run: Path, tmp_path: Path) -> None:
    with Tmux(WATCH, tmp_path) as terminal:
        terminal.wait_for("> overdue")
        terminal.press("j", "Enter")
        terminal.wait_for("asking the run")
        until((run / "stacks.request").exists)
        (run / "made").write_text("process 1\n\nworker batch_3, running\n  other\n\nworker batch_29, running: task x\n  deep in it\n")
        os.replace(run / "made", run / "stacks.txt")
        screen = terminal.wait_for("deep in it")
        assert not any("other" in line for line in screen)
        terminal.press("q")
        terminal.wait_for("q quit")


@needs_tmux
@pytest.mark.parametrize(("columns", "height"), [(40, 12), (40, 40), (80, 6), (200, 50)])
def test_it_follows_the_size_of_the_terminal(run: Path, tmp_path: Path, columns: int, height: int) -> None:
    with Tmux(WATCH, tmp_path) as terminal:
        terminal.wait_for("q quit")
        terminal.resize(columns, height)

        def fits() -> bool:  # tmux moves lines about until the program has drawn them again
            screen = terminal.screen()
            ends = screen[0].startswith("runner.py") and screen[-1].startswith("q quit")
            return len(screen) == height and ends and any("> overdue" in line for line in screen)

        until(fits, terminal.text)


@needs_tmux
def test_what_changes_in_the_files_changes_on_the_screen(run: Path, tmp_path: Path) -> None:
    with Tmux(WATCH, tmp_path) as terminal:
        terminal.wait_for("done 812")
        status = json.loads((run / "status.json").read_text())
        status["totals"]["done"] = 813
        (run / "status.part").write_text(json.dumps(status))
        os.replace(run / "status.part", run / "status.json")
        with open(run / "events.jsonl", "a") as file:
            file.write(json.dumps({"kind": "abandoned", "t": status["t"], "task": "case-77", "elapsed": 12.0}) + "\n")
        terminal.wait_for("done 813", "abandoned case-77 after 12.0 s")
        status["state"] = "ended"
        (run / "status.part").write_text(json.dumps(status))
        os.replace(run / "status.part", run / "status.json")
        terminal.wait_for("ended at")
        newer = make_run(tmp_path / ".threadsafe_timeout", name="20990101-000000-1", program="resumed.py")
        assert newer.exists()
        terminal.wait_for("resumed.py")  # it was not asked for one by name


def left_by(how: str, terminal: Pty) -> int:
    if how == "q":
        os.write(terminal.master, b"q")
    elif how == "Ctrl-C":
        terminal.process.send_signal(signal.SIGINT)
    else:
        terminal.process.send_signal(getattr(signal, how))
    return terminal.wait_for_end()


@pytest.mark.parametrize(("how", "status"), [("q", 0), ("Ctrl-C", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_terminal_is_as_it_was_however_it_is_left(run: Path, tmp_path: Path, how: str, status: int) -> None:
    with Pty(WATCH, tmp_path) as terminal:
        terminal.wait_for(b"q quit")
        during: Any = termios.tcgetattr(terminal.slave)
        assert not during[3] & (termios.ECHO | termios.ICANON)
        assert left_by(how, terminal) == status
        assert termios.tcgetattr(terminal.slave) == terminal.mode
        assert terminal.output.rindex(b"\x1b[?1049l") > terminal.output.rindex(b"\x1b[?1049h")
        assert terminal.output.rindex(b"\x1b[?25h") > terminal.output.rindex(b"\x1b[?25l")
        assert b"Traceback" not in terminal.output


def test_it_ends_when_its_terminal_is_closed(run: Path, tmp_path: Path) -> None:
    terminal = Pty(WATCH, tmp_path)
    try:
        terminal.wait_for(b"q quit")
    finally:
        os.close(terminal.slave)
        os.close(terminal.master)
        try:
            assert terminal.process.wait(120) == 0
        finally:
            terminal.process.kill()
            terminal.process.wait(120)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_without_a_screen_gets_lines(run: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    with Pty([*WATCH], tmp_path, environment) as terminal:
        terminal.wait_for(b"batch_4  overdue")
        assert b"\x1b" not in terminal.output


def test_without_rich_it_names_the_extra_and_lines_and_json_work(run: Path, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not here')\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with Pty(WATCH, tmp_path, environment) as terminal:
        assert terminal.wait_for_end() == 2
        assert b"pip install 'threadsafe-timeout[view]'" in terminal.output
    for option in ("--once", "--json"):
        done = subprocess.run(
            [*WATCH, option], cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert "needle" in done.stdout


def test_keys_that_come_in_pieces() -> None:
    read_end, write_end = os.pipe()
    try:
        keys = Keys(read_end)
        os.write(write_end, b"\x1b[A\x1bOBjq\r\x7f\x1b[5~\xc3\xa9\x1b[99~\x01s")
        assert keys.read(120) == ["up", "down", "j", "q", "enter", "backspace", "page up", "é", "s"]
        os.write(write_end, b"\x1b")
        assert keys.read(120) == ["escape"]
        assert keys.read(0) == []
        os.close(write_end)
        with pytest.raises(EOFError):
            keys.read(120)
    finally:
        os.close(read_end)
