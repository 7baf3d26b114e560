"""A pool that is left after a wait for its tasks has expired, where that was a time limit: the tasks are cancelled.

Each shape below is a function that makes a pool, waits with a timeout that expires, and leaves the pool.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import threading

import pytest
from left import DEFAULT, SOON, note

import threadsafe_timeout
from threadsafe_timeout import ThreadPoolExecutor

LIMITS = []


def is_a_limit(shape):
    LIMITS.append(shape)
    return shape


@is_a_limit
def returned_in_the_handler(task):
    with task.pool() as pool:
        future = pool.submit(task)
        try:
            return future.result(timeout=SOON)
        except TimeoutError:
            return DEFAULT


@is_a_limit
def without_a_variable(task):
    with task.pool() as pool:
        try:
            return pool.submit(task).result(timeout=SOON)
        except concurrent.futures.TimeoutError:
            return DEFAULT


@is_a_limit
def a_pool_for_each_item_of_a_loop(task):
    outcomes = []
    for item in range(3):
        with task.pool() as pool:
            future = pool.submit(task, item)
            try:
                outcomes.append(future.result(timeout=SOON))
            except TimeoutError:
                continue
            outcomes.append("not reached")
    return outcomes or DEFAULT


@is_a_limit
def a_default_after_the_block(task):
    answer = DEFAULT
    with task.pool() as pool:
        future = pool.submit(task)
        try:
            answer = future.result(timeout=SOON)
        except Exception as exc:
            logging.getLogger("test").info("no answer: %r", exc)
    return answer


@is_a_limit
def asked_for_the_exception(task):
    with task.pool() as pool:
        future = pool.submit(task)
        try:
            future.exception(timeout=SOON)
        except TimeoutError:
            pass
    return DEFAULT


@is_a_limit
def shut_down_in_a_finally(task):
    pool = task.pool()
    future = pool.submit(task)
    try:
        return future.result(timeout=SOON)
    except TimeoutError:
        return DEFAULT
    finally:
        pool.shutdown()


@is_a_limit
def shut_down_in_the_handler(task):
    pool = task.pool()
    future = pool.submit(task)
    try:
        return future.result(timeout=SOON)
    except TimeoutError as exc:
        pool.shutdown(wait=True)
        return DEFAULT if str(exc) == "" else str(exc)


@is_a_limit
def shut_down_at_the_end(task):
    pool = task.pool(4)
    futures = [pool.submit(task) for _ in range(2)]
    results = []
    for future in futures:
        try:
            results.append(future.result(SOON))
        except TimeoutError:
            results.append(DEFAULT)
    pool.shutdown(wait=True, cancel_futures=True)
    return results[-1]


@is_a_limit
def the_exception_is_kept(task):
    last = None
    with task.pool() as pool:
        future = pool.submit(task)
        try:
            return future.result(timeout=SOON)
        except TimeoutError as exc:
            last = exc
    return DEFAULT if isinstance(last, TimeoutError) else last


@is_a_limit
def as_completed_over_a_dict(task):
    results = {}
    with task.pool(2) as pool:
        futures = {pool.submit(task, item): item for item in range(4)}
        try:
            for future in concurrent.futures.as_completed(futures, timeout=SOON):
                results[futures[future]] = future.result()
        except TimeoutError:
            note(f"{len(futures) - len(results)} of {len(futures)} did not finish")
    return results or DEFAULT


@is_a_limit
def as_completed_over_a_list_of_pairs(task):
    with task.pool(2) as pool:
        pairs = [(item, pool.submit(task, item)) for item in range(4)]
        try:
            return [future.result() for future in concurrent.futures.as_completed([f for _, f in pairs], timeout=SOON)]
        except TimeoutError:
            return DEFAULT


@is_a_limit
def wait_for_all(task):
    with task.pool(2) as pool:
        futures = [pool.submit(task, item) for item in range(4)]
        done, not_done = concurrent.futures.wait(futures, timeout=SOON)
        note(f"{len(done)} done, {len(not_done)} not")
        results = [future.result() for future in done]
    return results or DEFAULT


@is_a_limit
def wait_until_nothing_comes_any_more(task):
    results = []
    with task.pool(2) as pool:
        pending = {pool.submit(int, 7), pool.submit(task), pool.submit(task)}
        while pending:
            done, pending = concurrent.futures.wait(pending, SOON, return_when=concurrent.futures.FIRST_COMPLETED)
            results += [future.result() for future in done]
            if not done:
                break
    return DEFAULT if results in ([7], []) else results


@is_a_limit
def returned_what_there_is(task):
    def run():
        with task.pool(2) as pool:
            futures = [pool.submit(task, item) for item in range(2)]
            concurrent.futures.wait(futures, timeout=SOON)
            return [future.result() if future.done() else DEFAULT for future in futures]

    return run()[0]


@is_a_limit
def returned_a_count(task):
    def run():
        pool = task.pool(2)
        try:
            done, not_done = concurrent.futures.wait([pool.submit(task)], timeout=SOON)
            return {"done": [future.result() for future in done], "failed": len(not_done)}
        finally:
            pool.shutdown()

    assert run() == {"done": [], "failed": 1}
    return DEFAULT


@is_a_limit
def map_with_a_timeout(task):
    with task.pool(2) as pool:
        try:
            return list(pool.map(task, range(4), timeout=SOON))
        except TimeoutError:
            return DEFAULT


@is_a_limit
def map_whose_timeout_passes_before_its_first_wait(task):
    with task.pool(2) as pool:
        try:
            return list(pool.map(task, range(4), timeout=0))
        except TimeoutError:
            return DEFAULT


@is_a_limit
def one_limit_for_each_of_many(task):
    results = []
    with task.pool(4) as pool:
        futures = [pool.submit(task, item) for item in range(3)]
        for item, future in enumerate(futures):
            try:
                results.append((item, future.result(timeout=SOON)))
            except TimeoutError:
                results.append((item, DEFAULT))
    return results[0][1]


@is_a_limit
def some_are_done(task):
    with task.pool(4) as pool:
        futures = [pool.submit(int, 1), pool.submit(task), pool.submit(int, 3)]
        results = []
        for future in futures:
            try:
                results.append(future.result(timeout=0.5))
            except TimeoutError:
                results.append(DEFAULT)
    assert results[::2] == [1, 3]
    return results[1]


@is_a_limit
def an_exit_stack(task):
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(task.pool())
        future = pool.submit(task)
        with contextlib.suppress(TimeoutError):
            return future.result(timeout=SOON)
    return DEFAULT


@is_a_limit
def in_a_coroutine(task):
    async def main():
        with task.pool() as pool:
            future = pool.submit(task)
            try:
                return future.result(timeout=SOON)
            except TimeoutError:
                return DEFAULT

    return asyncio.run(main())


@is_a_limit
def in_a_generator(task):
    def answers():
        for item in range(2):
            with task.pool() as pool:
                future = pool.submit(task, item)
                try:
                    answer = future.result(timeout=SOON)
                except TimeoutError:
                    answer = DEFAULT
            yield answer

    return list(answers())[-1]


@is_a_limit
def in_a_helper(task):
    def ask(pool):
        future = pool.submit(task)
        try:
            return future.result(timeout=SOON)
        except TimeoutError:
            return DEFAULT

    with task.pool() as pool:
        answer = ask(pool)
    return answer


@is_a_limit
def in_a_decorator(task):
    def limited(function):
        @functools.wraps(function)
        def wrapper(*args):
            with task.pool() as pool:
                future = pool.submit(function, *args)
                try:
                    return future.result(timeout=SOON)
                except TimeoutError:
                    return DEFAULT

        return wrapper

    @limited
    def work(item):
        return task(item)

    return work(1)


@is_a_limit
def in_a_method(task):
    class Runner:
        def __init__(self):
            self.timeout = SOON
            self.failed = []

        def run(self, item):
            with task.pool() as pool:
                future = pool.submit(self.work, item)
                try:
                    return future.result(timeout=self.timeout)
                except TimeoutError:
                    self.failed.append(item)
                    return DEFAULT

        def work(self, item):
            return task(item)

    return Runner().run(1)


@is_a_limit
def a_context_manager_of_the_programs_own(task):
    @contextlib.contextmanager
    def workers():
        with task.pool() as pool:
            yield pool

    with workers() as pool:
        future = pool.submit(task)
        try:
            return future.result(timeout=SOON)
        except TimeoutError:
            return DEFAULT


@is_a_limit
def in_a_thread(task):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(returned_in_the_handler(task)))
    thread.start()
    thread.join(120)
    return answers[0]


@is_a_limit
def in_a_task_of_another_pool(task):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(returned_in_the_handler, task).result(120)


@is_a_limit
def tried_three_times(task):
    for _ in range(3):
        with task.pool() as pool:
            future = pool.submit(task)
            try:
                return future.result(timeout=SOON)
            except TimeoutError:
                pass
    return DEFAULT


@pytest.mark.parametrize("shape", LIMITS, ids=lambda shape: shape.__name__)
def test_is_a_time_limit(shape, task, caplog):
    caplog.set_level(logging.WARNING, "threadsafe_timeout")
    assert shape(task) == DEFAULT
    assert all(pool._crew.events.flush(120) for pool in task.pools)
    told = [record for record in caplog.records if getattr(record, "event", None) == "limit"]
    pools = [pool for pool in task.pools if pool._crew.submitted]
    assert len(told) >= len(pools) >= 1
    assert "on_expired_wait='wait'" in told[0].getMessage()
    assert all(pool.stats()["abandoned"] for pool in pools), "it was cancelled, and then given up"


def test_a_time_limit_runs_the_tasks_clean_up_before_the_block_is_left():
    cleaned = []

    begun = threading.Event()

    def work():
        try:
            begun.set()
            while True:
                threadsafe_timeout.sleep(10)
        finally:
            cleaned.append(threading.current_thread().name)

    with ThreadPoolExecutor(1, grace=120) as pool:
        future = pool.submit(work)
        assert begun.wait(120)
        try:
            future.result(timeout=0.1)
        except TimeoutError:
            pass
    assert len(cleaned) == 1
