"""A pool that is left after a wait for its tasks has expired, where that was no time limit.

Each shape below is a function that makes a pool, waits with a timeout that expires, and leaves the pool. The tasks are
waited for then, and their outcome is there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import threading
import time

import pytest
from left import DEFAULT, GRACE, SOON, note

NO_LIMITS = []


def is_none(shape):
    NO_LIMITS.append(shape)
    return shape


@is_none
def waited_for_again(task):
    with task.pool() as pool:
        future = pool.submit(task)
        try:
            return future.result(timeout=SOON)
        except TimeoutError:
            note("slow")
        try:
            return future.result(timeout=SOON)
        except TimeoutError:
            note("very slow")


@is_none
def polled(task):
    with task.pool() as pool:
        future = pool.submit(task)
        for _ in range(3):
            try:
                return future.result(timeout=SOON)
            except TimeoutError:
                note("still running")


@is_none
def polled_by_wait(task):
    with task.pool(2) as pool:
        pending = [pool.submit(task, item) for item in range(2)]
        for _ in range(3):
            _, pending = concurrent.futures.wait(pending, timeout=SOON)
            note(len(pending), "still running")


@is_none
def as_completed_and_then_wait(task):
    with task.pool(2) as pool:
        futures = {pool.submit(task): item for item in range(2)}
        try:
            for future in concurrent.futures.as_completed(futures, timeout=SOON):
                note(future)
        except TimeoutError:
            note("not yet")
        concurrent.futures.wait(futures, timeout=SOON, return_when=concurrent.futures.FIRST_COMPLETED)


@is_none
def fetched_after_the_block(task):
    with task.pool() as pool:
        future = pool.submit(task)
        try:
            return future.result(timeout=SOON)
        except TimeoutError:
            note("will be there in the end")
    assert future.result() == "late"


@is_none
def fetched_after_the_block_in_one_case_only(task):
    with task.pool() as pool:
        future = pool.submit(task)
        try:
            future.result(timeout=SOON)
        except TimeoutError:
            pass
    if task.calls == 0:
        note(future.result())


@is_none
def fetched_by_an_error_handler(task):
    try:
        with task.pool() as pool:
            future = pool.submit(task)
            try:
                future.result(timeout=SOON)
            except TimeoutError:
                pass
        raise KeyError("something else")
    except KeyError:
        assert future.result() == "late"


@is_none
def fetched_in_the_next_round(task):
    future = None
    for _ in range(2):
        if future is not None:
            assert future.result() == "late"
            break
        with task.pool() as pool:
            future = pool.submit(task)
            try:
                future.result(timeout=SOON)
            except TimeoutError:
                pass


@is_none
def fetched_from_a_list_after_a_wait(task):
    with task.pool(2) as pool:
        futures = [pool.submit(task) for _ in range(2)]
        concurrent.futures.wait(futures, timeout=SOON)
    assert [future.result() for future in futures] == ["late"] * 2


@is_none
def those_not_done_are_used_later(task):
    with task.pool(2) as pool:
        _, not_done = concurrent.futures.wait([pool.submit(task)], timeout=SOON)
    assert not_done.pop().result() == "late"


@is_none
def as_completed_again(task):
    with task.pool(2) as pool:
        futures = {pool.submit(task): item for item in range(2)}
        try:
            list(concurrent.futures.as_completed(futures, timeout=SOON))
        except TimeoutError:
            pass
    assert sorted(futures[future] for future in concurrent.futures.as_completed(futures)) == [0, 1]


@is_none
def returned_to_the_caller(task):
    def run():
        with task.pool() as pool:
            future = pool.submit(task)
            try:
                future.result(timeout=SOON)
            except TimeoutError:
                pass
            return future

    assert run().result() == "late"


@is_none
def returned_to_the_caller_by_way_of_a_finally(task):
    def run():
        pool = task.pool()
        future = pool.submit(task)
        try:
            future.result(timeout=SOON)
        except TimeoutError:
            return future
        finally:
            pool.shutdown()

    assert run().result() == "late"


@is_none
def returned_in_a_dict(task):
    def run():
        with task.pool() as pool:
            futures = [pool.submit(task)]
            concurrent.futures.wait(futures, timeout=SOON)
            return {"futures": futures}

    assert run()["futures"][0].result() == "late"


@is_none
def returned_without_a_variable(task):
    def run():
        with task.pool() as pool:
            return concurrent.futures.wait([pool.submit(task)], timeout=SOON)

    assert run().not_done.pop().result() == "late"


@is_none
def returned_by_a_coroutine(task):
    async def run():
        with task.pool() as pool:
            future = pool.submit(task)
            concurrent.futures.wait([future], timeout=SOON)
            return future

    async def main():
        return (await run()).result()

    assert asyncio.run(main()) == "late"


@is_none
def kept_in_a_list_of_the_callers(task):
    def run(found):
        with task.pool() as pool:
            found.append(pool.submit(task))
            try:
                return found[0].result(timeout=SOON)
            except TimeoutError:
                return None

    futures = []
    run(futures)
    assert futures[0].result() == "late"


@is_none
def kept_deep_in_containers(task):
    def run(found):
        with task.pool() as pool:
            found["a"].append(({pool.submit(task)},))
            concurrent.futures.wait(found["a"][0][0], timeout=SOON)

    found = {"a": []}
    run(found)
    assert found["a"][0][0].pop().result() == "late"


@is_none
def kept_in_an_attribute(task):
    class Runner:
        def run(self):
            with task.pool() as pool:
                self.future = pool.submit(task)
                try:
                    self.future.result(timeout=SOON)
                except TimeoutError:
                    pass

    runner = Runner()
    runner.run()
    assert runner.future.result() == "late"


@is_none
def kept_in_a_closure(task):
    def run():
        with task.pool() as pool:
            future = pool.submit(task)
            try:
                future.result(timeout=SOON)
            except TimeoutError:
                pass
            return lambda: (future.result(), note)[0]

    assert run()() == "late"


@is_none
def kept_by_its_method(task):
    def run():
        with task.pool() as pool:
            future = pool.submit(task)
            try:
                future.result(timeout=SOON)
            except TimeoutError:
                pass
            return future.result

    assert run()() == "late"


@is_none
def yielded(task):
    def futures():
        with task.pool() as pool:
            future = pool.submit(task)
            try:
                future.result(timeout=SOON)
            except TimeoutError:
                pass
        yield future

    assert next(futures()).result() == "late"


@is_none
def held_by_a_generator_that_waits(task):
    def holder():
        future = yield
        yield
        yield future.result()

    def run():
        with task.pool() as pool:
            future = pool.submit(task)
            generator.send(future)
            try:
                future.result(timeout=SOON)
            except TimeoutError:
                return

    generator = holder()
    next(generator)
    run()
    assert next(generator) == "late"


@is_none
def put_into_a_queue(task):
    def run():
        with task.pool() as pool:
            future = pool.submit(task)
            results.put(future)
            try:
                future.result(timeout=SOON)
            except TimeoutError:
                return

    results = queue.SimpleQueue()
    run()
    assert results.get_nowait().result() == "late"


@is_none
def with_a_callback(task):
    done = []
    with task.pool() as pool:
        future = pool.submit(task)
        future.add_done_callback(lambda ended: done.append(ended.result()))
        try:
            future.result(timeout=SOON)
        except TimeoutError:
            pass
    assert done == ["late"]


@is_none
def only_looked_at(task):
    with task.pool() as pool:
        try:
            note(pool.submit(task).result(timeout=0))
        except TimeoutError:
            note("still running")


@is_none
def only_looked_at_by_wait(task):
    with task.pool() as pool:
        note(concurrent.futures.wait([pool.submit(task)], timeout=0))


@is_none
def awaited_in_an_event_loop(task):
    async def main():
        with task.pool() as pool:
            running = asyncio.get_running_loop().run_in_executor(pool, task)
            await asyncio.wait([running], timeout=SOON)
            pool.shutdown(wait=False)
            assert await running == "late"

    asyncio.run(main())


@is_none
def another_thread_waits_for_it(task):
    def wait_for(future):
        got.append(future.result())

    got = []
    with task.pool() as pool:
        future = pool.submit(task)
        waiting = threading.Thread(target=wait_for, args=(future,))
        try:
            future.result(timeout=SOON)
        except TimeoutError:
            waiting.start()
            while not future._condition.waiting:
                time.sleep(0.001)
    waiting.join(120)
    assert got == ["late"]


@is_none
def another_thread_has_it_in_a_variable(task):
    def look():
        future = box.pop()
        has_it.set()
        left.wait(120)
        got.append(future.result())

    box, got, has_it, left = [], [], threading.Event(), threading.Event()
    thread = threading.Thread(target=look)
    with task.pool() as pool:
        box.append(pool.submit(task))
        concurrent.futures.wait(box, timeout=SOON)
        thread.start()
        has_it.wait(120)
    left.set()
    thread.join(120)
    assert got == ["late"]


@is_none
def the_setting_says_wait(task):
    with task.pool(on_expired_wait="wait") as pool:
        try:
            return pool.submit(task).result(timeout=SOON)
        except TimeoutError:
            return DEFAULT


@is_none
def the_setting_says_single_and_there_are_two(task):
    with task.pool(on_expired_wait="single") as pool:
        pool.submit(int).result()
        try:
            return pool.submit(task).result(timeout=SOON)
        except TimeoutError:
            return DEFAULT


@is_none
def a_task_that_nobody_waited_for(task):
    with task.pool(2) as pool:
        pool.submit(task)
        quick = pool.submit(int)
        concurrent.futures.wait([quick], timeout=120)


@pytest.mark.parametrize("shape", NO_LIMITS, ids=lambda shape: shape.__name__)
def test_is_no_time_limit(shape, task, caplog):
    caplog.set_level(logging.INFO, "threadsafe_timeout")

    def let_go_when_it_has_been_left():
        until = time.monotonic() + 120
        while not (task.pools and task.pools[-1]._crew.closed) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(6 * GRACE)  # in which it would have been cancelled, and given up
        task.let_go()

    helper = threading.Thread(target=let_go_when_it_has_been_left)
    helper.start()
    try:
        shape(task)
    finally:
        helper.join(120)
    assert not [record for record in caplog.records if getattr(record, "event", None) in ("limit", "overdue")]
    [pool] = task.pools
    stats = pool.stats()
    assert (stats["completed"], stats["abandoned"], stats["cancelled"]) == (stats["submitted"], 0, 0)


def test_who_waits_on_is_told_why(task, caplog):
    caplog.set_level(logging.INFO, "threadsafe_timeout")

    def let_go_when_it_has_been_told():
        until = time.monotonic() + 120
        while "may still be asked for its outcome" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
        task.let_go()

    helper = threading.Thread(target=let_go_when_it_has_been_told)
    helper.start()
    fetched_after_the_block(task)
    helper.join(120)
    assert "may still be asked for its outcome" in caplog.text
