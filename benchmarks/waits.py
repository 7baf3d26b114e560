"""What the patched waits cost outside scopes and in one, and how soon a cancellation ends them.

    python benchmarks/waits.py [--rounds 15] [--cancellations 300]

Outside scopes: the same code with the patches out and in, turn and turn about; the best round of each, and their ratio.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import queue
import select
import socket
import statistics
import subprocess
import threading
import time
import timeit
from collections.abc import Callable

from threadsafe_timeout import CancelScope, install, move_on_after, uninstall

NAMES = "time,threading,queue,selectors,subprocess,multiprocessing,asyncio,signal_alarm,+locks"


def ping_pong(count: int) -> Callable[[], float]:
    """Seconds per hand-over from one thread to another and back, through two queues."""

    def run() -> float:
        there, back = queue.Queue(), queue.Queue()

        def answer() -> None:
            while (item := there.get()) is not None:
                back.put(item)

        thread = threading.Thread(target=answer)
        thread.start()
        start = time.perf_counter()
        for number in range(count):
            there.put(number)
            back.get()
        seconds = (time.perf_counter() - start) / count
        there.put(None)
        thread.join()
        return seconds

    return run


def repeated(statement: str, count: int, setup: str = "pass") -> Callable[[], float]:
    """Seconds per run of a statement. It is compiled anew each time, so that it finds what is installed."""
    prelude = "import time, threading, queue, select, signal, subprocess, concurrent.futures\n" + setup
    # As the code of a program: what the standard library makes is never a stand-in.
    return lambda: timeit.Timer(statement, prelude, globals={"__name__": "__main__"}).timeit(count) / count


CASES: dict[str, Callable[[], float]] = {
    "time.sleep(0)": repeated("time.sleep(0)", 300),
    "Event.set, wait, clear": repeated("e.set(); e.wait(); e.clear()", 20_000, "e = threading.Event()"),
    "Event.wait(0), not set": repeated("e.wait(0)", 20_000, "e = threading.Event()"),
    "Queue.put, get": repeated("q.put(1); q.get()", 20_000, "q = queue.Queue()"),
    "Queue, there and back between threads": ping_pong(1_000),
    "SimpleQueue.put, get": repeated("q.put(1); q.get()", 50_000, "q = queue.SimpleQueue()"),
    "Semaphore.acquire, release": repeated("s.acquire(); s.release()", 20_000, "s = threading.Semaphore()"),
    "Future.result, done": repeated("f.result()", 20_000, "f = concurrent.futures.Future(); f.set_result(1)"),
    "Thread.start, join": repeated("t = threading.Thread(target=int); t.start(); t.join()", 200),
    "select.select, ready": repeated(
        "select.select([], [s], [], 1)", 5_000, "import socket; s, other = socket.socketpair()"
    ),
    "signal.alarm(60), alarm(0), main thread": repeated("signal.alarm(60); signal.alarm(0)", 5_000),
    "subprocess.call": repeated("subprocess.call(['true'])", 10),
    "with Lock() (opt-in)": repeated("with lock: pass", 50_000, "lock = threading.Lock()"),
    "with RLock() (opt-in)": repeated("with lock: pass", 50_000, "lock = threading.RLock()"),
}


def compare(rounds: int) -> None:
    print(f"{'':40} {'plain µs':>10} {'patched':>10} {'ratio':>7} {'in a scope':>11}")
    for name, case in CASES.items():
        best = {"plain": 1e9, "patched": 1e9, "scope": 1e9}
        for _ in range(rounds):
            best["plain"] = min(best["plain"], case())
            install(patches=NAMES, checkpoint="off")
            best["patched"] = min(best["patched"], case())
            with move_on_after(3600):
                best["scope"] = min(best["scope"], case())
            uninstall()
        plain, patched, scope = (best[kind] * 1e6 for kind in ("plain", "patched", "scope"))
        print(f"{name:40} {plain:10.3f} {patched:10.3f} {patched / plain:7.3f} {scope:11.3f}")


def alarms() -> None:
    """The idiom of SIGALRM's users, next to a scope: in another thread nothing is there to compare it with."""
    idiom = repeated("signal.signal(signal.SIGALRM, h); signal.alarm(60); signal.alarm(0)", 5_000, "h = lambda *_: 0")
    block = repeated("with move_on_after(60): pass", 5_000, "from threadsafe_timeout import move_on_after")
    install(patches=NAMES, checkpoint="off")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        alarm, scope = (
            pool.submit(lambda case=case: min(case() for _ in range(20)) * 1e6).result() for case in (idiom, block)
        )
    uninstall()
    print(f"\nsignal(), alarm(60), alarm(0) in a pool's thread: {alarm:.2f} µs; a scope there: {scope:.2f} µs")


def _select() -> None:
    left, right = socket.socketpair()
    with left, right:
        select.select([left], [], [])


BLOCKED: dict[str, tuple[Callable[[], object], float]] = {
    "time.sleep": (lambda: time.sleep(60), 1.0),
    "queue.Queue.get": (lambda: queue.Queue().get(), 1.0),
    "Event.wait": (lambda: threading.Event().wait(), 1.0),
    "Future.result": (lambda: concurrent.futures.Future().result(), 1.0),
    "select.select": (_select, 1.0),
    "subprocess.run": (lambda: subprocess.run(["sleep", "60"], check=False), 0.2),
}


def cancel_to_return(call: Callable[[], object], count: int) -> list[float]:
    """Milliseconds from `cancel()` in this thread to the return of the block in another."""
    found = []
    for _ in range(count):
        scope, left = CancelScope(), []

        def run(scope: CancelScope = scope, left: list[float] = left) -> None:
            with scope:
                call()
            left.append(time.perf_counter())

        thread = threading.Thread(target=run)
        thread.start()
        while not scope._callbacks:
            time.sleep(0)
        time.sleep(0.002)
        start = time.perf_counter()
        scope.cancel()
        thread.join()
        found.append((left[0] - start) * 1e3)
    return found


def latencies(count: int) -> None:
    print(f"\n{'cancel to return, ms':40} {'p50':>10} {'p99':>10} {'max':>10}")
    install(patches=NAMES, checkpoint="off")
    for name, (call, share) in BLOCKED.items():
        found = sorted(cancel_to_return(call, int(count * share)))
        p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
        print(f"{name:40} {statistics.median(found):10.3f} {p99:10.3f} {found[-1]:10.3f}")
    uninstall()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cancellations", type=int, default=300)
    arguments = parser.parse_args()
    compare(arguments.rounds)
    alarms()
    latencies(arguments.cancellations)
