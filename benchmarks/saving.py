"""What `save="tasks"` costs: tasks a second with it and without, beside joblib.Memory and a file by hand. Only ratios
carry over.

    python benchmarks/saving.py                 the table of docs/measurements.md
    python benchmarks/saving.py --tasks 500 --rounds 3

A task makes a result of 1.6 kB (a dict) from its number. The ways take turns within a round, in one process, and each
figure is the median of the rounds.

- not saved: the pool alone
- save="tasks": a key from function and arguments, a line when it begins, a line that is synced when it ends
- json, fsync: one file for all, a lock, one write and one fsync a result, as a runner does it by hand; no keys
- joblib.Memory: a key from function and arguments, a pickle and its metadata in a folder for each call; not synced
- again: each task's result is there already, in the journal or in joblib's folder
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib

import threadsafe_timeout
from threadsafe_timeout import ThreadPoolExecutor
from threadsafe_timeout.checkpoint import _program_run

Task = Callable[[int], Any]


def evaluate(number: int) -> dict[str, Any]:
    return {
        "success": True, "score": number / 7, "turns": 7, "tools": [f"tool_{n}" for n in range(20)], "error": None,
        "conversation": [{"role": "assistant", "content": "All work and no play. " * 8} for _ in range(6)],
    }  # fmt: skip


@contextmanager
def not_saved(_folder: Path) -> Iterator[Task]:
    with threadsafe_timeout.patched(checkpoint="off", status_dir="off"):
        yield evaluate


@contextmanager
def saved(folder: Path) -> Iterator[Task]:
    path = str(folder / "run.jsonl")
    with threadsafe_timeout.patched(save="tasks", checkpoint=path, resume="always", status_dir="off"):
        yield evaluate
        _program_run.end()  # with its last sync


@contextmanager
def by_hand(folder: Path) -> Iterator[Task]:
    lock = threading.Lock()
    with open(folder / "results.jsonl", "ab", buffering=0) as file:

        def task(number: int) -> dict[str, Any]:
            result = evaluate(number)
            line = json.dumps({"number": number, "result": result}).encode() + b"\n"
            with lock:
                file.write(line)
                os.fsync(file.fileno())
            return result

        with threadsafe_timeout.patched(checkpoint="off", status_dir="off"):
            yield task


@contextmanager
def by_joblib(folder: Path) -> Iterator[Task]:
    with threadsafe_timeout.patched(checkpoint="off", status_dir="off"):
        yield joblib.Memory(folder / "memory", verbose=0).cache(evaluate)


WAYS = {"not saved": not_saved, 'save="tasks"': saved, "json, fsync": by_hand, "joblib.Memory": by_joblib}
AGAIN = {"not saved": not_saved, 'again, save="tasks"': saved, "again, joblib.Memory": by_joblib}


def rate(way: Callable[[Path], Any], folder: Path, tasks: int, threads: int) -> float:
    """Tasks a second."""
    folder.mkdir(exist_ok=True)
    with way(folder) as task:
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(task, number) for number in range(tasks)]:
                future.result()
        return tasks / (time.perf_counter() - began)


def measure(threads: int, tasks: int, rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in [*WAYS, *AGAIN]}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            for ways in (WAYS, AGAIN):
                names = list(ways)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    found[name].append(rate(ways[name], Path(folder) / ways[name].__name__, tasks, threads))
    return {name: statistics.median(rates) for name, rates in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8, 100])
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "Persisting input arguments")  # joblib's, on a slow disk
    logging.getLogger("threadsafe_timeout").setLevel(logging.ERROR)  # each round goes on with a run, and says so
    print("| tasks/s | " + " | ".join(f"{threads} threads" for threads in args.threads) + " |")
    print("|---|" + "---|" * len(args.threads))
    columns = [measure(threads, args.tasks, args.rounds) for threads in args.threads]
    for name in columns[0]:
        cells = [f"{column[name]:,.0f} ({column[name] / column['json, fsync']:.2f})" for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
