"""The pool: exactly one outcome per task, and a width that survives stuck tasks."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest
from blocked import LONG, overdue
from paces import at_some_pace

from threadsafe_timeout import (
    Cancelled,
    DeadlineExceeded,
    Outcome,
    PoolExhausted,
    ThreadPoolExecutor,
    check_cancelled,
    deadline,
    patched,
    sleep,
)
from threadsafe_timeout.testing import MockClock

GRACE = 0.05


def stuck(gate: threading.Event) -> str:
    gate.wait(120)
    return "late"


def test_is_a_standard_pool():
    with ThreadPoolExecutor(2, "name") as pool:
        assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
        future = pool.submit(lambda: threading.current_thread().name)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(120).startswith("name_")
        assert list(pool.map(lambda x, y: x * y, [1, 2, 3], [4, 5, 6])) == [4, 10, 18]


def test_stuck_workers_are_replaced_and_the_tasks_behind_them_run(gate):
    with ThreadPoolExecutor(2, task_timeout=LONG, grace=GRACE) as pool:
        futures = [pool.submit(overdue, gate) for _ in range(2)]
        behind = [pool.submit(int, n) for n in range(6)]
        assert [future.result(120) for future in behind] == list(range(6))
        for future in futures:
            with pytest.raises(DeadlineExceeded) as caught:
                future.result(120)
            assert caught.value.budget == LONG
            assert isinstance(caught.value, TimeoutError)
        stats = pool.stats()
        assert stats["abandoned"] == 2
        assert stats["workers"] == 2


def test_a_late_result_never_reaches_the_future(gate, caplog):
    caplog.set_level(logging.WARNING, "threadsafe_timeout")
    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        future = pool.submit(overdue, gate)
        with pytest.raises(DeadlineExceeded):
            future.result(120)
        worker = next(iter(pool._crew.abandoned)).thread
        gate.set()
        worker.join(120)
        assert pool.stats()["late"] == 1
    with pytest.raises(DeadlineExceeded):
        future.result(0)
    assert any(getattr(record, "event", None) == "late" for record in caplog.records)


def test_the_log_says_where_an_abandoned_thread_is(gate, caplog):
    caplog.set_level(logging.WARNING, "threadsafe_timeout")
    with ThreadPoolExecutor(1, grace=GRACE) as pool, pytest.raises(DeadlineExceeded):
        pool.submit(overdue, gate).result(120)
    [record] = [record for record in caplog.records if getattr(record, "event", None) == "abandoned"]
    text = record.getMessage()
    assert "gate.wait(120)" in text
    assert "_loop" not in text, "the pool's own frames tell a reader nothing"


def test_leaving_the_block_does_not_wait_for_a_stuck_thread(gate):
    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        future = pool.submit(overdue, gate)
    assert isinstance(future.exception(0), DeadlineExceeded)


def test_left_by_an_expired_result_the_block_ends_at_the_grace(gate):
    begun = threading.Event()
    with pytest.raises(TimeoutError), ThreadPoolExecutor(1, grace=GRACE) as pool:
        future = pool.submit(lambda: (begun.set(), stuck(gate)))
        assert begun.wait(120)  # what has not begun would be cancelled
        future.result(timeout=0.05)
    assert isinstance(future.exception(0), DeadlineExceeded)


def test_an_expired_result_alone_hurts_nothing(gate):
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(stuck, gate)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.02)
        gate.set()
        assert future.result(120) == "late"


def test_cancel_of_a_running_task_asks_it_to_stop():
    running = threading.Event()

    def task():
        running.set()
        sleep(30)

    with ThreadPoolExecutor(1, grace=5) as pool:
        future = pool.submit(task)
        assert running.wait(120)
        assert future.cancel() is False
        with pytest.raises(DeadlineExceeded, match="cancel"):
            future.result(120)


def test_the_submitters_deadline_reaches_three_pools_deep():
    def nested(depth: int):
        if depth == 0:
            sleep(30)
        with ThreadPoolExecutor(1, grace=GRACE) as pool:
            return pool.submit(nested, depth - 1).result(timeout=120)

    with ThreadPoolExecutor(1, task_timeout=0.2, grace=GRACE) as pool, pytest.raises(DeadlineExceeded):
        pool.submit(nested, 2).result(120)


def test_a_finished_scope_of_the_submitter_binds_nobody():
    go = threading.Event()
    with ThreadPoolExecutor(1) as pool, MockClock() as clock:
        with deadline(1):
            future = pool.submit(lambda: (go.wait(120), check_cancelled(), "done")[-1])
        clock.jump(2)
        go.set()
        assert future.result(120) == "done"


def test_a_task_that_eats_its_cancellation_still_times_out():
    def hungry():
        while True:
            try:
                sleep(30)
            except BaseException:
                return "eaten"

    with ThreadPoolExecutor(1, task_timeout=0.05, grace=1) as pool, pytest.raises(DeadlineExceeded):
        pool.submit(hungry).result(120)


def test_the_interrupt_insists_after_the_grace_of_the_pool():
    def swallowing():
        while True:
            try:
                sum(range(100))
            except BaseException:
                pass

    def interrupted(pace):
        # The setting would be too late.
        with patched(checkpoint="off", grace=2 * pace), ThreadPoolExecutor(1, task_timeout=0.05, grace=pace) as pool:
            assert isinstance(pool.submit(swallowing).exception(120), DeadlineExceeded)
            assert pool.stats()["abandoned"] == 0

    at_some_pace(interrupted)


def test_a_cancelled_waiter_is_woken(gate):
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(stuck, gate)
        with pytest.raises(DeadlineExceeded), deadline(0.05):
            future.result()
        gate.set()


def test_settle_runs_before_the_future_is_done_and_decides(gate):
    seen: list[tuple[bool, Outcome]] = []

    with ThreadPoolExecutor(1, grace=GRACE) as pool:

        def settle(outcome: Outcome) -> str:
            assert noted.acquire(timeout=120)
            seen.append((futures[-1].done(), outcome))
            return "settled"

        noted, futures = threading.Semaphore(0), []
        submit = pool.with_options(settle=settle).submit
        for task, argument in ((int, "7"), (overdue, gate)):
            futures.append(submit(task, argument))
            noted.release()
            assert futures[-1].result(120) == "settled", "an abandoned task is settled too"
    assert [done for done, _ in seen] == [False, False]
    assert seen[0][1].result == 7
    assert isinstance(seen[1][1].error, DeadlineExceeded)


def test_exactly_one_outcome_when_the_end_and_the_abandonment_race():
    """Tasks end right when they are being given up: each future is resolved once, each settlement runs once."""
    settled: list[int] = []
    lock = threading.Lock()

    def settle_for(number: int):
        def settle(outcome: Outcome) -> str:
            with lock:
                settled.append(number)
            return "timeout" if outcome.error else "result"

        return settle

    count, grace = 300, 0.003
    clock = threading.Event()
    with ThreadPoolExecutor(16, grace=grace, max_abandoned=1000) as pool:
        futures = [
            pool.with_options(timeout=0.001, settle=settle_for(n)).submit(clock.wait, 0.001 + 2 * grace)
            for n in range(count)
        ]
        results = [future.result(120) for future in futures]
    assert sorted(settled) == list(range(count))
    assert len(results) == count
    stats = pool.stats()
    # (A task whose millisecond is over before it begins fails.)
    assert stats["completed"] + stats["failed"] + stats["abandoned"] == count
    for worker in list(pool._crew.abandoned):
        worker.thread.join(120)


def test_past_max_abandoned_submit_fails_loudly_and_pending_tasks_end(gate):
    go = threading.Event()  # set when all are submitted
    with ThreadPoolExecutor(1, grace=0.02, max_abandoned=1) as pool:
        futures = [pool.submit(overdue, gate, go) for _ in range(5)]
        go.set()
        kinds = [type(future.exception(120)) for future in futures]
        assert kinds == [DeadlineExceeded, DeadlineExceeded, PoolExhausted, PoolExhausted, PoolExhausted]
        with pytest.raises(PoolExhausted, match="max_abandoned is 1"):
            pool.submit(int)


def test_by_default_many_stuck_tasks_do_not_starve_the_healthy_ones(gate):
    with ThreadPoolExecutor(4, task_timeout=LONG, grace=0.01) as pool:
        futures = [pool.submit(overdue, gate) if number % 2 else pool.submit(int, number) for number in range(80)]
        outcomes = [type(future.exception(120)) for future in futures]
        assert outcomes[1::2] == [DeadlineExceeded] * 40
        assert [future.result(120) for future in futures[::2]] == list(range(0, 80, 2))
    assert [ThreadPoolExecutor(width)._crew.max_abandoned for width in (1, 128, 200)] == [256, 256, 400]


def test_pool_exhausted_counts_the_abandoned_threads_that_are_alive(gate):
    go, gates = threading.Event(), [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(3, grace=0.02, max_abandoned=1) as pool:
        futures = [pool.submit(overdue, one, go) for one in gates]
        go.set()
        for future in futures:
            assert isinstance(future.exception(120), DeadlineExceeded)
        with pytest.raises(PoolExhausted) as caught:
            pool.submit(int)
        error = caught.value
        assert (error.abandoned, error.limit, len(error.holders)) == (3, 1, 3)
        assert pool.stats()["abandoned_alive"] == 3
        assert "3 abandoned threads are alive and max_abandoned is 1" in str(error)
        threads = [worker.thread for worker in pool._crew.abandoned]
        for alive in (2, 1):
            gates.pop().set()
            while sum(thread.is_alive() for thread in threads) > alive:
                threads[0].join(0.01)
            if alive > 1:
                with pytest.raises(PoolExhausted, match="2 abandoned threads are alive and max_abandoned is 1"):
                    pool.submit(int)
        assert pool.submit(int).result(120) == 0, "as many as may be are alive, and not more"
        gates.pop().set()


def test_a_stray_exception_in_a_worker_does_not_cost_width():
    """Thrown into idle workers and into workers between tasks; the pool still runs two tasks at the same time."""
    import ctypes

    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            meet = threading.Barrier(2)
            for future in [pool.submit(meet.wait, 120) for _ in range(2)]:
                future.result(120)
            for thread in list(pool._threads):
                if thread.ident:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread.ident), ctypes.py_object(ZeroDivisionError)
                    )
        failures = 0
        for _ in range(10):  # what was posted may still land in a task: that task fails, the width does not
            try:
                meet = threading.Barrier(2)
                for future in [pool.submit(meet.wait, 10) for _ in range(2)]:
                    future.result(120)
            except (ZeroDivisionError, threading.BrokenBarrierError):
                failures += 1
        assert failures <= 4
        assert pool.stats()["workers"] == 2


def test_a_broken_initializer_breaks_the_pool_as_ever():
    def fail():
        raise ValueError("no")

    with ThreadPoolExecutor(1, initializer=fail) as pool:
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.submit(int).result(120)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.submit(int)


def test_submit_after_shutdown():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(int)


def test_shutdown_cancels_only_pending(gate):
    pool = ThreadPoolExecutor(1)
    begun = threading.Event()
    running = pool.submit(lambda: (begun.set(), stuck(gate))[-1])
    assert begun.wait(120)
    pending = pool.submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    assert pending.cancelled()
    gate.set()
    assert running.result(120) == "late"
    pool.shutdown()


def test_a_forgotten_pool_is_collected_and_its_threads_go_home():
    pool = ThreadPoolExecutor(2)
    pool.submit(int).result(120)
    [thread] = pool._threads
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None
    thread.join(120)
    assert not thread.is_alive()


def test_finished_tasks_hold_nothing():
    class Big:
        def __call__(self, other):
            return None

    function, argument = Big(), Big()
    references = [weakref.ref(function), weakref.ref(argument)]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function, argument)
        future.result(120)
        del function, argument
        pool.submit(int).result(120)
        gc.collect()
        assert [reference() for reference in references] == [None, None]


def test_map_leaves_running_tasks_alone(gate):
    begun, done = threading.Event(), threading.Event()

    def task(number):
        if number:
            begun.set()
            gate.wait(120)
            done.set()
        return number

    with ThreadPoolExecutor(2) as pool:
        results = pool.map(task, [0, 1])
        assert next(results) == 0
        assert begun.wait(120)  # what is still pending is cancelled, as ever
        results.close()
        gate.set()
        assert done.wait(120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_workers": 0}, "max_workers must be greater than 0"),
        ({"task_timeout": -1}, "task_timeout"),
        ({"grace": float("nan")}, "grace"),
        ({"max_abandoned": -1}, "max_abandoned"),
    ],
)
def test_bad_arguments_name_the_parameter(arguments, message):
    with pytest.raises(ValueError, match=message):
        ThreadPoolExecutor(**arguments)


def run_python(code: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=timeout, check=False
    )


def test_the_process_exits_though_threads_are_stuck():
    done = run_python("""
        import threading
        from threadsafe_timeout import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2, task_timeout=0.05, grace=0.05)
        future = pool.submit(threading.Event().wait)
        print(type(future.exception()).__name__)
    """)
    assert (done.returncode, done.stdout) == (0, "DeadlineExceeded\n")


def test_the_exit_waits_for_healthy_tasks():
    done = run_python("""
        import time
        from threadsafe_timeout import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        pool.submit(lambda: (time.sleep(0.3), print("finished")))
    """)
    assert (done.returncode, done.stdout) == (0, "finished\n")


def test_at_exit_an_overdue_task_is_settled_before_it_is_given_up():
    done = run_python("""
        import threading
        from threadsafe_timeout import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1, grace=60)
        running = threading.Event()
        def stuck():
            running.set()
            threading.Event().wait()
        future = pool.with_options(settle=lambda outcome: print(type(outcome.error).__name__)).submit(stuck)
        running.wait()
        future.cancel()
    """)
    assert (done.returncode, done.stdout) == (0, "DeadlineExceeded\n")


def test_cancelled_cannot_be_constructed():
    with pytest.raises(TypeError, match="cannot be constructed"):
        Cancelled()


def test_timeouts_are_counted_as_timeouts_and_replacements_as_replacements(gate):
    def fails() -> None:
        raise ValueError("no timeout")

    def count(pace):
        with ThreadPoolExecutor(1, grace=GRACE * pace) as pool:
            late = pool.with_options(timeout=0.02)
            for future, error in (
                (late.submit(sleep, 30), DeadlineExceeded), (pool.submit(overdue, gate), DeadlineExceeded),
                (pool.submit(fails), ValueError), (pool.submit(int), type(None)),
                (pool.with_options(deadline=0.0).submit(int), DeadlineExceeded),
            ):  # fmt: skip
                assert isinstance(future.exception(120), error)
        stats = pool.stats()
        assert (stats["completed"], stats["failed"], stats["abandoned"], stats["submitted"]) == (1, 3, 1, 5)
        assert (stats["timed_out"], stats["replaced"], stats["respawned"]) == (3, 1, 0)

    at_some_pace(count)  # the first one ends by itself within two graces
