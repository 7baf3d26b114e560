"""Alarms at random moments in bodies of every shape: nothing skipped, nothing raised outside, nothing lost."""

import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from threadsafe_timeout import patched
from threadsafe_timeout._interruption import alarm as _alarm
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout.testing.race import widened_races

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import stress_interrupt_shapes as shapes

pytestmark = [
    pytest.mark.skipif(_pursuit.support().mechanism is None, reason=_pursuit.support().detail),
    pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here"),
]
FOREVER = 1 << 60
# Those that swallow everything lose the exception of a signal; that is what signals do.
# And an alarm's exception, as an interrupt, passes through no coroutine.
SHAPES = sorted(name for name in shapes.BODIES.keys() - shapes.IN_COROUTINES if "bare" not in name)


class Expired(BaseException):
    pass


class TimeLimit:
    """Hand-written, in a form that the bodies can use as their `with`."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.raised, self.caught, self.over = [], None, False

    def handler(self, signum, frame):
        self.raised.append(Expired(self))
        raise self.raised[-1]

    def __enter__(self):
        self.old = signal.signal(signal.SIGALRM, self.handler)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, kind, exc, traceback):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.old)
        self.over = True
        self.caught = exc
        return isinstance(exc, Expired) and exc.args[0] is self


def one(shape, seconds):
    """One alarm; what is wrong with how it went."""
    record, limit, problems = shapes.Record(), TimeLimit(seconds), []
    try:
        shapes.BODIES[shape](record, limit, FOREVER)
        for _ in range(3):
            time.sleep(0)
    except BaseException as exc:
        problems.append(f"escaped: {exc!r}")
    if len(limit.raised) != 1 or limit.caught is not limit.raised[0]:
        problems.append(f"raised {limit.raised}, caught {limit.caught!r}")
    return [f"{shape}: {problem}" for problem in problems + shapes.violations(record)]


def run(seconds, threads, names=SHAPES):
    """Alarms for a while; how many, and what went wrong."""
    problems, counts = [], []

    def work(seed):
        chance, count = random.Random(seed), 0
        until = time.monotonic() + seconds
        while time.monotonic() < until and not problems:
            problems.extend(one(chance.choice(names), chance.random() * 0.002 + 1e-6))
            count += 1
        counts.append(count)

    workers = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds + 240)
    assert not any(worker.is_alive() for worker in workers), "an alarm was lost"
    return sum(counts), problems


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_left_by_an_alarm(shape):
    with patched(checkpoint=None):
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(one(shape, 0.002)), daemon=True)
        thread.start()
        thread.join(120)
        assert outcome == [[]]
    assert not _alarm._set


@pytest.mark.stress
def test_alarms_at_random_moments():
    with patched(checkpoint=None), widened_races():
        count, problems = run(8, 4)
    assert not problems
    assert count > 10
    assert not _alarm._set
