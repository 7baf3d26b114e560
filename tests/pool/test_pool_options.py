"""What one task may be given: a deadline, a token; and what its submitter's waits mean when he leaves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
import time

import pytest
from blocked import expire, overdue
from paces import at_some_pace

from threadsafe_timeout import (
    Cancelled,
    CancelScope,
    CancelSource,
    DeadlineExceeded,
    ThreadPoolExecutor,
    current_deadline,
    move_on_after,
    shield,
    sleep,
)
from threadsafe_timeout._scopes.around import current_scope

GRACE = 0.05
LONG = 120


def acquire(gate, begun=None):  # no interrupt strikes in a function of this name, not on the way to the wait either
    if begun is not None:
        begun.set()
    gate.wait(LONG)
    return "late"


stuck = acquire


# A deadline


def test_a_deadline_bounds_a_running_task():
    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        future = pool.with_options(deadline=time.monotonic() + 0.05).submit(sleep, LONG)
        assert isinstance(future.exception(120), DeadlineExceeded)


def test_the_earlier_of_deadline_and_timeout_holds():
    now = time.monotonic()
    with ThreadPoolExecutor(1, task_timeout=50) as pool:
        assert pool.with_options(deadline=now + 1000).submit(current_deadline).result(120) <= time.monotonic() + 50
        assert pool.with_options(deadline=now + 45).submit(current_deadline).result(120) == pytest.approx(now + 45)


def test_a_task_whose_deadline_passes_while_it_is_pending_fails_and_never_runs(gate):
    ran = []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stuck, gate)
        options = pool.with_options(deadline=time.monotonic() + 0.05, name="pending one")
        future = options.submit(ran.append, 1)
        with pytest.raises(DeadlineExceeded, match=r"pending one.*never started"):
            future.result(120)
        assert future.cancel() is False
        gate.set()
        assert pool.submit(int).result(120) == 0
    assert ran == []


def test_a_pending_task_that_expires_is_settled_too(gate):
    settled = []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stuck, gate)
        options = pool.with_options(deadline=time.monotonic() + 0.02, settle=settled.append)
        futures = [options.submit(int) for _ in range(20)]
        done, pending = concurrent.futures.wait(futures, 120)
        assert not pending
        assert len(done) == len(settled) == 20
        gate.set()


def test_a_deadline_must_be_a_number():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="deadline"):
        pool.with_options(deadline=float("nan"))


# A token


def test_a_token_cancels_a_running_task_and_keeps_a_pending_one_from_running():
    source, begun, ran = CancelSource(), threading.Event(), []

    def task():
        begun.set()
        sleep(LONG)

    with ThreadPoolExecutor(1, grace=5) as pool:
        submit = pool.with_options(token=source.token).submit
        running, pending = submit(task), submit(ran.append, 1)
        assert begun.wait(120)
        source.cancel("enough")
        with pytest.raises(DeadlineExceeded, match="enough"):
            running.result(120)
        assert pending.cancelled()
        assert concurrent.futures.wait([pending], 120).not_done == set()
        late = submit(ran.append, 2)
        assert late.cancelled()
    assert ran == []


def test_a_token_that_outlives_its_tasks_forgets_them():
    source = CancelSource()
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.with_options(token=source.token).submit(int) for _ in range(50)]:
            future.result(120)
    assert not source.token._registrations


# Waits that expire


def leave_by(wait, gate):
    """Leave a pool by what `wait(futures)` raises; the exceptions its tasks ended with."""
    begun = [threading.Event() for _ in range(3)]
    with pytest.raises(ZeroDivisionError), ThreadPoolExecutor(2, grace=GRACE) as pool:
        futures = [pool.submit(stuck, gate, event) for event in begun]
        assert all(event.wait(120) for event in begun[:2])
        wait(futures)
        raise ZeroDivisionError
    return futures


def expired_as_completed(futures):
    with pytest.raises(TimeoutError):
        list(concurrent.futures.as_completed(futures, timeout=0.02))


@pytest.mark.parametrize(
    "wait",
    [
        lambda futures: concurrent.futures.wait(futures, timeout=0.02),
        lambda futures: concurrent.futures.wait(futures, timeout=0.02, return_when="FIRST_COMPLETED"),
        expired_as_completed,
    ],
)
def test_left_by_an_exception_a_pool_cancels_the_tasks_that_were_waited_for_in_vain(gate, wait):
    running, second, pending = leave_by(wait, gate)
    assert isinstance(running.exception(0), DeadlineExceeded)
    assert isinstance(second.exception(0), DeadlineExceeded)
    assert pending.cancelled()


def test_left_by_the_timeout_of_map_it_cancels_all_that_map_had_submitted(gate):
    def leave(pace):
        with pytest.raises(TimeoutError), ThreadPoolExecutor(2, grace=GRACE) as pool:
            list(pool.map(stuck, [gate] * 5, timeout=0.05 * pace))
        stats = pool.stats()
        assert stats["abandoned"] == 2
        assert stats["completed"] == 0

    at_some_pace(leave)


def test_a_wait_that_ended_as_it_should_cancels_nothing(gate):
    def let_go_when_it_has_been_left(crew):
        while not crew.closed:
            time.sleep(0.01)
        time.sleep(5 * GRACE)  # in which they would have been cancelled, and given up
        gate.set()

    def first_only(futures):
        quick = [*futures, done]
        assert concurrent.futures.wait(quick, 10, return_when="FIRST_COMPLETED").done == {done}
        for future in concurrent.futures.as_completed(quick, timeout=10):
            assert future is done
            break
        threading.Thread(target=let_go_when_it_has_been_left, args=(futures[0]._crew,)).start()

    done: concurrent.futures.Future[None] = concurrent.futures.Future()
    done.set_result(None)
    futures = leave_by(first_only, gate)
    assert [future.result(0) for future in futures] == ["late"] * 3


def test_the_block_is_left_one_grace_after_the_wait():
    """The ladder's last rung comes a grace earlier when a wait for it has timed out."""
    gate, begun, kinds = threading.Event(), threading.Event(), []
    with pytest.raises(TimeoutError), ThreadPoolExecutor(1, grace=0.2) as pool:
        pool.on_event(lambda event: kinds.append(event.kind))
        future = pool.submit(stuck, gate, begun)
        assert begun.wait(120)
        future.result(timeout=0.05)
    assert pool._crew.events.flush(LONG)
    assert kinds == ["overdue", "abandoned"], "a grace between the two, and no rung in it"
    gate.set()


# Scopes around


def test_submit_is_a_cooperative_point():
    with ThreadPoolExecutor(1) as pool:
        with move_on_after(LONG) as scope:
            scope.cancel()
            pool.submit(int)
            pytest.fail("submit did not raise")
        assert scope.cancelled_caught
        assert pool.submit(int).result(120) == 0


def test_a_task_whose_submitter_is_cancelled_before_it_begins_does_not_begin(gate):
    ran = []
    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        first = pool.submit(stuck, gate)
        with CancelScope() as scope:
            second = pool.submit(ran.append, 1)
            scope.cancel()
        gate.set()
        assert first.result(120) == "late"
        assert isinstance(second.exception(120), DeadlineExceeded)
    assert ran == []


def test_an_abandoned_thread_is_fenced_and_so_is_what_it_started(gate):
    """Shielded or not, in its own thread, in pools it made before and after, three deep."""
    seen = []
    over = threading.Event()

    def attempt(name, call):
        try:
            call()
        except Cancelled:
            seen.append(name)

    def acquire():  # no interrupt strikes in a function of this name, between two of the attempts either
        mine = current_scope()
        inner = ThreadPoolExecutor(1, grace=GRACE)
        deepest = ThreadPoolExecutor(1, grace=GRACE)
        with shield(LONG):
            mine.deadline = time.monotonic() + 0.02
            gate.wait(LONG)  # is abandoned here
            attempt("sleep in a shield", lambda: sleep(LONG))
        attempt("sleep", lambda: sleep(LONG))
        with shield(LONG):
            attempt("sleep in a new shield", lambda: sleep(LONG))
            attempt("submit in a new shield", lambda: inner.submit(int))
        attempt("submit", lambda: inner.submit(deepest.submit, int))
        inner.shutdown(wait=False)
        deepest.shutdown(wait=False)
        over.set()

    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        future = pool.submit(acquire)
        assert isinstance(future.exception(120), DeadlineExceeded)
        gate.set()
        assert over.wait(120)
    assert seen == [
        "sleep in a shield", "sleep", "sleep in a new shield", "submit in a new shield", "submit",
    ]  # fmt: skip
    assert pool.stats()["completed"] == 0


def test_a_pool_left_behind_by_a_timeout_holds_nothing_up(gate):
    """Its tasks inherit the outer deadline; it is never shut down, and the outer pool ends."""
    inner, pools = [], []

    def task():
        pool = ThreadPoolExecutor(2, grace=GRACE)
        pools.append(pool)
        inner.extend(pool.submit(stuck, gate) for _ in range(3))
        expire()
        inner[0].result()

    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        assert isinstance(pool.submit(task).exception(120), DeadlineExceeded)
        for future in inner:
            assert isinstance(future.exception(120), DeadlineExceeded)
    gate.set()
    pools[0].shutdown()


# asyncio


def test_asyncio_runs_in_it(gate):
    async def main():
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2, grace=GRACE) as pool:
            assert await loop.run_in_executor(pool, int, "7") == 7
            with pytest.raises(DeadlineExceeded):
                await loop.run_in_executor(pool, overdue, gate)
        gate.set()
        default = ThreadPoolExecutor(2)
        loop.set_default_executor(default)
        assert await asyncio.to_thread(lambda: threading.current_thread().name) in {
            thread.name for thread in default._threads
        }

    asyncio.run(main())


def test_a_cancelled_asyncio_wait_cancels_the_task():
    begun = threading.Event()

    def task():
        begun.set()
        sleep(LONG)

    async def main(pool):
        future = asyncio.get_running_loop().run_in_executor(pool, task)
        await asyncio.to_thread(begun.wait, LONG)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    with ThreadPoolExecutor(1, grace=LONG) as pool:
        asyncio.run(main(pool))
    assert pool.stats()["failed"] == 1


def test_map_submits_no_more_than_buffersize_ahead():
    taken = []

    def inputs():
        for number in itertools.count():
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda number: number * 2, inputs(), buffersize=3)
        assert taken == [0, 1, 2]
        for expected in range(10):
            assert next(results) == 2 * expected
            assert len(taken) <= expected + 4
        results.close()
        assert list(pool.map(pow, [2, 3], [3, 2], buffersize=10)) == [8, 9]
        assert list(pool.map(abs, [], buffersize=1)) == []


@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_map_refuses_a_buffersize_as_the_standard_one_does(bad, error):
    with ThreadPoolExecutor(1) as pool, pytest.raises(error, match="buffersize must be"):
        pool.map(abs, [1], buffersize=bad)


def test_map_with_buffersize_ends_with_the_pool():
    pool = ThreadPoolExecutor(1)
    results = pool.map(abs, itertools.count(), buffersize=2)
    assert next(results) == 0
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        for _ in results:
            pass


def test_shutdown_cancels_no_task_whose_worker_is_on_its_way():
    """As with the standard pool, where the first tasks have begun by then: each worker does one."""
    for _ in range(20):
        go_on = threading.Event()
        pool = ThreadPoolExecutor(3)
        futures = [pool.submit(go_on.wait) for _ in range(20)]
        pool.shutdown(wait=False, cancel_futures=True)
        go_on.set()
        pool.shutdown()
        cancelled = [future.cancelled() for future in futures]
        assert cancelled[:3] == [False] * 3
        assert cancelled[6:] == [True] * 14  # one more for each that took its task in that very moment
        assert all(future.done() for future in futures)
