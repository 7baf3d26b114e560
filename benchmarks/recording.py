"""What the files of a run cost the pool: tasks each second with and without them, turn and turn about in one run, each
long enough for the recorder to look; and the bytes of a task that has a line of its own. Prints a Markdown table.

    python benchmarks/recording.py
"""

import argparse
import asyncio
import gc
import logging
import os
import statistics
import tempfile
import time
from concurrent.futures import as_completed
from pathlib import Path

import threadsafe_timeout

DEADLINE = 60.0
CHUNK = 5000  # tasks


def noop(number):
    pass


def one_ms(number):
    time.sleep(0.001)


def batch(pool, tasks, function=noop):
    for future in as_completed([pool.submit(function, number) for number in range(tasks)]):
        future.result()


def one_by_one(pool, tasks):
    for number in range(tasks):
        pool.submit(noop, number).result()


def batch_of_1_ms(pool, tasks):
    batch(pool, tasks // 10, one_ms)
    return tasks // 10


async def noop_coroutine(number):
    await asyncio.sleep(0)


async def gathered(pool, tasks, function=noop_coroutine):
    await pool.gather(*(pool.submit(function, number) for number in range(tasks)))


async def one_ms_coroutine(number):
    await asyncio.sleep(0.001)


async def gathered_of_1_ms(pool, tasks):
    await gathered(pool, tasks // 10, one_ms_coroutine)
    return tasks // 10


async def awaited(pool, tasks):
    for number in range(tasks):
        await pool.submit(noop_coroutine, number)


SHAPES = {
    "no-op, submit all, `as_completed`": batch,
    "no-op, `submit().result()`, one by one": one_by_one,
    "1 ms of sleep, submit all, `as_completed`": batch_of_1_ms,
}


COROUTINES = {
    "`AsyncPool`, coroutines that end at once, submit all, `gather`": gathered,
    "`AsyncPool`, coroutines that end at once, `await`, one by one": awaited,
    "`AsyncPool`, 1 ms of sleep, submit all, `gather`": gathered_of_1_ms,
}


def one_round_of_coroutines(status_dir, shape, limit, seconds):
    """The same, of an `AsyncPool`."""

    async def main():
        async with threadsafe_timeout.AsyncPool(limit, task_timeout=DEADLINE) as pool:
            await shape(pool, 10 * limit)
            gc.collect()
            tasks, began, cpu = 0, time.perf_counter(), time.process_time()
            while (took := time.perf_counter() - began) < seconds:
                tasks += await shape(pool, CHUNK) or CHUNK
            return (time.process_time() - cpu) / tasks, took / tasks

    with threadsafe_timeout.patched(status_dir=status_dir, checkpoint=None):
        return asyncio.run(main())


def one_round(status_dir, shape, workers, seconds):
    """Seconds of processor for each task, of the whole process, on a pool that is warm; and seconds."""
    with (
        threadsafe_timeout.patched(status_dir=status_dir, checkpoint=None),
        threadsafe_timeout.ThreadPoolExecutor(workers, task_timeout=DEADLINE) as pool,
    ):
        shape(pool, 10 * workers)
        gc.collect()
        tasks, began, cpu = 0, time.perf_counter(), time.process_time()
        while (took := time.perf_counter() - began) < seconds:
            tasks += shape(pool, CHUNK) or CHUNK
        return (time.process_time() - cpu) / tasks, took / tasks


def compare(one_round, shape, workers, seconds, rounds):
    """The ratio of tasks each second, with to without: medians, by processor time and by the clock."""
    cpu, clock = [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            order = (None, folder) if number % 2 else (folder, None)
            took = {status_dir: one_round(status_dir, shape, workers, seconds) for status_dir in order}
            cpu.append(took[None][0] / took[folder][0])
            clock.append(took[None][1] / took[folder][1])
    return statistics.median(cpu), statistics.median(clock)


def bytes_per_task():
    with tempfile.TemporaryDirectory() as folder:
        one_round(folder, batch, 4, 0.1)
        [events] = Path(folder).glob("runs/*/events.jsonl")
        lines = [len(line) for line in events.read_bytes().splitlines(keepends=True) if b'"kind":"task"' in line]
        return statistics.mean(lines)


def show(name, workers, ratios):
    print(f"| {name} | {workers} | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each round")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print("| shape | workers | tasks/s with files / without, processor time | by the clock |\n|---|---|---|---|")
    for name, shape in SHAPES.items():
        for workers in (1, 16):
            show(name, workers, compare(one_round, shape, workers, options.seconds, options.rounds))
    for name, shape in COROUTINES.items():
        for limit in (1, 100):
            show(name, limit, compare(one_round_of_coroutines, shape, limit, options.seconds, options.rounds))
    print(f"\n{bytes_per_task():.0f} bytes for each task that has a line; {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
