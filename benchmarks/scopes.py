"""What scopes cost, next to their peers, in one run. Prints Markdown tables; peers not installed are left out.

    pip install -e '.[bench]'
    python benchmarks/scopes.py
"""

import argparse
import asyncio
import contextlib
import gc
import importlib
import statistics
import sys
import threading
import time
import tracemalloc
import types

from threadsafe_timeout import deadline, move_on_after, sleep
from threadsafe_timeout._timing import timer as _timer


def per_call(function, calls):
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) / calls * 1e6


def scope():
    with deadline(60.0):
        pass


@deadline(60.0)
def decorated():
    pass


def stdlib_timer():
    timer = threading.Timer(60, print)
    timer.start()
    timer.cancel()
    timer.join()


def peers():
    """name -> (a function that times n calls, in microseconds each; how many calls)."""
    found = {
        "`with deadline(60)`": (lambda n: per_call(scope, n), 4000),
        "`@deadline(60)` on a function": (lambda n: per_call(decorated, n), 4000),
        "asyncio.timeout": (lambda n: asyncio.run(_asyncio(n)), 4000),
        "threading.Timer start + cancel": (lambda n: per_call(stdlib_timer, n), 100),
    }
    sys.modules.setdefault("pkg_resources", types.ModuleType("pkg_resources"))  # stopit asks it for its version
    for name, make in (
        ("trio.fail_after", lambda: _structured("trio")), ("anyio.fail_after", lambda: _structured("anyio")),
        ("stopit.ThreadingTimeout", _stopit), ("func_timeout", _func_timeout),
        ("wrapt_timeout_decorator (signals)", _wrapt),
    ):  # fmt: skip
        with contextlib.suppress(ImportError):
            found[name] = make()
    return found


async def _asyncio(n):
    began = time.perf_counter()
    for _ in range(n):
        async with asyncio.timeout(60):
            pass
    return (time.perf_counter() - began) / n * 1e6


def _structured(name):
    """trio and anyio: one API."""
    module = importlib.import_module(name)

    async def run(n):
        began = time.perf_counter()
        for _ in range(n):
            with module.fail_after(60):
                pass
        return (time.perf_counter() - began) / n * 1e6

    return (lambda n: module.run(run, n)), 2000


def _stopit():
    stopit = importlib.import_module("stopit")

    def call():
        with stopit.ThreadingTimeout(60):
            pass

    return (lambda n: per_call(call, n)), 100


def _func_timeout():
    module = importlib.import_module("func_timeout")
    return (lambda n: per_call(lambda: module.func_timeout(60, int), n)), 100


def _wrapt():
    timeout = importlib.import_module("wrapt_timeout_decorator").timeout
    limited = timeout(60)(lambda: None)
    return (lambda n: per_call(limited, n)), 100


def enter_and_exit(rounds):
    found = peers()
    times = {name: [] for name in found}
    for _ in range(rounds):  # in turns, so that a busy moment hits all alike
        for name, (measure, calls) in found.items():
            times[name].append(measure(calls))
    best = {name: min(values) for name, values in times.items()}
    reference = best["asyncio.timeout"]
    print("| enter + exit | µs (best) | µs (median) | × asyncio.timeout |\n|---|---|---|---|")
    for name, value in sorted(best.items(), key=lambda item: item[1]):
        print(f"| {name} | {value:.2f} | {statistics.median(times[name]):.2f} | {value / reference:.2f} |")
    above = best["`@deadline(60)` on a function"] - best["`with deadline(60)`"]
    print(f"\nThe decorator costs {above:+.2f} µs more than the block.")


def many_at_once():
    print("\n| deadlines armed at once | arm, µs each | disarm, µs each | bytes each | threads |")
    print("|---|---|---|---|---|")
    for count in (1_000, 10_000, 100_000):
        _timer.call_later(3600, print)
        gc.collect()
        gc.disable()
        scopes = [move_on_after(3600.0) for _ in range(count)]
        before = threading.active_count()
        tracemalloc.start()
        for one in scopes:
            one.__enter__()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for one in reversed(scopes):
            one.__exit__(None, None, None)
        scopes = [move_on_after(3600.0) for _ in range(count)]
        began = time.perf_counter()
        for one in scopes:
            one.__enter__()
        armed = time.perf_counter()
        threads = threading.active_count() - before
        for one in reversed(scopes):
            one.__exit__(None, None, None)
        gc.enable()
        print(f"| {count} | {(armed - began) / count * 1e6:.2f} | {(time.perf_counter() - armed) / count * 1e6:.2f} "
              f"| {size / count:.0f} | {threads} more |")


def overshoot(deadlines=1000, threads=100):
    """Deadlines expiring within one second in blocked threads: how late does each thread go on?"""
    late, lock = [], threading.Lock()

    def work(first):
        for n in range(deadlines // threads):
            budget = 0.05 + (first + n * threads) / deadlines * 0.095
            began = time.perf_counter()
            with move_on_after(budget):
                sleep(10)
            over = time.perf_counter() - began - budget
            with lock:
                late.append(over * 1e3)

    crew = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    late.sort()
    print(f"\nOvershoot of {len(late)} deadlines in {threads} blocked threads: p50 {late[len(late) // 2]:.2f} ms, "
          f"p99 {late[len(late) * 99 // 100]:.2f} ms, worst {late[-1]:.2f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}\n")
    enter_and_exit(options.rounds)
    many_at_once()
    overshoot()


if __name__ == "__main__":
    main()
