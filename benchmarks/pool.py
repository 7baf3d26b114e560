"""What the pool costs, next to the standard one and pebble's, in one run. Prints Markdown tables.

    pip install -e '.[bench]'
    python benchmarks/pool.py

Ours has a deadline on every task; the standard pool has none, and pebble's thread pool knows none.
"""

import argparse
import concurrent.futures
import contextlib
import gc
import logging
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import as_completed

from threadsafe_timeout import ThreadPoolExecutor

STANDARD = concurrent.futures.ThreadPoolExecutor
DEADLINE = 60.0


def noop():
    pass


class Pebble:
    """pebble's thread pool, as far as it is used here."""

    def __init__(self, workers):
        from pebble import ThreadPool

        self._pool = ThreadPool(max_workers=workers)

    def submit(self, function, *args):
        return self._pool.schedule(function, args)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._pool.close()
        self._pool.join()


def pools():
    """name -> how to make one with n workers."""
    found = {
        "standard": STANDARD,
        "ours": lambda workers: ThreadPoolExecutor(workers, task_timeout=DEADLINE),
    }
    with contextlib.suppress(ImportError):
        import pebble  # noqa: F401

        found["pebble"] = Pebble
    return found


# A function that does n tasks on a pool that is warm.


def batch(pool, n):
    for future in as_completed([pool.submit(noop) for _ in range(n)]):
        future.result()


def one_by_one(pool, n):
    for _ in range(n):
        pool.submit(noop).result()


SHAPES = {"submit all, `as_completed`": batch, "`submit().result()`, one by one": one_by_one}


def per_task(shape, workers, tasks, rounds):
    """name -> microseconds for each task: the best round, taken turn and turn about."""
    best = {}
    with contextlib.ExitStack() as stack:
        warm = {name: stack.enter_context(make(workers)) for name, make in pools().items()}
        for pool in warm.values():
            gate = threading.Barrier(workers + 1)
            waiting = [pool.submit(gate.wait) for _ in range(workers)]  # every thread is there
            gate.wait()
            concurrent.futures.wait(waiting)
        for _ in range(rounds):
            for name, pool in warm.items():
                gc.collect()
                began = time.perf_counter()
                shape(pool, tasks)
                taken = (time.perf_counter() - began) / tasks * 1e6
                best[name] = min(best.get(name, taken), taken)
    return best


def latency(make, workers, count):
    """Microseconds from `submit` to the start of a task, one a millisecond, while the other workers compute."""
    over = threading.Event()
    seen = []

    def compute():
        while not over.is_set():
            sum(range(200))
            time.sleep(0.0005)

    with make(workers) as pool:
        busy = [pool.submit(compute) for _ in range(workers - 1)]
        for _ in range(count):
            submitted = time.perf_counter()
            seen.append(pool.submit(time.perf_counter).result() - submitted)
            time.sleep(0.001)
        over.set()
        concurrent.futures.wait(busy)
    return [1e6 * seconds for seconds in seen]


MEMORY = """
import sys, threading
sys.path.insert(0, {here!r})
import concurrent.futures, pool as benchmark

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

workers = {workers}
make = benchmark.pools()[{name!r}]
with make(2) as pool:
    pool.submit(benchmark.noop).result()
before = resident()
with make(workers) as pool:
    gate = threading.Barrier(workers + 1)
    waiting = [pool.submit(gate.wait) for _ in range(workers)]
    gate.wait()
    concurrent.futures.wait(waiting)
    waiting.clear()
    print((resident() - before) / workers)
"""


def memory(name, workers):
    """KiB of resident memory for each idle worker, in a process of its own."""
    script = MEMORY.format(here=__file__.rpartition("/")[0] or ".", workers=workers, name=name)
    return float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


def recovery(trials, deadline=0.02, grace=0.01):
    """Milliseconds from the instant a stuck thread is to be abandoned at to the start of the next task in its slot."""
    logging.getLogger("threadsafe_timeout").setLevel(logging.CRITICAL)  # three lines for each
    seen = []
    gates = []

    def stuck():
        gate = threading.Lock()
        gate.acquire()
        gates.append(gate)
        began.append(time.monotonic())
        gate.acquire()  # nothing reaches it there

    for _ in range(trials):
        began = []
        with ThreadPoolExecutor(1, task_timeout=deadline, grace=grace) as pool:
            overdue = pool.submit(stuck)
            following = pool.submit(time.monotonic)
            seen.append(1e3 * (following.result() - (began[0] + deadline + 2 * grace)))
            overdue.exception()
        gates.pop().release()
    return seen


ABANDONED = """
import http.client, os, socket, sys, threading
import threadsafe_timeout

threadsafe_timeout.install(patches=["futures"], grace=0.01)  # without those that would end the HTTP call
gate = threading.Lock()
gate.acquire()
listener = socket.create_server(("127.0.0.1", 0), backlog=2000)

def lock():
    gate.acquire()

def deep(frames=60):
    local = ["x" * 50 for _ in range(20)]
    return deep(frames - 1) if frames else gate.acquire()

def answer():
    connection = http.client.HTTPConnection(*listener.getsockname())
    connection.request("GET", "/")
    connection.getresponse()

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

def now():
    return status("VmRSS"), status("VmSize") / 1024, len(os.listdir("/proc/self/fd"))

def abandon(threads):
    futures = [pool.submit({task}) for _ in range(threads)]
    for future in futures:
        future.exception()

pool = threadsafe_timeout.ThreadPoolExecutor(4, task_timeout=0.01, max_abandoned=threads + 100)
abandon(8)
before = now()
abandon(threads)
print(*((after - one) / threads for one, after in zip(before, now())))
sys.stdout.flush()
os._exit(0)  # they are stuck for good
"""


def abandoned(task, threads=200):
    """What each abandoned thread costs, in a process of its own: KiB resident, MiB virtual, descriptors."""
    script = f"threads = {threads}\n" + ABANDONED.replace("{task}", task)
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return [float(number) for number in done.stdout.split()]


def percentiles(values):
    ranked = sorted(values)
    return statistics.median(ranked), ranked[int(len(ranked) * 0.99)]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--trials", type=int, default=200)
    chosen = options.parse_args()
    names = list(pools())

    print(f"\nPython {sys.version.split()[0]}, {chosen.tasks} tasks that do nothing, best of {chosen.rounds}\n")
    print("| µs per task | workers | " + " | ".join(names) + " | ours / standard |")
    print("|---|---|" + "---|" * len(names) + "---|")
    for what, shape in SHAPES.items():
        for workers in (1, 16, 100):
            best = per_task(shape, workers, chosen.tasks, chosen.rounds)
            cells = " | ".join(f"{best[name]:.1f}" for name in names)
            print(f"| {what} | {workers} | {cells} | {best['ours'] / best['standard']:.2f} |", flush=True)

    print("\n| from submit to start, µs, 15 of 16 workers busy | median | p99 |\n|---|---|---|")
    samples = {name: [] for name in names}
    for _ in range(4):  # turn and turn about
        for name, make in pools().items():
            samples[name] += latency(make, 16, chosen.trials)
    for name in names:
        median, p99 = percentiles(samples[name])
        print(f"| {name} | {median:.0f} | {p99:.0f} |")

    print("\n| resident memory per idle worker, KiB, 500 workers | |\n|---|---|")
    for name in names:
        print(f"| {name} | {memory(name, 500):.1f} |")

    print("\n| each abandoned thread, of 200 stuck in | KiB resident | MiB virtual | descriptors |\n|---|---|---|---|")
    for what, task in {"a lock": "lock", "a lock, 60 calls deep": "deep", "`http.client`": "answer"}.items():
        resident, virtual, descriptors = abandoned(task)
        print(f"| {what} | {resident:.0f} | {virtual:.1f} | {descriptors:.0f} |")

    median, p99 = percentiles(recovery(chosen.trials))
    print("\n| from the instant a worker is to be abandoned at to the next task in its slot, ms | median | p99 |")
    print(f"|---|---|---|\n| ours | {median:.2f} | {p99:.2f} |")


if __name__ == "__main__":
    main()
