"""A pool that is left after a wait for its tasks has expired: what was a time limit, and what was not.

Each shape below is a function that makes a pool, waits with a timeout that expires, and leaves the pool. In the first
half the tasks are cancelled then, in the second half they are waited for and their outcome is there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import queue
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor
from threadsafe_timeout._pool.liveness import still_read

GRACE = 0.05
SOON = 0.02
DEFAULT = "default"


def note(*_):
    """What a program would print."""


class Prompt(ThreadPoolExecutor):
    """Its `submit` returns when a worker that is free has taken the task: a thread may need longer than SOON for that,
    and a task that has not begun is cancelled."""

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        until = time.monotonic() + 120
        while not (future.running() or future.done()) and self.stats()["running"] < self._max_workers:
            assert time.monotonic() < until, "no worker has taken the task"
            time.sleep(0.001)
        return future


class Task:
    """A task that ends when it is let go; it waits in C, where nothing reaches it."""

    def __init__(self):
        self._gate = threading.Lock()
        self._gate.acquire()
        self.pools = []
        self.calls = 0

    def __call__(self, *_):
        self.calls += 1
        if self._gate.acquire(timeout=120):
            self._gate.release()
        return "late"

    def let_go(self):
        with contextlib.suppress(RuntimeError):
            self._gate.release()

    def pool(self, width=1, **options):
        self.pools.append(Prompt(width, grace=GRACE, **options))
        return self.pools[-1]


@pytest.fixture
def task():
    one = Task()
    yield one
    one.let_go()
    for pool in one.pools:
        for worker in [*pool._crew.workers, *pool._crew.abandoned]:
            worker.thread.join(120)


LIMITS = []
NO_LIMITS = []


def is_a_limit(shape):
    LIMITS.append(shape)
    return shape


def is_none(shape):
    NO_LIMITS.append(shape)
    return shape


# Time limits


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

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        assert begun.wait(120)
        try:
            future.result(timeout=0.1)
        except TimeoutError:
            pass
    assert len(cleaned) == 1


# No time limits


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


# The policies


def single(task, width, tasks):
    with task.pool(width, on_expired_wait="single") as pool:
        futures = [pool.submit(task) for _ in range(tasks)]
        concurrent.futures.wait(futures, SOON)
    return pool.stats()["abandoned"]


def test_single_is_about_one_worker_with_one_task(task):
    assert single(task, 1, 1) == 1
    threading.Timer(0.3, task.let_go).start()
    assert single(task, 2, 1) == 0
    assert single(task, 1, 2) == 0


def test_a_bad_policy_is_an_error():
    with pytest.raises(ValueError, match="on_expired_wait must be 'cancel', 'single' or 'wait', got 'no'"):
        ThreadPoolExecutor(1, on_expired_wait="no")
    with pytest.raises(threadsafe_timeout.ThreadsafeTimeoutError, match="on_expired_wait: must be one of cancel"):
        threadsafe_timeout.install(on_expired_wait="no")


def test_the_future_says_why_it_ended(task):
    futures = []
    with pytest.raises(ZeroDivisionError), task.pool() as pool:
        futures.append(pool.submit(task))
        try:
            futures[0].result(timeout=SOON)
        except TimeoutError:
            raise ZeroDivisionError from None
    error = futures[0].exception(0)
    assert isinstance(error, DeadlineExceeded)
    assert "wait for it had expired" in str(error)


# Whole programs


def run_python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], input=code, capture_output=True, text=True, timeout=120, check=False, **options
    )


STUCK = """
    import threading
    begun = threading.Event()
    def stuck():
        gate = threading.Lock()
        gate.acquire()
        begun.set()
        gate.acquire()
    def begun_by_now(future):
        begun.wait()  # what has not begun would be cancelled, and not given up
        return future
"""


@pytest.mark.parametrize("how", ["file", "-c"])
def test_at_the_top_of_a_program(how, tmp_path):
    code = textwrap.dedent(
        "import threadsafe_timeout\nthreadsafe_timeout.install(grace=0.05)\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        + textwrap.dedent(STUCK)
        + textwrap.dedent("""
        answers = []
        for question in range(3):
            with ThreadPoolExecutor(max_workers=1) as pool:
                future = pool.submit(stuck)
                try:
                    answers.append(future.result(timeout=0.05))
                except TimeoutError:
                    print("no answer to", question)
                    continue
        print("end")
        """)
    )
    script = tmp_path / "program.py"
    script.write_text(code)
    done = run_python("", *([str(script)] if how == "file" else ["-c", code]))
    assert done.stdout.splitlines() == ["no answer to 0", "no answer to 1", "no answer to 2", "end"], done.stderr
    assert done.returncode == 0


def test_at_the_top_of_a_program_that_fetches_it_later(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import threadsafe_timeout, threading
        threadsafe_timeout.install(grace=0.05)
        from concurrent.futures import ThreadPoolExecutor
        gate = threading.Event()
        def report():
            return future.result()
        with ThreadPoolExecutor(max_workers=1) as pool:
            future = pool.submit(lambda: gate.wait(120) and "late")
            try:
                future.result(timeout=0.05)
            except TimeoutError:
                threading.Timer(0.5, gate.set).start()
        print(report())
        """)
    )
    done = run_python("", str(script))
    assert (done.stdout, done.returncode) == ("late\n", 0), done.stderr


def test_a_program_ends_though_such_a_pool_was_not_waited_for(tmp_path):
    code = textwrap.dedent(
        "import threadsafe_timeout\nthreadsafe_timeout.install(grace=0.05)\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        + textwrap.dedent(STUCK)
        + textwrap.dedent("""
        pool = ThreadPoolExecutor(1)
        try:
            begun_by_now(pool.submit(stuck)).result(timeout=0.05)
        except TimeoutError:
            pool.shutdown(wait=False)
        print("end")
        """)
    )
    done = run_python("", "-c", code)
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr
    assert "its only wait with a timeout had expired" in done.stderr


# What a function still reads


def frame_after(source):
    """The variables that are still read after the line `here()` of a function."""
    names = {}

    def here():
        caller = sys._getframe(1)
        names["read"] = still_read(caller.f_code, caller.f_lasti)

    namespace = {"here": here, "context": contextlib.nullcontext}
    exec(textwrap.dedent(source), namespace)
    namespace["function"]()
    return names["read"]


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("x = 1\n    here()", False),
        ("x = 1\n    here()\n    return x", True),
        ("x = 1\n    here()\n    x = 2\n    return x", False),
        ("x = 1\n    here()\n    del x", False),
        ("x = 1\n    here()\n    if y: return x", True),
        ("x = 1\n    here()\n    if y: x = 2\n    return x", True),
        ("for i in (1, 2):\n        if i == 2: break\n        x = i\n        here()", False),
        ("x = 0\n    for i in (1,):\n        print(x)\n        here()", True),
        ("x = 1\n    try:\n        here()\n        x = 2\n    except KeyError:\n        print(x)", True),
        ("x = 1\n    try:\n        here()\n    finally:\n        x = 2\n        print(x)", False),
        ("x = 1\n    with context():\n        here()\n    return None", False),
        ("x = 1\n    here()\n    return locals()", True),
        ("x = 1\n    f = lambda: x\n    here()\n    return f", False),  # the closure does, which is an object
        ("x = 1\n    def g(): print(x)\n    here()\n    g()\n    return x", True),
        ("x = [1]\n    here()\n    return [i for i in x]", True),
        ("x = [1]\n    here()\n    return [x for x in (1, 2)]", None),
        ("x = 1\n    while True:\n        here()\n        if y: return x\n        x = 2\n        if x: break", True),
        ("x, z = 1, 2\n    here()\n    return z", False),
        ("x, z = 1, 2\n    here()\n    return x, z", True),
    ],
)
def test_what_is_still_read(body, read, capsys):
    found = "x" in frame_after(f"def function(y=0):\n    {body}\n")
    assert read is None or found is read
