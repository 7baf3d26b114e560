"""A million tasks through one pool, every tenth stuck: one outcome each, and nothing that grows.

    python benchmarks/soak_pool.py --tasks 200000
    python benchmarks/soak_pool.py --tasks 1000000

The stuck ones are loops that can be interrupted, loops that swallow what they are sent, cooperative waits, and blocked
calls that nothing wakes: their threads are given up, and let go some time later. Exits with 1 if an outcome is missing
or comes twice, if the pool's counts do not add up, or if threads or memory grow from the second quarter to the last.
"""

import argparse
import collections
import gc
import itertools
import logging
import os
import queue
import random
import sys
import threading
import time
import tracemalloc

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor, sleep

DEADLINE, GRACE = 0.004, 0.002
BEHIND = 256  # tasks that are pending or running at any time
PATIENCE = 60.0


class Soak:
    def __init__(self, width, stuck, seed):
        self.chance = random.Random(seed)
        self.stuck = stuck
        self.outcomes = collections.Counter()
        self.twice = 0
        self.heard = bytearray()
        self.done = queue.SimpleQueue()
        self.over = False
        self.blocked = collections.deque()  # (when to let it go, its gate)
        self.pool = ThreadPoolExecutor(width, "soak", grace=GRACE, max_abandoned=10_000)
        self.sane = self.pool.submit
        self.limited = self.pool.with_options(timeout=DEADLINE).submit
        self.kinds = itertools.cycle([self.loop, self.swallow, *[self.wait, self.block] * 9])

    # The ways of being stuck

    def loop(self):
        while not self.over:
            sum(range(50))

    def swallow(self):
        while not self.over:
            try:
                sum(range(50))
            except:  # noqa: E722  # what it is about
                pass

    def wait(self):
        sleep(PATIENCE)

    def block(self):
        gate = threading.Lock()
        gate.acquire()
        self.blocked.append((time.monotonic() + 0.1, gate))
        gate.acquire(timeout=PATIENCE)

    # The tasks

    def submit(self, number):
        self.heard.append(0)
        stuck = self.chance.random() < self.stuck
        future = self.limited(next(self.kinds)) if stuck else self.sane(int, number)
        future.add_done_callback(lambda future, number=number: self.hear(number, future))

    def hear(self, number, future):
        self.heard[number] += 1
        error = future.exception(0)
        self.done.put("result" if error is None else type(error).__name__)

    def take(self):
        self.outcomes[self.done.get(timeout=PATIENCE)] += 1

    def let_go(self):
        """Whoever has been blocked for long enough may go on."""
        while self.blocked and self.blocked[0][0] < time.monotonic():
            self.blocked.popleft()[1].release()

    def problems(self, tasks):
        stats = self.pool.stats()
        counted = stats["completed"] + stats["failed"] + stats["cancelled"] + stats["abandoned"]
        found = []
        if self.heard != b"\1" * tasks:
            found.append(f"outcomes: {collections.Counter(self.heard)} instead of one each")
        if set(self.outcomes) - {"result", DeadlineExceeded.__name__}:
            found.append(f"errors: {dict(self.outcomes)}")
        if not counted == stats["submitted"] == tasks:
            found.append(f"the counts do not add up: {stats}")
        if stats["respawned"]:
            found.append(f"{stats['respawned']} workers died")
        return found


def resident_kib():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def measure(soak, traced):
    """Threads, but for those that this script blocks itself, and memory."""
    gc.collect()
    memory = tracemalloc.get_traced_memory()[0] // 1024 if traced else resident_kib()
    return threading.active_count() - len(soak.blocked), memory


def run(tasks, width=8, stuck=0.1, seed=0, traced=False):
    """What went wrong, and a line of figures."""
    soak = Soak(width, stuck, seed)
    samples = []
    switch = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # a loop has the interpreter to itself for so long, each time
    if traced:
        tracemalloc.start()
    began = time.monotonic()
    for number in range(tasks):
        soak.submit(number)
        if number >= BEHIND:
            soak.take()
        soak.let_go()
        if number % max(1, tasks // 20) == 0:
            samples.append(measure(soak, traced))
    for _ in range(min(BEHIND, tasks)):
        soak.take()
    soak.pool.shutdown()
    seconds = time.monotonic() - began
    if traced:
        tracemalloc.stop()
    sys.setswitchinterval(switch)
    soak.over = True
    for thread in threading.enumerate():
        while thread.name.startswith("soak") and thread.is_alive():
            soak.let_go()
            thread.join(DEADLINE)
    found = soak.problems(tasks)
    early, late = samples[5:10], samples[-5:]
    threads = [max(sample[0] for sample in part) for part in (early, late)]
    memory = [sum(sample[1] for sample in part) / len(part) for part in (early, late)]
    memory[1] -= tasks * 0.75 / 1024  # a byte for each task from the one part to the other is this script's own
    if threads[1] > 2 * threads[0] + 8:
        found.append(f"threads grew: {threads}")
    if memory[1] > 1.1 * memory[0] + (200 if traced else 3000):
        found.append(f"memory grew: {memory} KiB")
    figures = (
        f"{tasks} tasks in {seconds:.1f} s ({1e6 * seconds / tasks:.0f} µs each): {dict(soak.outcomes)}, threads at "
        f"most {threads[0]} then {threads[1]}, memory {memory[0]:.0f} then {memory[1]:.0f} KiB, {soak.pool.stats()}"
    )
    return found, figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--stuck", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("threadsafe_timeout").setLevel(logging.CRITICAL)
    found, figures = run(options.tasks, options.width, options.stuck, options.seed)
    print(figures)
    for problem in found:
        print(f"WRONG: {problem}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
