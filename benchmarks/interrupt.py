"""How soon a Python loop is interrupted, and what it costs the other threads that run the same code meanwhile.

    python benchmarks/interrupt.py
"""

import argparse
import sys
import threading
import time

from threadsafe_timeout import move_on_after
from threadsafe_timeout._interruption import pursuit as _pursuit


def spin(rounds):
    counted = 0
    for _ in range(rounds):
        counted += 1
    return counted


def forever():
    while True:
        spin(1000)


def swallowing():
    while True:
        try:
            spin(1000)
        except:  # noqa: E722  # what legacy code does
            pass


def latencies(body, count, budget=0.01, beyond=0.0):
    late = []
    for _ in range(count):
        began = time.perf_counter()
        with move_on_after(budget):
            body()
        late.append((time.perf_counter() - began - budget - beyond) * 1e3)
    late.sort()
    return f"p50 {late[len(late) // 2]:.1f} ms, p99 {late[len(late) * 99 // 100]:.1f} ms, worst {late[-1]:.1f} ms"


def others(seconds):
    """Rounds per second of another thread in the same function: alone with a spinning thread, then while that one is
    interrupted again and again."""
    stop, done = threading.Event(), [0]

    def count():
        while not stop.is_set():
            spin(1000)
            done[0] += 1

    def measure(victim):
        stop.clear()
        done[0] = 0
        thread = threading.Thread(target=count)
        thread.start()
        until = time.perf_counter() + seconds
        times = 0
        while time.perf_counter() < until:
            times += victim(until)
        stop.set()
        thread.join()
        return done[0] / seconds, times

    def undisturbed(until):
        while time.perf_counter() < until:
            spin(1000)
        return 0

    def interrupted(until):
        with move_on_after(0.02):
            forever()
        return 1

    base, _ = measure(undisturbed)
    disturbed, times = measure(interrupted)
    speed = f"{disturbed / base:.2f} × its speed next to a thread that merely computes"
    return f"{speed} ({times / seconds:.0f} interrupts/s)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {_pursuit.support()}")
    latencies(forever, 5)
    print("a Python loop, after its deadline:", latencies(forever, options.count))
    _pursuit.configure(grace=0.1)
    print("a loop with a bare except, after deadline + grace:", latencies(swallowing, options.count // 10, beyond=0.1))
    _pursuit.configure(grace=None)
    print("another thread in the same function runs at", others(options.seconds))


if __name__ == "__main__":
    main()
