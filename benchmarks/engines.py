"""What the engines cost beside each other and beside bare Dask, in one run. Prints a Markdown table.

    pip install -e '.[bench]'
    python benchmarks/engines.py

- start: from making the pool to the first result, with the imports that it takes, in a fresh process
- per task: no-op tasks, four in flight; the difference of two runs, so without the start
- memory: of the program and all its processes (proportional set size), while that many tasks sleep, above what the pool
  takes with none
- a thread: of the program's own, by which it waits for a task

Bare Dask runs tasks in threads of its workers: none of them can be ended. Each figure is the median of the rounds; each
round starts each engine in a process of its own.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time

FLIGHT = 4


def noop():
    return None


def rest(seconds):
    time.sleep(seconds)


async def async_noop():
    return None


async def async_rest(seconds):
    await asyncio.sleep(seconds)


def threads(width):
    from threadsafe_timeout import ThreadPoolExecutor

    return ThreadPoolExecutor(width)


def process(width):
    from threadsafe_timeout import ThreadPoolExecutor

    return ThreadPoolExecutor(width, isolate="process")


def dask(width):
    from threadsafe_timeout.engines import DaskExecutor

    return DaskExecutor(max_workers=width)


class Bare:
    """Dask's own futures, on workers like those of `dask`."""

    def __init__(self, width):
        from distributed import Client, LocalCluster

        workers = min(os.cpu_count(), width)
        self.cluster = LocalCluster(
            n_workers=workers, threads_per_worker=-(-width // workers), host="127.0.0.1", memory_limit=0,
            dashboard_address=None, worker_dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        )  # fmt: skip
        self.client = Client(self.cluster)

    def submit(self, function, *args):
        return self.client.submit(function, *args, pure=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.cluster.close()


class Coroutines:
    """An `AsyncPool`, in a loop of another thread."""

    def __init__(self, width):
        from threadsafe_timeout import AsyncPool

        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.pool = self.call(self.make(AsyncPool, width))

    async def make(self, kind, width):
        return await kind(width).__aenter__()

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def _submit(self, function, args):
        return self.pool.submit({noop: async_noop, rest: async_rest}[function], *args)

    def submit(self, function, *args):
        return self.call(self._submit(function, args))

    async def _all(self, count):
        await self.pool.gather(*(self.pool.submit(async_noop) for _ in range(count)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call(self.pool.__aexit__(None, None, None))


ENGINES = {
    "threads": threads, "`AsyncPool`": Coroutines, '`isolate="process"`': process, "`DaskExecutor`": dask,
    "bare Dask": Bare,
}  # fmt: skip
KEPT = {"threads", "`AsyncPool`", "bare Dask"}  # they start nothing for a task


def run_all(pool, count):
    began = time.perf_counter()
    if isinstance(pool, Coroutines):
        pool.call(pool._all(count))
    else:
        for future in [pool.submit(noop) for _ in range(count)]:
            future.result()
    return time.perf_counter() - began


def family(pid):
    found = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
            for child in file.read().split():
                found += family(int(child))
    return found


def memory():
    """MB of this process and of all below it."""
    total = 0
    for pid in family(os.getpid()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024


def measure(name, tasks, sleepers):
    began = time.perf_counter()
    with ENGINES[name](FLIGHT) as pool:
        pool.submit(noop).result()
        start = time.perf_counter() - began
        count = 20 * tasks if name in KEPT else tasks
        per_task = 0 if not tasks else (run_all(pool, 2 * count) - run_all(pool, count)) / count
    with ENGINES[name](sleepers) as pool:
        pool.submit(noop).result()
        before, alone, threads_before = memory(), len(family(os.getpid())), threading.active_count()
        seconds = 5 + sleepers / 5
        futures = [pool.submit(rest, seconds) for _ in range(sleepers)]
        time.sleep(seconds * 0.8)
        assert not any(future.done() for future in futures)
        after = memory()
        found = {
            "start": start, "per_task": per_task, "memory": (after - before) / sleepers, "whole": after,
            "processes": len(family(os.getpid())) - alone,
            "threads": threading.active_count() - threads_before,
        }  # fmt: skip
        for future in futures:
            future.result()
    return found


def queued(count):
    """A pool that is as wide, on a cluster that runs four tasks at a time: the others wait in its scheduler."""
    from threadsafe_timeout.engines import DaskExecutor

    with DaskExecutor(max_workers=FLIGHT) as owner, DaskExecutor(owner._link.address, count) as pool:
        pool.submit(noop).result()
        before, began = memory(), time.perf_counter()
        gates = [pool.submit(rest, 0.05 * count) for _ in range(FLIGHT)]
        futures = [pool.submit(noop) for _ in range(count - FLIGHT)]
        submitted = time.perf_counter() - began
        while len(pool._link._attempts) < count and not gates[0].done():
            time.sleep(0.01)
        sent = time.perf_counter() - began
        waits = 1024 * (memory() - before) / count
        cancelled = time.perf_counter()
        for future in [*gates, *futures]:
            future.cancel()
        for future in [*gates, *futures]:
            future.exception()
        ended = time.perf_counter() - cancelled
    times = f"submitted in {submitted:.2f} s, sent in {sent:.2f} s, all ended in {ended:.2f} s"
    print(f"{count} in flight: {times}, {waits:.0f} KB for each")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=100, help="twenty times as many where no process is started")
    options.add_argument("--sleepers", type=int, default=100, help="tasks in flight for the memory")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    options.add_argument("--only", action="append", choices=ENGINES, help="this engine; may be given several times")
    options.add_argument("--queued", type=int, help="instead: so many tasks that wait in the queue of a cluster")
    chosen = options.parse_args()
    if chosen.queued:
        queued(chosen.queued)
        return
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen.tasks, chosen.sleepers)))
        return
    print(f"Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}, {chosen.rounds} rounds in turns\n")
    in_flight = f"MB per task of {chosen.sleepers} in flight"
    print(f"| | start, s | ms per no-op task | {in_flight} | MB in all | processes | threads here |")
    print("|---|---|---|---|---|---|---|")
    found = {name: [] for name in chosen.only or ENGINES}
    for _ in range(chosen.rounds):
        for name, rounds in found.items():
            command = [sys.executable, __file__, "--one", name]
            command += ["--tasks", str(chosen.tasks), "--sleepers", str(chosen.sleepers)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
    for name, rounds in found.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(
            f"| {name} | {middle['start']:.2f} | {1e3 * middle['per_task']:.2f} | {middle['memory']:.2f} "
            f"| {middle['whole']:.0f} | {middle['processes']:.0f} | {middle['threads']:.0f} |", flush=True
        )  # fmt: skip


if __name__ == "__main__":
    main()
