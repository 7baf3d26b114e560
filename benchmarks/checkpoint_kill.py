"""SIGKILL a process that saves from 32 threads, at random moments, again and again, and look at what is left.

    python benchmarks/checkpoint_kill.py --kills 1000

After each kill, checked: every record that was acknowledged before the kill is there, with its result; no task was
saved twice; the file loads; the next process, which resumes, repeats nothing that was finished. The journal is carried
over from kill to kill (and begun afresh when all its tasks are done), so each process also mends what the kill before
it left. Exits with status 1 at the first broken promise.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from threadsafe_timeout.checkpoint import iter_records, load_checkpoint, open_run

THREADS, TASKS = 32, 3000
PADDING = "x" * 800


def keys(thread: int) -> list[str]:
    return [f"task-{number}" for number in range(thread, TASKS, THREADS)]


def child(path: Path, acknowledge: int) -> None:
    """Do what is not done yet; write each key to the pipe once its save has returned."""
    writer, finished = open_run(path, resume="always")
    os.write(acknowledge, b"ready\n")

    def work(thread: int) -> None:
        for key in keys(thread):
            if key not in finished:
                writer.started(key)
                writer.save(key, {"key": key, "padding": PADDING})
                os.write(acknowledge, f"{key}\n".encode())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close(ended=True)
    os._exit(0)


def killed_run(path: Path, delay: float) -> set[str]:
    """The keys that a process acknowledged before it was killed, `delay` seconds after it was ready."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            child(path, writing)
        finally:
            os._exit(70)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        killer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
        first = stream.readline()
        killer.start()
        lines = first + stream.read()
        killer.join()
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the child failed by itself, status {os.WEXITSTATUS(status)}")
    whole = lines[: lines.rfind(b"\n") + 1]
    return set(whole.decode().split()) - {"ready"}


def check(path: Path, acknowledged: set[str]) -> tuple[int, bool]:
    """Raise SystemExit if a promise was broken. How many are done, and whether there was a torn last line."""
    loaded = load_checkpoint(path)
    done = {key for key, record in loaded.items() if record.status == "done"}
    if missing := acknowledged - done:
        raise SystemExit(f"LOST: {len(missing)} acknowledged records, such as {sorted(missing)[:3]}")
    saved = Counter(record.key for record in iter_records(path) if record.status == "done")
    if twice := [key for key, count in saved.items() if count > 1]:
        raise SystemExit(f"TWICE: {twice[:3]}")
    wrong = [key for key in done if loaded[key].result != {"key": key, "padding": PADDING}]
    if wrong:
        raise SystemExit(f"WRONG RESULT: {wrong[:3]}")
    return len(done), loaded.torn is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--longest", type=float, default=0.25, help="seconds a process may live")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1 << 32)
    chance = random.Random(seed)
    torn = acknowledged_in_all = journals = 0
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, acknowledged = Path(folder, "0.jsonl"), set[str]()
        for _ in range(args.kills):
            new = killed_run(path, chance.uniform(0, args.longest))
            if repeated := new & acknowledged:
                raise SystemExit(f"REPEATED: finished tasks ran again: {sorted(repeated)[:3]} (seed {seed})")
            acknowledged |= new
            acknowledged_in_all += len(new)
            done, was_torn = check(path, acknowledged) if path.exists() else (0, False)
            torn += was_torn
            if done == TASKS:
                journals += 1
                path, acknowledged = Path(folder, f"{journals}.jsonl"), set()
    print(f"{args.kills} kills, {acknowledged_in_all} acknowledged records, {journals} journals completed")
    print(f"{torn} torn last lines forgiven; {time.perf_counter() - begin:.0f} s, seed {seed}")
    print("none lost, none twice, none repeated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
