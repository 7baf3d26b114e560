"""Programs that are recorded, and what their files say."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

BEGIN = """
import os, sys, threading, time, signal
import threadsafe_timeout
threadsafe_timeout.install(status_dir="runs_here", checkpoint=None)
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

def until(found):
    while not found():
        time.sleep(0.01)

def counted(pool):  # a future is done a moment before its task is counted, and has a line
    until(lambda: pool.stats()["running"] == 0)

def status():
    import json
    for file in Path("runs_here").glob(f"runs/*-{os.getpid()}/status.json"):
        return json.loads(file.read_text())
"""


def command(folder: Path, program: str) -> list[str]:
    (folder / "program.py").write_text(BEGIN + textwrap.dedent(program))
    return [sys.executable, "program.py"]


def run(folder: Path, program: str, exit_status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(folder, program), cwd=folder, capture_output=True, text=True, timeout=110, check=False, env=environment()
    )
    assert done.returncode == exit_status, done.stderr
    return done


def said_on_terminal(command: list[str], folder: Path, status: int = 0, **variables: str) -> str:
    """What a program says on a terminal, which all its streams are."""
    ours, its = pty.openpty()
    try:
        child = subprocess.Popen(
            command, cwd=folder, env=environment() | variables, stdin=its, stdout=its, stderr=its, start_new_session=True
        )
        os.close(its)
        said = bytearray()
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:  # the way Linux says that the other end is closed
            pass
        assert child.wait(110) == status, said.decode()
    finally:
        os.close(ours)
    return said.decode()


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("THREADSAFE_TIMEOUT_")}


def folders(folder: Path) -> list[Path]:
    return sorted((folder / "runs_here" / "runs").glob("*"))


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def of_kind(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(run) if event["kind"] == kind]


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "status.json").read_text())
    return found
