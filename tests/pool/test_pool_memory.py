"""What a pool holds on to: nothing of a task that has ended, and nothing that grows."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import random
import threading
import tracemalloc
import weakref

import pytest

from threadsafe_timeout import CancelScope, CancelSource, DeadlineExceeded, ThreadPoolExecutor, move_on_after, sleep
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout.testing import widened_races

GRACE = 0.05
LONG = 120


class Big:
    """Something that one can see go."""

    def __call__(self, *arguments, **keywords):
        return Big()


def gone(references):
    return [reference() for reference in references] == [None] * len(references)


@pytest.fixture
def no_collector():
    """Without the garbage collector only what nobody holds is freed: a cycle of ours would stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_finished_task_is_freed_with_its_future_without_the_collector(no_collector):
    variable = contextvars.ContextVar("variable")
    with ThreadPoolExecutor(1, task_timeout=LONG) as pool:
        function, argument, keyword, value = Big(), Big(), Big(), Big()
        variable.set(value)
        future = pool.submit(function, argument, keyword=keyword)
        references = [weakref.ref(one) for one in (function, argument, keyword, value, future, future.result(120))]
        variable.set(None)
        del function, argument, keyword, value
        pool.submit(int).result(120)  # the worker has let go of the one before
        assert gone(references[:4]), "what was called is let go before the future"
        del future
        assert gone(references)


def test_so_is_one_that_failed(no_collector):
    def fail(argument):
        raise ValueError

    with ThreadPoolExecutor(1, task_timeout=LONG) as pool:
        argument = Big()
        future = pool.submit(fail, argument)
        assert isinstance(future.exception(120), ValueError)
        references = [weakref.ref(argument), weakref.ref(future)]
        pool.submit(int).result(120)
        del argument, future
        assert gone(references)


def test_so_is_one_that_timed_out(no_collector):
    with ThreadPoolExecutor(1, task_timeout=0.02, grace=LONG) as pool:
        argument = Big()
        future = pool.submit(lambda _: sleep(LONG), argument)
        assert isinstance(future.exception(120), DeadlineExceeded)
        references = [weakref.ref(argument), weakref.ref(future)]
        pool.with_options(timeout=LONG).submit(int).result(120)
        del argument, future
        assert _timer.settle(LONG), "the timer thread is done with it, too"
        gc.collect()  # the scope and its exception know one another, as with any scope
        assert gone(references)


def test_an_abandoned_task_is_freed_when_its_thread_returns(gate):
    def stuck(argument):
        gate.wait(LONG)

    with ThreadPoolExecutor(1, task_timeout=0.02, grace=GRACE) as pool:
        argument = Big()
        future = pool.submit(stuck, argument)
        assert isinstance(future.exception(120), DeadlineExceeded)
        references = [weakref.ref(argument), weakref.ref(future)]
        del argument, future
        threads = [worker.thread for worker in pool._crew.abandoned]
        gate.set()
        for thread in threads:
            thread.join(120)
        del threads
        pool.with_options(timeout=LONG).submit(int).result(120)  # its successor, which has settled it, has let go of it
        assert _timer.settle(LONG), "the timer thread is done with it, too"
        gc.collect()
        assert gone(references)
        assert not pool._crew.abandoned


def test_cancelled_and_expired_ones_are_freed_as_they_are_passed_over(gate):
    source = CancelSource()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait, LONG)
        futures = [pool.submit(Big()) for _ in range(3)]
        futures += [pool.with_options(token=source.token).submit(Big()) for _ in range(3)]
        references = [weakref.ref(future) for future in futures]
        for future in futures[:3]:
            future.cancel()
        source.cancel()
        assert all(future.cancelled() for future in futures)
        gate.set()
        pool.submit(int).result(120)
        del futures, future
        gc.collect()
        assert gone(references)


def test_what_outlives_a_task_and_inherited_its_scope_does_not_hold_it():
    kept = []

    def task(argument):
        kept.append(contextvars.copy_context())

    with ThreadPoolExecutor(1, task_timeout=LONG) as pool:
        argument = Big()
        future = pool.submit(task, argument)
        future.result(120)
        references = [weakref.ref(argument), weakref.ref(future)]
        pool.submit(int).result(120)
        del argument, future
        gc.collect()
        assert gone(references)


def test_an_idle_pool_that_nobody_knows_goes_home(no_collector):
    pool = ThreadPoolExecutor(4)
    concurrent.futures.wait([pool.submit(int) for _ in range(20)])
    threads = list(pool._threads)
    reference = weakref.ref(pool)
    del pool
    assert reference() is None
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


def test_pending_tasks_of_a_forgotten_pool_still_run():
    ran = []
    gate = threading.Event()
    pool = ThreadPoolExecutor(1)
    pool.submit(gate.wait, LONG)
    futures = [pool.submit(ran.append, number) for number in range(3)]
    del pool
    gc.collect()
    gate.set()
    assert not concurrent.futures.wait(futures, 120).not_done
    assert ran == [0, 1, 2]


@pytest.mark.stress
def test_a_hundred_thousand_tasks_leave_nothing(gate):
    def batch(pool, count):
        for _ in range(count // 1000):
            futures = [pool.submit(Big(), number) for number in range(1000)]
            for future in concurrent.futures.as_completed(futures):
                future.result()

    with ThreadPoolExecutor(8, task_timeout=LONG) as pool:
        batch(pool, 2000)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            batch(pool, 100_000)
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        threads = len(pool._threads)
    assert after - before < 64_000
    assert threads == 8


@pytest.mark.stress
def test_one_outcome_each_under_widened_races():
    """Cancels, tokens, deadlines, waits, submitters that give up, all at the same time."""
    chance = random.Random(4)
    settled: list[int] = []
    source = CancelSource()

    def task(number):
        sleep(number % 7 * 0.001)
        return number

    def settle_for(number):
        def settle(outcome):
            settled.append(number)
            return outcome.error or outcome.result

        return settle

    with widened_races(), ThreadPoolExecutor(6, grace=0.02, max_abandoned=10_000) as pool:
        futures = []
        for number in range(1500):
            options = pool.with_options(
                timeout=chance.choice([None, 0.002, 0.004, 1.0]), settle=settle_for(number),
                deadline=None if number % 5 else _soon(chance), token=source.token if number % 3 == 0 else None,
            )  # fmt: skip
            if number % 4 == 0:
                with move_on_after(0.01):  # before the task is submitted, if the machine is busy
                    futures.append(options.submit(task, number))
            elif number % 4 == 1:
                with CancelScope() as scope:
                    futures.append(options.submit(task, number))
                    scope.cancel()
            else:
                futures.append(options.submit(task, number))
            if futures and number % 11 == 0:
                futures[chance.randrange(len(futures))].cancel()
            if number == 1200:
                source.cancel()
        done, pending = concurrent.futures.wait(futures, 2 * LONG)
    assert not pending
    assert len(settled) == len(set(settled)), "settled once"
    assert len(settled) == sum(1 for future in done if not future.cancelled())
    assert pool.stats()["respawned"] == 0


def _soon(chance):
    return _clock.monotonic() + chance.random() * 0.2
