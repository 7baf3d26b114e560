"""Exactly one outcome, whatever happens at the same moment: the end, `cancel()`, the deadline, abandonment, `shutdown`,
the pool's disappearance. What must not happen is counted: an outcome twice, a callback twice or never, a future that
stays pending.
"""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections import Counter
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from typing import Any

import pytest
from conditions import join_listed

from threadsafe_timeout import DeadlineExceeded, Outcome, ThreadPoolExecutor, sleep
from threadsafe_timeout.testing import widened_races

BOUND = 120.0  # seconds that anything here may take on a busy machine
WIDTH, TASKS = 8, 40
MOMENT, GRACE = 0.01, 0.002  # seconds until everything happens at once; between the rungs


class Round:
    """One pool, some tasks, and one moment at which everything happens to them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.gate = threading.Event()  # never set before the end: a wait for it ends by its timeout
        self.lock = threading.Lock()
        # All guarded by lock:
        self.called: Counter[Future[Any]] = Counter()
        self.settled: Counter[int] = Counter()
        self.begun: set[int] = set()
        self.futures: list[Future[Any]] = []
        self.again: list[Future[Any]] = []
        self.pool: ThreadPoolExecutor | None = ThreadPoolExecutor(WIDTH, "racing", grace=GRACE, max_abandoned=10_000)
        self.stats = self.pool._crew.stats  # which does not keep the pool alive

    def run(self) -> None:
        for number in range(TASKS):
            self._submit(number)
        actions = [partial(self._cancel, n) for n in range(2)]
        actions += [self.chance.choice([self._shut_down, self._drop, lambda: None])]
        meet = threading.Barrier(len(actions))
        threads = [threading.Thread(target=self._at_the_moment, args=(meet, action)) for action in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        self._check()

    def _submit(self, number: int) -> None:
        assert self.pool is not None
        kind = self.chance.choice(["ends", "times out", "is given up", "is cancelled", "resubmits"])
        timeout = {"times out": MOMENT, "is given up": max(0.0, MOMENT - 2 * GRACE)}.get(kind)
        settle = partial(self._settle, number) if self.chance.random() < 0.5 else None
        options = self.pool.with_options(timeout=timeout, settle=settle)
        future = options.submit(self._task, number, kind)
        self.futures.append(future)
        future.add_done_callback(self._called)
        if kind == "resubmits":
            future.add_done_callback(self._resubmit)

    def _task(self, number: int, kind: str) -> int:
        with self.lock:
            self.begun.add(number)
        if kind in ("times out", "is cancelled"):
            sleep(BOUND)
        self.gate.wait(MOMENT)
        return number

    def _settle(self, number: int, outcome: Outcome) -> Any:
        with self.lock:
            self.settled[number] += 1
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def _called(self, future: Future[Any]) -> None:
        assert future.done()
        with self.lock:
            self.called[future] += 1

    def _resubmit(self, _: Future[Any]) -> None:
        pool = self.pool
        if pool is not None:
            try:
                future = pool.submit(int)
            except RuntimeError:  # shut down in the meantime
                return
            with self.lock:
                self.again.append(future)

    def _at_the_moment(self, meet: threading.Barrier, action: Any) -> None:
        meet.wait(BOUND)
        self.gate.wait(MOMENT * self.chance.uniform(0.5, 1.2))
        action()

    def _cancel(self, which: int) -> None:
        for future in self.futures[which::2]:
            future.cancel()

    def _shut_down(self) -> None:
        pool = self.pool
        assert pool is not None
        pool.shutdown(wait=False, cancel_futures=True)

    def _drop(self) -> None:
        self.pool = None
        gc.collect()

    def _check(self) -> None:
        # Who still sleeps after a dropped or an untouched pool is cancelled by now: every task was.
        _, pending = wait(self.futures, BOUND)
        assert not pending, pending
        for number, future in enumerate(self.futures):
            if future.cancelled():
                with pytest.raises(CancelledError):
                    future.result(0)
            else:
                assert isinstance(future.exception(0), DeadlineExceeded | None)
                if future.exception(0) is None:
                    assert future.result(0) == number
            assert self.settled[number] <= 1
        _, pending = wait(self.again, BOUND)
        assert not pending
        self.gate.set()
        if self.pool is not None:
            self.pool.shutdown()
        for thread in threading.enumerate():
            if thread.name.startswith("racing"):
                join_listed(thread, BOUND)
        assert Counter(self.called.values()) == {1: TASKS}, "a callback ran twice, or never"
        stats = self.stats()
        assert stats["workers"] == stats["pending"] == stats["idle"] == 0
        assert stats["submitted"] == TASKS + len(self.again)
        assert sum(stats[how] for how in ("completed", "failed", "cancelled", "abandoned")) == stats["submitted"]
        assert stats["running"] == 0
        assert stats["late"] == stats["abandoned"]


@pytest.mark.parametrize("seed", range(10))
def test_everything_at_once(seed):
    Round(random.Random(seed)).run()


@pytest.mark.stress
def test_everything_at_once_with_wide_races():
    chance = random.Random(4)
    with widened_races(seed=4):
        for _ in range(60):
            Round(random.Random(chance.random())).run()


def test_a_callback_that_submits_again_and_again():
    """Each task is submitted by the callback of the one before it, in the worker that has just run that one."""
    links, done = 500, threading.Event()
    numbers: list[int] = []
    with ThreadPoolExecutor(2) as pool:

        def link(future: Future[int]) -> None:
            numbers.append(future.result(0))
            if len(numbers) < links:
                pool.submit(int, len(numbers)).add_done_callback(link)
            else:
                done.set()

        pool.submit(int, 0).add_done_callback(link)
        assert done.wait(BOUND)
    assert numbers == list(range(links))


def test_a_finaliser_that_submits():
    """It runs in whatever thread drops the last reference, or collects the cycle: while the pool's lock is held, too."""

    class Resubmits:
        def __init__(self, pool: ThreadPoolExecutor) -> None:
            self.cycle = self
            weakref.finalize(self, lambda: futures.append(pool.submit(int))).atexit = False

    futures: list[Future[int]] = []
    threshold = gc.get_threshold()
    gc.set_threshold(20, 2, 2)  # often, so in the middle of everything
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(300):
                futures.append(pool.submit(Resubmits, pool))
            assert not wait(list(futures), BOUND).not_done
            for future in list(futures):
                future.__dict__.pop("_result", None)
            gc.collect()
    finally:
        gc.set_threshold(*threshold)
    assert len(futures) > 300
    assert not wait(futures, BOUND).not_done


def test_cancel_from_many_threads_has_one_winner():
    """A pending future is cancelled once, or runs; a callback hears of either, once."""

    def cancel_when_all_are_there(meet, future):
        meet.wait(BOUND)
        future.cancel()

    with ThreadPoolExecutor(1) as pool:
        for _ in range(100):
            ran, heard = [], []
            future = pool.submit(ran.append, 1)
            future.add_done_callback(heard.append)
            meet = threading.Barrier(3)
            threads = [threading.Thread(target=cancel_when_all_are_there, args=(meet, future)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(BOUND)
            assert not wait([future], BOUND).not_done
            pool.submit(int).result(BOUND)  # what was there before it has been seen to
            assert len(ran) == (0 if future.cancelled() else 1)
            assert heard == [future]
