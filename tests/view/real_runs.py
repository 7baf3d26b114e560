"""A real program with a pool, a journal and `status_dir`: it ends by itself, or is killed in mid-run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terminals import COMMAND

from threadsafe_timeout.checkpoint import load_checkpoint

# The sixty tasks end in all ways that there are; what the program itself saw of their futures is what it prints. One
# that is given up is stuck in a read that nothing wakes.
PROGRAM = """
import json, os, sys, threading, time
import threadsafe_timeout
from collections import Counter
from pathlib import Path
from threadsafe_timeout._pool.task import current_task

threadsafe_timeout.install(status_dir="runs_here")
gate = threading.Event()
never, end_of_never = os.pipe()

def good(name):
    return name

def bad(name):
    raise ValueError(f"no answer for {name}")

def late(name):
    threadsafe_timeout.sleep(600)

def acquire(name):  # no interrupt strikes in what is called so: it gets where it is to be stuck
    current_task()._scope.deadline = time.monotonic()
    os.read(never, 1)

entered = []

def held(name):
    entered.append(name)
    gate.wait()

def status():
    for file in Path("runs_here").glob("runs/*/status.json"):
        found = json.loads(file.read_text())
        held = [worker for worker in found["workers"] if worker["state"] == "running"]
        return found["totals"]["running"], len(held), found["totals"]["saved"]

def seen(future):
    error = future.exception(timeout=100)
    return {"NoneType": "done", "ValueError": "failed", "DeadlineExceeded": "timed_out"}[type(error).__name__]

def flow(pool):
    for number in range(10**9):
        key = f"flow-{number}"
        pool.with_options(key=key).submit(good, key).result()

how = sys.argv[1]
writer = threadsafe_timeout.CheckpointWriter("journal.jsonl")
pool = threadsafe_timeout.ThreadPoolExecutor(8, task_timeout=600, grace=300, checkpoint=writer)
# One of its own: what is only late is to end by itself, whenever it gets to that.
hasty = threadsafe_timeout.ThreadPoolExecutor(2, task_timeout=600, grace=0.05, checkpoint=writer)
if how == "flows":
    flow(pool)
works = [good] * 40 + [bad] * 12 + [late] * 6 + [acquire] * 2
futures = [
    (hasty if work is acquire else pool)
    .with_options(key=f"case-{number}", timeout=0.05 if work is late else 600)
    .submit(work, f"case-{number}")
    for number, work in enumerate(works)
]
counts = Counter(map(seen, futures))
counts["abandoned"] = hasty.stats()["abandoned"]
hasty.shutdown()
if how == "rests":
    waiting = [pool.with_options(key=f"held-{number}").submit(held, f"held-{number}") for number in range(3)]
    while status() != (3, 3, 60) or len(entered) < 3:
        time.sleep(0.01)
print(json.dumps(counts), flush=True)
if how == "rests":
    gate.wait()
os.write(end_of_never, b"ab")
pool.shutdown()
writer.close()
"""


@contextmanager
def program(folder: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """`ends`; `rests`, with three tasks that do not end, when all it did is in its files; or `flows`, for ever."""
    (folder / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "program.py", how], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("THREADSAFE_TIMEOUT_")},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(120)
        assert process.stdout is not None
        process.stdout.close()


def own_counts(process: subprocess.Popen[str]) -> dict[str, int]:
    """What the program says, once it has seen the end of each of its tasks."""
    assert process.stdout is not None
    counts: dict[str, int] = json.loads(process.stdout.readline())
    return counts


def in_journal(folder: Path) -> Counter[str]:
    """The records of the journal, by their status."""
    return Counter(record.status for record in load_checkpoint(folder / "journal.jsonl").values())


def command(folder: Path, *arguments: str) -> str:
    """What a command of the library prints, in that folder."""
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, text=True, capture_output=True, timeout=110, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def watched(folder: Path) -> dict[str, Any]:
    """What `watch --json` says."""
    found: dict[str, Any] = json.loads(command(folder, "watch", "--json", "runs_here"))
    return found
