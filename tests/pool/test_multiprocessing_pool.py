"""`multiprocessing.pool.ThreadPool`: its own API, with deadlines, and a width that survives tasks that ignore them.

That everything else is as it was, CPython's own tests say: see test_cpython_suites.py.
"""

from __future__ import annotations

import contextvars
import gc
import multiprocessing.dummy
import multiprocessing.pool
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures.thread import BrokenThreadPool

import pytest
from blocked import LONG, expire, overdue

from threadsafe_timeout import DeadlineExceeded, PoolExhausted, current_deadline, deadline, move_on_after, patched
from threadsafe_timeout._pool.multiprocessing_pool import ThreadPool

STOCK = multiprocessing.pool.ThreadPool
variable = contextvars.ContextVar("variable", default="default")


@pytest.fixture
def limited():
    """Deadlines for all tasks; near ones for those that call `expire`: the others are to have all the time they need."""
    with patched(patches=("multiprocessing_pool",), task_timeout=LONG, grace=0.05):
        yield


@pytest.fixture
def unlimited():
    with patched(patches=("multiprocessing_pool",), grace=0.05):
        yield


def joined(pool):
    pool.close()
    pool.join()


def stuck_on(number, gate, bad=(1,)):
    """Returns its number, unless it is one of the bad ones, which are stuck in what nothing can wake."""
    if number in bad:
        overdue(gate)
    return number


def test_it_is_a_stock_pool_wherever_it_is_made_and_the_stock_one_again_after(unlimited):
    for pool in (multiprocessing.pool.ThreadPool(2), multiprocessing.dummy.Pool(2), multiprocessing.dummy.Pool()):
        with pool:
            assert isinstance(pool, STOCK)
            assert isinstance(pool, ThreadPool)
            assert repr(pool).startswith("<multiprocessing.pool.ThreadPool state=RUN pool_size=")


def test_uninstall_gives_back_the_identical_class():
    with patched(patches=("multiprocessing_pool",)):
        assert multiprocessing.pool.ThreadPool is ThreadPool
    assert multiprocessing.pool.ThreadPool is STOCK


def test_stuck_workers_are_replaced_and_the_tasks_behind_them_run(limited, gate):
    errors = []
    with multiprocessing.pool.ThreadPool(2) as pool:
        stuck = [pool.apply_async(overdue, (gate,), error_callback=errors.append) for _ in range(2)]
        behind = [pool.apply_async(int, (number,)) for number in range(6)]
        assert [result.get(120) for result in behind] == list(range(6))
        for result in stuck:
            with pytest.raises(DeadlineExceeded) as caught:
                result.get(120)
            assert caught.value.budget == LONG
            assert not result.successful()
        joined(pool)
    assert [type(error) for error in errors] == [DeadlineExceeded] * 2


@pytest.mark.parametrize("chunksize", [None, 1, 20])
def test_a_stuck_item_of_a_map_does_not_take_the_others_with_it(limited, gate, chunksize):
    done = []

    def work(number):
        done.append(stuck_on(number, gate))

    with multiprocessing.pool.ThreadPool(2) as pool:
        with pytest.raises(DeadlineExceeded, match="work"):
            pool.map(work, range(20), chunksize)
        assert sorted(done) == [0, *range(2, 20)]
        joined(pool)


def test_results_of_map_and_starmap_are_in_order(limited):
    with multiprocessing.pool.ThreadPool(3) as pool:
        assert pool.map(str, range(100)) == [str(number) for number in range(100)]
        assert pool.starmap(pow, [(n, 2) for n in range(50)], chunksize=7) == [n * n for n in range(50)]
        assert list(pool.imap(str, range(30), chunksize=4)) == [str(number) for number in range(30)]
        assert pool.map(str, []) == []
        with pytest.raises(TypeError):
            pool.starmap(pow, [(2, 2), 5])
        with pytest.raises(ZeroDivisionError):
            pool.map(lambda number: 1 // number, range(3))
        joined(pool)


def test_imap_goes_on_after_an_item_that_timed_out(limited, gate):
    with multiprocessing.pool.ThreadPool(2) as pool:
        results = pool.imap(lambda number: stuck_on(number, gate), range(4))
        assert next(results) == 0
        with pytest.raises(DeadlineExceeded):
            next(results)
        assert list(results) == [2, 3]
        unordered = pool.imap_unordered(lambda number: stuck_on(number, gate), range(4))
        assert sorted(next(unordered) for _ in range(3)) == [0, 2, 3]
        with pytest.raises(DeadlineExceeded):
            next(unordered)
        joined(pool)


def test_a_busy_item_is_interrupted(limited):
    left = threading.Event()

    def busy(number):
        try:
            expire()
            while True:
                number += 1
        finally:
            left.set()

    with multiprocessing.pool.ThreadPool(1) as pool:
        with pytest.raises(DeadlineExceeded):
            pool.map(busy, [1, 2])
        assert left.wait(120)
        assert pool.apply(int, (5,)) == 5
        joined(pool)


def test_tasks_are_under_the_scopes_of_their_submitter(unlimited):
    with multiprocessing.pool.ThreadPool(2) as pool:
        variable.set("submitter's")
        with deadline(60):
            mine = current_deadline()
            assert pool.map(lambda _: (current_deadline(), variable.get()), range(2)) == [(mine, "submitter's")] * 2
        joined(pool)


def test_tasks_end_with_the_scope_they_were_submitted_in(unlimited, gate):
    with multiprocessing.pool.ThreadPool(2) as pool:
        with move_on_after(60) as scope:
            running = threading.Event()
            result = pool.apply_async(lambda: running.set() or gate.wait(120))
            assert running.wait(120)
            scope.cancel("enough")
            pending = pool.apply_async(int)
        for one in (result, pending):
            with pytest.raises(DeadlineExceeded):
                one.get(120)
        assert pool.apply(int, (5,)) == 5
        joined(pool)


def test_without_deadlines_nothing_is_copied_and_a_chunk_is_one_task(unlimited):
    with multiprocessing.pool.ThreadPool(4) as pool:
        variable.set("submitter's")
        assert pool.apply(variable.get) == "default"
        threads = pool.map(lambda _: threading.get_ident(), range(8), chunksize=8)
        assert len(set(threads)) == 1
        joined(pool)


def test_past_max_abandoned_results_say_so(gate):
    with patched(patches=("multiprocessing_pool",), task_timeout=LONG, grace=0.02, max_abandoned=0):
        with multiprocessing.pool.ThreadPool(1) as pool:
            with pytest.raises(DeadlineExceeded):
                pool.apply(overdue, (gate,))
            with pytest.raises(PoolExhausted):
                pool.apply(int)
            with pytest.raises(PoolExhausted):
                pool.map(int, [1, 2])
            joined(pool)


def test_whatever_a_task_raises_reaches_its_result(unlimited):
    with multiprocessing.pool.ThreadPool(1) as pool:
        with pytest.raises(SystemExit):
            pool.apply_async(sys.exit, (3,)).get(120)
        assert pool.apply(int, (5,)) == 5
        joined(pool)


def test_the_initializer_runs_in_every_worker_at_once(unlimited):
    barrier = threading.Barrier(4)
    with multiprocessing.pool.ThreadPool(3, initializer=barrier.wait, initargs=(120,)) as pool:
        barrier.wait(120)
        joined(pool)


def test_an_initializer_that_fails_is_an_error_and_not_a_hang(unlimited, caplog):
    with multiprocessing.pool.ThreadPool(2, initializer=int, initargs=("x",)) as pool:
        with pytest.raises(BrokenThreadPool):
            pool.apply_async(int).get(120)
        joined(pool)
    assert "Exception in initializer" in caplog.text


def test_callbacks_run_in_one_thread(limited):
    threads = []

    def record(_):
        threads.append(threading.get_ident())

    with multiprocessing.pool.ThreadPool(4) as pool:
        for number in range(20):
            pool.apply_async(int, (number,), callback=record)
        pool.map_async(int, range(20), callback=record)
        joined(pool)
    assert len(threads) == 21
    assert len(set(threads)) == 1


def test_terminate_drops_what_has_not_begun_and_waits_for_nothing(unlimited, gate):
    ran, running = [], threading.Event()
    with multiprocessing.pool.ThreadPool(1) as pool:
        pool.apply_async(lambda: running.set() or gate.wait(120))
        pool.map_async(ran.append, range(10))
        assert running.wait(120)
    gate.set()
    pool.join()
    assert ran == []


def test_pools_in_tasks_of_pools(limited, gate):
    def outer(number):
        with multiprocessing.pool.ThreadPool(2) as pool:
            return pool.map(lambda inner: stuck_on(inner, gate, bad=(11,)), [number, number + 10])

    with multiprocessing.pool.ThreadPool(2) as pool:
        results = [pool.apply_async(outer, (number,)) for number in range(4)]
        with pytest.raises(DeadlineExceeded):
            results.pop(1).get(120)
        assert [result.get(120) for result in results] == [[0, 10], [2, 12], [3, 13]]
        joined(pool)


def test_a_pool_that_nobody_closed_is_collected_and_says_so(unlimited):
    def leave_one_behind():
        pool = multiprocessing.pool.ThreadPool(2)
        assert pool.apply(int) == 0

    def leave_and_collect(seen):
        leave_one_behind()
        until = time.monotonic() + 120
        while not seen and time.monotonic() < until:  # the worker that ran the task may not have let go of it yet
            gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool") as seen:
        leave_and_collect(seen)


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "pool.close()", "pool.terminate()"])
def test_the_exit_waits_for_no_task(end):
    program = textwrap.dedent(
        f"""
        import threading, multiprocessing.pool
        import threadsafe_timeout
        threadsafe_timeout.install(checkpoint=None)
        pool = multiprocessing.pool.ThreadPool(2)
        running = threading.Event()
        pool.apply_async(lambda: running.set() or threading.Event().wait(120))
        pool.apply_async(threading.Event().wait, (120,))
        running.wait(120)
        print("end", flush=True)
        {end}
        """
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert time.monotonic() - began < 100
