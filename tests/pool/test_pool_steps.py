"""Moments of the pool that rarely meet, made to meet: each test holds one of its steps up, and another thread comes in there."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import threading
import time

import pytest
from blocked import overdue
from held_up import BOUND, run_thread

from threadsafe_timeout import (
    CancelSource,
    DeadlineExceeded,
    ThreadPoolExecutor,
)
from threadsafe_timeout._pool import crew as _crew
from threadsafe_timeout._pool import task as _task
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._scopes import tokens as _tokens
from threadsafe_timeout._timing import timer as _timer

GRACE = 0.05


# The pool


def stuck(gate):
    gate.wait(3 * BOUND)


def test_pending_tasks_are_not_lost_when_all_workers_are_given_up_at_once(gate):
    """The last one's place was taken by a thread that settles outcomes, and goes."""

    def save(outcome):
        threading.Event().wait(0.02)  # as an fsync would
        raise outcome.error

    go = threading.Event()  # set when all are submitted
    with ThreadPoolExecutor(2, grace=GRACE, max_abandoned=0) as pool:
        futures = [pool.with_options(settle=save).submit(overdue, gate, go) for _ in range(2)]
        pending = pool.submit(int)
        go.set()
        for future in futures:
            assert isinstance(future.exception(BOUND), DeadlineExceeded)
        pending.exception(BOUND)
    assert pending.done()


def test_a_thread_that_settles_is_not_taken_for_a_worker(gate):
    settling = threading.Event()

    def slow(outcome):
        settling.set()
        gate.wait(BOUND)
        raise outcome.error

    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        go = threading.Event()
        first = pool.submit(overdue, gate, go)
        pool.with_options(deadline=time.monotonic(), settle=slow).submit(int)
        assert settling.wait(BOUND)
        behind = pool.submit(int)
        go.set()
        assert isinstance(first.exception(BOUND), DeadlineExceeded)
        assert behind.result(BOUND) == 0
        gate.set()


def test_a_task_that_is_cancelled_as_it_begins_is_given_up_like_any_other(monkeypatch, gate):
    begun, go, run = threading.Event(), threading.Event(), _task.TaskFuture.run

    def slow_run(self):
        begun.set()
        go.wait(BOUND)
        return run(self)

    with ThreadPoolExecutor(1, grace=GRACE, task_timeout=BOUND) as pool:
        monkeypatch.setattr(_task.TaskFuture, "run", slow_run)
        future = pool.submit(stuck, gate)
        assert begun.wait(BOUND)
        assert not future.cancel()
        go.set()
        assert isinstance(future.exception(BOUND), DeadlineExceeded)


def test_a_token_and_the_worker_that_passes_its_task_over_do_not_wait_for_each_other(monkeypatch, gate):
    source, release = CancelSource(), _task.TaskFuture.release
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stuck, gate)
        future = pool.with_options(token=source.token).submit(int)
        assert future.cancel()

        def slow_release(self):
            if self is future:
                canceller.start()
                canceller.join(0.5)
            release(self)

        monkeypatch.setattr(_task.TaskFuture, "release", slow_release)
        canceller = threading.Thread(target=source.cancel, daemon=True)
        gate.set()
        assert pool.submit(int).result(BOUND) == 0
        canceller.join(BOUND)
        assert not canceller.is_alive()


def test_a_deadline_that_passes_while_the_task_is_submitted_leaves_no_registration(monkeypatch):
    source, register = CancelSource(), _tokens.CancelToken.register
    settled = threading.Event()

    def late_register(self, callback):
        settled.wait(BOUND)
        return register(self, callback)

    fail_soon = _crew.Crew.fail_soon

    def fail_and_tell(self, task, error):
        fail_soon(self, task, error)
        task.exception(BOUND)
        settled.set()

    monkeypatch.setattr(_crew.Crew, "fail_soon", lambda *args: run_thread(lambda: fail_and_tell(*args)))
    monkeypatch.setattr(_tokens.CancelToken, "register", late_register)
    with ThreadPoolExecutor(1) as pool:
        hold = threading.Event()
        pool.submit(hold.wait, BOUND)
        future = pool.with_options(deadline=time.monotonic(), token=source.token).submit(int)
        assert isinstance(future.exception(BOUND), DeadlineExceeded)
        assert not source.token._registrations
        hold.set()


def test_a_callback_that_waits_for_another_owed_task_holds_it_up_no_longer(gate):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stuck, gate)
        now = time.monotonic()
        second = pool.with_options(deadline=now + 0.2).submit(int)
        first = pool.with_options(deadline=now + 0.05).submit(int)
        heard = []
        first.add_done_callback(lambda _: heard.append(second.exception(BOUND)))
        assert isinstance(second.exception(BOUND), DeadlineExceeded)
        gate.set()
    assert len(heard) == 1


def test_tasks_whose_deadlines_pass_together_may_wait_for_each_other(gate):
    """Whichever future is done first, its callback waits for the others, which the same thread was to settle."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stuck, gate)
        for _ in range(20):
            when = pool.with_options(deadline=time.monotonic() + 0.05)
            futures = [when.submit(int) for _ in range(2)]
            for one, other in (futures, futures[::-1]):
                one.add_done_callback(lambda _, other=other: other.exception(BOUND))
            assert all(isinstance(future.exception(BOUND), DeadlineExceeded) for future in futures)
        gate.set()


def test_the_block_is_not_left_before_a_task_that_was_given_up_is_settled(monkeypatch):
    fence, saved = _shield.fence, []
    held = threading.Lock()
    held.acquire()

    def slow_fence(scope, context):
        held.release()  # the task ends, and its worker leaves, just now
        threading.Event().wait(0.2)
        fence(scope, context)

    monkeypatch.setattr(_shield, "fence", slow_fence)
    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        future = pool.with_options(timeout=0.05, settle=saved.append).submit(held.acquire)
    assert future.done()
    assert len(saved) == 1


def test_what_a_callback_raises_while_pending_tasks_are_cancelled_loses_none(gate):
    pool = ThreadPoolExecutor(1)
    running = pool.submit(stuck, gate)
    futures = [pool.submit(int) for _ in range(3)]
    while not running.running():
        os.sched_yield()

    def interrupt(_):
        raise KeyboardInterrupt

    futures[0].add_done_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    pool.shutdown()
    assert all(future.done() for future in futures)


def test_a_pool_that_is_collected_under_a_lock_of_the_library_holds_nothing_up(gate):
    """Its finaliser runs in any thread, and takes no lock."""
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result(BOUND)
    lock, thread = pool._crew.lock, next(iter(pool._threads))
    holding = threading.Event()

    def hold():
        with lock:
            holding.set()
            gate.wait(BOUND)

    holder = run_thread(hold)
    assert holding.wait(BOUND)
    del pool
    gc.collect()
    gate.set()
    holder.join()
    thread.join(BOUND)
    assert not thread.is_alive()


def test_health_while_a_task_is_being_entered(monkeypatch, gate):
    inside, attend = threading.Event(), _timer.attend

    def slow(when):
        if threading.current_thread().name.startswith("entering"):
            inside.set()
            gate.wait(BOUND)
        attend(when)

    with ThreadPoolExecutor(1, "entering", task_timeout=BOUND) as pool:
        monkeypatch.setattr(_timer, "attend", slow)
        monkeypatch.setattr(_scope, "_INCOMING_LIMIT", -1)  # each scope attends to the timer
        pool.submit(int)
        assert inside.wait(BOUND)
        assert pool.health().workers[0].task == "int #1"
        gate.set()


def test_a_submit_that_could_not_start_a_thread_leaves_nothing_that_kills_a_worker(mocker):
    pool, work = ThreadPoolExecutor(1), mocker.Mock()
    mocker.patch.object(_crew.Crew, "_start_worker", side_effect=RuntimeError("can't start new thread"))
    with pytest.raises(RuntimeError, match="can't start"):
        pool.with_options(name="x", timeout=1).submit(work)
    mocker.stopall()
    assert pool.submit(int).result(BOUND) == 0
    pool.shutdown()
    stats = pool.stats()
    assert (stats["respawned"], stats["failed"], stats["cancelled"]) == (0, 0, 1)
    work.assert_not_called()


def test_a_handler_that_submits_while_a_worker_is_started_makes_no_second_one(monkeypatch):
    once, start = [], _timer.start
    pool = ThreadPoolExecutor(1)

    def start_and_submit():
        if not once:
            once.append(None)
            once.append(pool.submit(int))
        start()

    monkeypatch.setattr(_timer, "start", start_and_submit)
    pool.submit(int).result(BOUND)
    assert pool.stats()["workers"] == 1
    pool.shutdown()
    assert once[1].result(0) == 0


def test_a_future_whose_callback_ends_its_thread_is_counted():
    with ThreadPoolExecutor(1) as pool:
        hold = threading.Event()
        future = pool.submit(hold.wait, BOUND)
        future.add_done_callback(lambda _: exec("raise SystemExit"))
        hold.set()
        future.result(BOUND)
    stats = pool.stats()
    assert (stats["completed"], stats["failed"], stats["respawned"]) == (1, 0, 1)


def test_a_map_over_a_pool_with_futures_of_its_own():
    class Inline(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            future = concurrent.futures.Future()
            future.set_result(fn(*args, **kwargs))
            return future

    assert list(Inline(1).map(abs, [-1, -2])) == [1, 2]
