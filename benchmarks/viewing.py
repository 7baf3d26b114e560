"""What the page about a run costs: the time, the memory and the size of `threadsafe-timeout report`, by the number of
tasks that have a line of their own. Each in a process of its own. Then what `threadsafe-timeout watch` costs that shows
a hundred workers on a terminal, in each second. Prints a Markdown table and a line.

    python benchmarks/viewing.py
"""

import argparse
import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NOW = 1_800_000_000.0
OUTCOMES = {0: "failed", 50: "timeout"}
REPORT = [sys.executable, "-m", "threadsafe_timeout.cli", "report"]


def task(number):
    """A line as a run writes it: of a hundred tasks, one fails and one times out."""
    end = NOW + 1 + number * 0.01
    outcome = OUTCOMES.get(number % 100, "done")
    line = {
        "kind": "task", "t": end, "start": end - 0.7, "took": 0.7, "pool": "batch", "worker": f"batch_{number % 100}",
        "task": f"case-{number}", "key": f"case-{number}", "outcome": outcome, "deadline": 600.0, "saved": True,
    }  # fmt: skip
    if outcome != "done":
        where = ["/srv/app/runner.py", number % 9, "ask"]
        line.update(error={"type": "ValueError", "message": f"no answer for {number}", "where": where}, where=where)
    return line


def tick(number):
    counts = {"width": 100, "effective": 100 - number // 100 % 60, "completed": number, "submitted": number}
    return {"kind": "tick", "t": NOW + 1 + number * 0.01, "pools": {"batch": counts}}


def make_run(folder, tasks):
    """The files of a run that is over, with a state of its pools for each hundred tasks."""
    run = {"schema": 1, "t": NOW, "run": "made", "pid": 1, "program": "runner.py", "cwd": "/srv/app"}
    status = {**run, "state": "ended", "started": NOW, "totals": {}, "workers": []}
    (folder / "status.json").write_text(json.dumps(status))
    with open(folder / "events.jsonl", "w") as file:
        file.write(json.dumps({"kind": "run", **run}) + "\n")
        for number in range(tasks):
            file.write(json.dumps(task(number)) + "\n")
            if number % 100 == 0:
                file.write(json.dumps(tick(number)) + "\n")
    return (folder / "events.jsonl").stat().st_size


def measured(command):
    """Seconds, seconds of processor, and the most memory, in MiB, of a command."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


WORKERS = 100
PROGRAM = f"""
import sys, threading
import threadsafe_timeout.auto
from concurrent.futures import ThreadPoolExecutor
end = threading.Event()
def work(number):
    while not end.wait(0.5):
        pass
with ThreadPoolExecutor({WORKERS}) as pool:
    for number in range({WORKERS}):
        pool.submit(work, number)
    sys.stdin.readline()
    end.set()
"""


def watched(seconds):
    """Seconds of processor that `watch` takes for so many seconds before a terminal, its start not counted."""
    with tempfile.TemporaryDirectory() as name:
        program = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=name, stdin=subprocess.PIPE, text=True)
        while not list(Path(name).glob(".threadsafe_timeout/runs/*/status.json")):
            time.sleep(0.1)
        took = [_watch(name, program.pid, length) for length in (5, 5 + seconds)]
        program.communicate("\n")
    return took[1] - took[0]


def _watch(folder, pid, seconds):
    child, terminal = pty.fork()
    if not child:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "threadsafe_timeout.cli", "watch", str(pid)])
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            os.read(terminal, 65536)
    os.kill(child, signal.SIGTERM)
    _, _, used = os.wait4(child, 0)
    os.close(terminal)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[0, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--watched", type=int, default=20, help="for how many seconds")
    options = parser.parse_args()
    print("| tasks | events, MiB | page, KiB | time, s | processor, s | most memory, MiB |\n|---|---|---|---|---|---|")
    for tasks in options.tasks:
        with tempfile.TemporaryDirectory() as name:
            folder, page = Path(name), Path(name, "page.html")
            events = make_run(folder, tasks)
            best = min(measured([*REPORT, name, "-o", str(page)]) for _ in range(options.rounds))
            clock, cpu, memory = best
            print(f"| {tasks:,} | {events / 2**20:.1f} | {page.stat().st_size / 1024:.0f} | {clock:.2f} | {cpu:.2f} | "
                  f"{memory:.0f} |", flush=True)  # fmt: skip
    print(f"\nthe fastest of {options.rounds}; {os.cpu_count()} processors")
    share = watched(options.watched) / options.watched
    print(f"\n`watch`, {WORKERS} workers: {1e3 * share:.0f} ms of processor in each second")


if __name__ == "__main__":
    main()
