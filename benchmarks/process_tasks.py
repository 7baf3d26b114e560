"""What a process for each task costs and does, beside pools of processes, in one run. Prints Markdown tables.

    pip install -e '.[bench]'
    python benchmarks/process_tasks.py

The first table: no-op tasks, four at a time. Ours, and pebble's `concurrent.process`, start a process for each; the
others keep theirs, and cannot end one task alone. The second: from a task's deadline until the next task has begun in
its slot, where the first is stuck in code that holds the GIL.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import re
import statistics
import sys
import time

import loky
import pebble

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor

WIDTH = 4
DEADLINE = 1.0


def noop():
    return None


def hold_the_gil():
    re.match(r"(a+)+$", 40 * "a" + "b")  # for hours


def now():
    return time.time()


def ours(count):
    with ThreadPoolExecutor(WIDTH, isolate="process") as pool:
        for future in [pool.submit(noop) for _ in range(count)]:
            future.result()


def pebble_process(count):
    context = multiprocessing.get_context("forkserver")
    start = pebble.concurrent.process(context=context)(noop)

    def one(_number):
        start().result()

    with concurrent.futures.ThreadPoolExecutor(WIDTH) as threads:
        list(threads.map(one, range(count)))


def pebble_pool(count):
    with pebble.ProcessPool(WIDTH, context=multiprocessing.get_context("forkserver")) as pool:
        for future in [pool.schedule(noop) for _ in range(count)]:
            future.result()


def standard(count):
    with concurrent.futures.ProcessPoolExecutor(WIDTH, multiprocessing.get_context("forkserver")) as pool:
        for future in [pool.submit(noop) for _ in range(count)]:
            future.result()


def loky_pool(count):
    pool = loky.ProcessPoolExecutor(WIDTH)
    try:
        for future in [pool.submit(noop) for _ in range(count)]:
            future.result()
    finally:
        pool.shutdown()


def slot_free_ours():
    with ThreadPoolExecutor(1, isolate="process", grace=0.1) as pool:
        pool.submit(noop).result()  # the fork server is there
        began = time.time()
        stuck, after = pool.with_options(timeout=DEADLINE).submit(hold_the_gil), pool.submit(now)
        free = after.result() - began - DEADLINE
        assert isinstance(stuck.exception(), DeadlineExceeded)
    return free


def slot_free_pebble_process():
    context = multiprocessing.get_context("forkserver")
    start = pebble.concurrent.process(context=context)
    start(noop)().result()
    began = time.time()
    stuck = pebble.concurrent.process(timeout=DEADLINE, context=context)(hold_the_gil)()
    assert isinstance(stuck.exception(), TimeoutError)
    return start(now)().result() - began - DEADLINE


def slot_free_pebble_pool():
    with pebble.ProcessPool(1, context=multiprocessing.get_context("forkserver")) as pool:
        pool.schedule(noop).result()
        began = time.time()
        stuck, after = pool.schedule(hold_the_gil, timeout=DEADLINE), pool.schedule(now)
        free = after.result() - began - DEADLINE
        assert isinstance(stuck.exception(), TimeoutError)
    return free


POOLS = {
    '`isolate="process"`': ours, "pebble `concurrent.process`": pebble_process, "pebble `ProcessPool`": pebble_pool,
    "`ProcessPoolExecutor`": standard, "loky": loky_pool,
}  # fmt: skip
ENDING = {
    '`isolate="process"`': slot_free_ours, "pebble `concurrent.process`": slot_free_pebble_process,
    "pebble `ProcessPool`": slot_free_pebble_pool,
}  # fmt: skip


def timed(function, *args):
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=100, help="a hundred times as many where processes are kept")
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    print(f"Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}, {chosen.rounds} rounds in turns\n")
    took = {name: [] for name in POOLS}
    for _ in range(chosen.rounds):
        for name, run in POOLS.items():
            # The difference of two runs: what a task costs, without the start of the pool.
            tasks = chosen.tasks if run in (ours, pebble_process) else 100 * chosen.tasks
            took[name].append((timed(run, 2 * tasks) - timed(run, tasks)) / tasks)
    ours_took = statistics.median(took['`isolate="process"`'])
    print("| | ms per no-op task | ours / it |\n|---|---|---|")
    for name, values in took.items():
        median = statistics.median(values)
        print(f"| {name} | {1e3 * median:.2f} | {ours_took / median:.2f} |", flush=True)
    print("\n| | s from the deadline to the next task, GIL held |\n|---|---|")
    for name, run in ENDING.items():
        print(f"| {name} | {statistics.median(run() for _ in range(chosen.rounds)):.2f} |", flush=True)
    print("| `ProcessPoolExecutor`, loky | never |")


if __name__ == "__main__":
    main()
