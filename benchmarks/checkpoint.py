"""Durable saves per second beside what people use instead, and how fast a journal is read. Only ratios carry over.

    python benchmarks/checkpoint.py                  the table of docs/checkpoints.md
    python benchmarks/checkpoint.py --records 0 10000    without the million (which needs 1.7 GB of disk)

Every way of saving does the same work: a 1.6 kB record from a Python dict to JSON to the disk, synced before the call
returns. The floor is one write and one fdatasync per record, with no JSON and no lock. Each figure is the median of
`--rounds` rounds, and the ways take turns within a round, so that a disk that gets slower does so for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from threadsafe_timeout.checkpoint import CheckpointWriter, _format, load_checkpoint
from threadsafe_timeout.checkpoint._repair import verify
from threadsafe_timeout.checkpoint._values import dumps

RECORD: dict[str, Any] = {
    "success": True, "score": 0.875, "turns": 7, "tools": [f"tool_{n}" for n in range(20)], "error": None,
    "conversation": [{"role": "assistant", "content": "All work and no play. " * 8} for _ in range(6)],
}  # fmt: skip
Save = Callable[[str], None]


@contextmanager
def ours(path: Path, records: int) -> Iterator[Save]:
    _prefill(path, records)
    writer = CheckpointWriter(path)
    yield lambda key: writer.save(key, RECORD)
    writer.close()


@contextmanager
def ours_fast(path: Path, records: int) -> Iterator[Save]:
    _prefill(path, records)
    writer = CheckpointWriter(path, mode="fast")
    yield lambda key: writer.save(key, RECORD)
    writer.close()


def _prefill(path: Path, records: int) -> None:
    CheckpointWriter(path).close()
    result = dumps(RECORD)
    with open(path, "ab") as stream:
        for number in range(records):
            stream.write(_format.event_line("done", f"old-{number}", 1.7e9 + number, 1, 1.5, result))
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def naive_jsonl(path: Path, records: int) -> Iterator[Save]:
    lock = FileLock(f"{path}.lock", thread_local=False)
    _plain_lines(path, records)

    def save(key: str) -> None:
        line = json.dumps({"key": key, "result": RECORD}).encode() + b"\n"
        with mutex, lock, open(path, "ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    mutex = threading.Lock()  # a FileLock shared by threads does not keep them apart
    yield save


def _plain_lines(path: Path, records: int) -> None:
    text = json.dumps({"key": "old", "result": RECORD}).encode() + b"\n"
    with open(path, "wb") as stream:
        for _ in range(records):
            stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def sqlite_full(path: Path, records: int) -> Iterator[Save]:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE results (key TEXT PRIMARY KEY, result TEXT)")
    text = json.dumps(RECORD)
    database.execute("BEGIN")
    database.executemany("INSERT INTO results VALUES (?, ?)", ((f"old-{n}", text) for n in range(records)))
    database.execute("COMMIT")
    mutex = threading.Lock()

    def save(key: str) -> None:
        text = json.dumps(RECORD)
        with mutex:
            database.execute("INSERT INTO results VALUES (?, ?)", (key, text))

    yield save
    database.close()


@contextmanager
def rewrite_json(path: Path, records: int) -> Iterator[Save]:
    everything = {f"old-{number}": RECORD for number in range(records)}
    mutex = threading.Lock()

    def save(key: str) -> None:
        with mutex:
            everything[key] = RECORD
            fresh = path.with_suffix(".new")
            with open(fresh, "w", encoding="utf-8") as stream:
                json.dump(everything, stream)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(path)

    yield save


@contextmanager
def floor(path: Path, records: int) -> Iterator[Save]:
    _plain_lines(path, records)
    data = os.urandom(800).hex().encode()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    mutex = threading.Lock()

    def save(_: str) -> None:
        with mutex:
            os.write(fd, data)
            os.fdatasync(fd)

    yield save
    os.close(fd)


WAYS: dict[str, Callable[[Path, int], Any]] = {
    "threadsafe-timeout": ours, "threadsafe-timeout, fast": ours_fast, "SQLite WAL FULL": sqlite_full,
    "JSONL + fsync + filelock": naive_jsonl, "rewrite the JSON": rewrite_json, "write + fdatasync (floor)": floor,
}  # fmt: skip


def measure(save: Save, threads: int, seconds: float) -> list[float]:
    """Saves per second, and the median and the 99th percentile of how long one took, in milliseconds."""
    latencies: list[list[float]] = [[] for _ in range(threads)]
    ready = threading.Barrier(threads + 1)
    stop = threading.Event()

    def work(thread: int) -> None:
        mine = latencies[thread]
        ready.wait()
        while not stop.is_set():
            begin = time.perf_counter()
            save(f"{threads}-{thread}-{len(mine)}")
            mine.append(time.perf_counter() - begin)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    begin = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - begin
    flat = sorted(latency for mine in latencies for latency in mine)
    return [len(flat) / elapsed, *(1e3 * flat[min(int(len(flat) * part), len(flat) - 1)] for part in (0.5, 0.99))]


def saves(args: argparse.Namespace, folder: Path) -> None:
    print("| records in the file | threads | way | saves/s | × SQLite, 1 thread | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|")
    for records in args.records:
        found: dict[tuple[int, str], list[list[float]]] = {}
        for _ in range(args.rounds):
            for name, way in WAYS.items():
                if args.ways and not any(name.startswith(wanted) for wanted in args.ways):
                    continue
                if name == "rewrite the JSON" and records > 10_000:
                    continue  # two minutes for one record
                place = folder / "file"
                with way(place, records) as save:
                    # Ten thousand records are written anew for each one saved: more threads only wait longer.
                    for threads in args.threads[:1] if records and name == "rewrite the JSON" else args.threads:
                        found.setdefault((threads, name), []).append(measure(save, threads, args.seconds))
                for left in folder.iterdir():
                    left.unlink()
        base = statistics.median(figures[0] for figures in found[args.threads[0], "SQLite WAL FULL"])
        for threads in args.threads:
            for name in WAYS:
                if (threads, name) in found:
                    rate, p50, p99 = (statistics.median(column) for column in zip(*found[threads, name], strict=True))
                    row = f"{records:,} | {threads} | {name} | {rate:,.0f} | {rate / base:.2f} | {p50:.2f} | {p99:.2f}"
                    print(f"| {row} |", flush=True)


def reading(args: argparse.Namespace, folder: Path) -> None:
    print("\n| reading | records | MB | MB/s | peak memory of the process, MB |\n|---|---|---|---|---|")
    for records in (0, *(number for number in args.records if number)):
        path = folder / "read.jsonl"
        _prefill(path, records)
        for action in ("verify", "load"):
            command = [sys.executable, __file__, "--read", action, str(path)]
            seconds, peak = map(float, subprocess.run(command, capture_output=True, check=True).stdout.split())
            size = path.stat().st_size / 1e6
            print(f"| {action} | {records:,} | {size:,.0f} | {size / seconds:,.0f} | {peak:.0f} |", flush=True)
        path.unlink()


def read_once(action: str, path: str) -> None:
    begin = time.perf_counter()
    if action == "verify":
        assert verify(path).ok
    else:
        loaded = load_checkpoint(path)
        assert loaded.counts()["done"] == len(loaded)
    elapsed = time.perf_counter() - begin
    # Not getrusage: its ru_maxrss begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(elapsed, int(status.partition("VmHWM:")[2].split()[0]) / 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[0, 10_000, 1_000_000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--ways", nargs="+", metavar="NAME", help="only those whose name begins so")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--folder", help="on the disk to measure (default: the temporary directory)")
    parser.add_argument("--read", nargs=2, metavar=("ACTION", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read_once(*args.read)
        return
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        saves(args, folder)
        reading(args, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
