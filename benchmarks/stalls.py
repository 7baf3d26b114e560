"""What the watch over an interpreter that stands still costs: processor time of a no-op task with and without it, turn
and turn about in one run, and of each second in which 100 workers wait.

    python benchmarks/stalls.py
"""

import statistics
import threading
import time

import threadsafe_timeout


def noop(number):
    pass


def per_task(after, tasks):
    """Microseconds of the process."""
    with (
        threadsafe_timeout.patched(stall_after=after, checkpoint=None, summary="off"),
        threadsafe_timeout.ThreadPoolExecutor(8, task_timeout=60) as pool,
    ):
        pool.submit(noop, 0).result()
        began = time.process_time()
        for future in [pool.submit(noop, number) for number in range(tasks)]:
            future.result()
        return (time.process_time() - began) / tasks * 1e6


def waiting(after, workers, seconds):
    """Milliseconds of the process each second, while all workers wait."""
    gate = threading.Event()
    with (
        threadsafe_timeout.patched(stall_after=after, checkpoint=None, summary="off"),
        threadsafe_timeout.ThreadPoolExecutor(workers, task_timeout=600) as pool,
    ):
        for _ in range(workers):
            pool.submit(gate.wait)
        time.sleep(2)  # until it has loaded what it needs
        began = time.process_time()
        time.sleep(seconds)
        used = time.process_time() - began
        gate.set()
    return used / seconds * 1e3


if __name__ == "__main__":
    took = {None: [], 30: []}
    for number in range(9):
        for after in (None, 30) if number % 2 else (30, None):
            took[after].append(per_task(after, 6000))
    print("| stall_after | µs a task | ms a second, 100 workers waiting |\n|---|---|---|")
    for after, found in took.items():
        print(f"| {after or 'off'} | {statistics.median(found):.2f} | {waiting(after, 100, 8):.2f} |")
