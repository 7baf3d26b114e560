"""Widen race windows on purpose: for stress tests of code that is cancelled from other threads."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

__all__ = ["widened_races"]


@contextmanager
def widened_races(
    *, seed: int = 0, switch_interval: float = 1e-6, pause: float = 0.0002, noise_threads: int = 1
) -> Iterator[None]:
    """Make rare interleavings of threads frequent while the block runs.

    - Threads switch every `switch_interval` seconds.
    - `noise_threads` threads wake at random moments and take the interpreter for an instant.
    - Between the steps of a cancellation (a deadline is noted, found due, its scope cancelled, its thread looked at,
      the interrupt set) this library pauses at random for up to `pause` seconds.

    It affects the whole process. Only one test at a time may use it.
    """
    chance = random.Random(seed)
    before = sys.getswitchinterval()
    stop = threading.Event()
    noise = [threading.Thread(target=_disturb, args=(stop, chance, pause)) for _ in range(noise_threads)]
    restore = [
        _slow_down(_pursuit, "pursue", chance, pause),
        _slow_down(_pursuit, "_look", chance, pause),
        _slow_down(_timer, "_take_due", chance, pause),
        _slow_down(_scope.CancelScope, "_expire", chance, pause),
        _slow_down(_scope.CancelScope, "_arm", chance, pause),
    ]
    sys.setswitchinterval(switch_interval)
    for thread in noise:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in noise:
            thread.join()
        sys.setswitchinterval(before)
        for undo in restore:
            undo()


def _disturb(stop: threading.Event, chance: random.Random, pause: float) -> None:
    while not stop.wait(chance.random() * pause):
        pass


def _slow_down(owner: Any, name: str, chance: random.Random, pause: float) -> Callable[[], None]:
    """Put a random pause before and after `owner.name`; returns what takes it away again."""
    function = getattr(owner, name)

    def slow(*args: Any, **kwargs: Any) -> Any:
        _pause(chance, pause)
        try:
            return function(*args, **kwargs)
        finally:
            _pause(chance, pause)

    setattr(owner, name, slow)
    return lambda: setattr(owner, name, function)


def _pause(chance: random.Random, pause: float) -> None:
    if chance.random() < 0.5:
        lock = threading.Lock()
        lock.acquire()
        _clock.SystemClock().wait(lock, chance.random() * pause)
