"""Stress the interrupt: random deadlines against bodies of every shape, with the race windows widened.

    python benchmarks/stress_interrupt.py --expiries 1000000

Counts what must never happen: an exception seen outside its scope, another scope's exception, a deadline that did not
end its body, a clean-up not run exactly once, a lock left held. Exits with 1 if anything was counted.
"""

import argparse
import collections
import logging
import random
import sys
import threading
import time

import stress_interrupt_shapes as shapes

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, move_on_after
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout.testing.race import widened_races

FOREVER = 1 << 60
# A body that is still running so much later counts as lost. In seconds that the process computed: on a busy machine 16
# threads get a fraction of the time that passes.
PATIENCE = 60.0


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.expired = self.ended = 0
        self.wrong = collections.Counter()
        self.examples = []
        self.latencies = []

    def add(self, shape, late, problems):
        with self.lock:
            self.expired += 1
            if len(self.latencies) < 200_000:
                self.latencies.append(late)
            for problem in problems:
                self.wrong[problem.split(":")[0]] += 1
                if len(self.examples) < 20:
                    self.examples.append(f"{shape}: {problem}")


def one(shape, chance):
    """One expiry. Returns (seconds late, problems)."""
    body, record = shapes.BODIES[shape], shapes.Record()
    budget = chance.random() * 0.001
    kind = chance.choice(("plain", "plain", "fail", "inner first", "outer first"))
    if kind == "outer first" and shape in shapes.IN_COROUTINES:
        kind = "plain"  # the outer scope is not a coroutine's: its interrupt passes through none
    problems = []
    began = time.perf_counter()
    try:
        if kind == "plain":
            scope = move_on_after(budget)
            body(record, scope, FOREVER)
            caught = scope.cancelled_caught
        elif kind == "fail":
            scope = deadline(budget)
            caught = False
            try:
                body(record, scope, FOREVER)
            except DeadlineExceeded:
                caught = True
        elif kind == "inner first":
            with CancelScope() as outer:
                scope = move_on_after(budget)
                body(record, scope, FOREVER)
            caught = scope.cancelled_caught
            if outer.cancelled_caught or outer.cancel_called:
                problems.append("wrong scope: the outer one was cancelled")
        else:
            scope = CancelScope()
            with move_on_after(budget) as outer:
                body(record, scope, FOREVER)
                problems.append("outside: went on inside the cancelled outer scope")
            caught = outer.cancelled_caught
            if scope.cancelled_caught:
                problems.append("wrong scope: the inner one caught it")
        if not caught:
            problems.append("lost: the body ended without its deadline")
    except BaseException as exc:
        problems.append(f"outside: {exc!r}")
    late = time.perf_counter() - began - budget
    # Another step or two outside every scope, for what might still be in flight.
    try:
        for _ in range(3):
            time.sleep(0)
    except BaseException as exc:
        problems.append(f"outside: {exc!r} after the scope")
    return late, problems + [f"left undone: {problem}" for problem in shapes.violations(record)]


def work(tally, names, seed, target, beats):
    chance = random.Random(seed)
    me = threading.get_ident()
    while tally.expired < target:
        shape = chance.choice(names)
        beats[me] = time.process_time(), shape
        tally.add(shape, *one(shape, chance))
    beats.pop(me, None)


def watch(tally, threads, beats, progress):
    """Wait for the threads; a body that runs on long after its deadline is a lost one."""
    said = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.5)
        for thread in threads:
            thread.join(0.01)
        now, computed = time.monotonic(), time.process_time()
        for began, shape in list(beats.values()):
            if computed - began > PATIENCE:
                tally.wrong["lost"] += 1
                tally.examples.append(f"{shape}: still running after {PATIENCE:g} s of computing")
                return False
        if progress and now - said > progress:
            said = now
            print(f"{tally.expired} expiries, wrong: {dict(tally.wrong)}", flush=True)
    return True


def run(expiries, threads, seed, names=None, progress=0.0):
    """Run until `expiries` deadlines have expired; returns the tally."""
    tally, beats = Tally(), {}
    names = sorted(names or shapes.BODIES)
    sys.unraisablehook = lambda info: tally.wrong.update(["unraisable"]) or tally.examples.append(repr(info))
    _pursuit.configure(grace=0.005)
    try:
        with widened_races(seed=seed):
            crew = [
                threading.Thread(target=work, args=(tally, names, seed * 1000 + n, expiries, beats), daemon=True)
                for n in range(threads)
            ]
            for thread in crew:
                thread.start()
            watch(tally, crew, beats, progress)
    finally:
        _pursuit.configure(grace=None)
        sys.unraisablehook = sys.__unraisablehook__
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expiries", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=0, help="0: rounds of 1, 2, 4, 8 and 16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shapes", nargs="*", choices=sorted(shapes.BODIES))
    parser.add_argument("--progress", type=float, default=30.0, help="seconds between progress lines")
    options = parser.parse_args()
    logging.getLogger("threadsafe_timeout").setLevel(logging.CRITICAL)
    rounds = [options.threads] if options.threads else [1, 2, 4, 8, 16]
    wrong, total, began, latencies = collections.Counter(), 0, time.monotonic(), []
    for seed, threads in enumerate(rounds, options.seed):
        tally = run(-(-options.expiries // len(rounds)), threads, seed, options.shapes, options.progress)
        total += tally.expired
        wrong += tally.wrong
        late = sorted(tally.latencies)
        half, most = late[len(late) // 2] * 1e3, late[len(late) * 99 // 100] * 1e3
        latencies.append(f"{threads} threads: p50 {half:.1f} ms, p99 {most:.1f} ms")
        print(f"{threads} threads: {tally.expired} expiries, wrong: {dict(tally.wrong)}", flush=True)
        print(*tally.examples, sep="\n")
        if "lost" in tally.wrong:
            break
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {version}, {_pursuit.support().mechanism}: {total} expiries in {time.monotonic() - began:.0f} s, "
          f"{sum(wrong.values())} wrong {dict(wrong)}; late by " + "; ".join(latencies))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
