"""Moments that rarely meet, made to meet: what one thread does while another is in the middle of something.

Each test holds one of the library's own steps up, so that the other thread comes in exactly there.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import gc
import logging
import os
import signal
import sys
import threading
import time

import pytest
from blocked import overdue

from threadsafe_timeout import (
    CancelScope,
    CancelSource,
    DeadlineExceeded,
    ThreadPoolExecutor,
    check_cancelled,
    deadline,
    move_on_after,
    shield,
    sleep,
)
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._introspection import frames as _frames
from threadsafe_timeout._pool import crew as _crew
from threadsafe_timeout._pool import task as _task
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._scopes import tokens as _tokens
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

BOUND = 120.0
GRACE = 0.05
needs_interrupt = pytest.mark.skipif(_pursuit.support().mechanism is None, reason=_pursuit.support().detail)


def run_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


# Scopes


def test_a_signal_that_comes_to_a_cooperative_point_while_a_scope_is_entered(monkeypatch):
    attend = _timer.attend

    def attend_and_signal(when):
        signal.raise_signal(signal.SIGUSR1)
        attend(when)

    monkeypatch.setattr(_timer, "attend", attend_and_signal)
    previous = signal.signal(signal.SIGUSR1, lambda *_: check_cancelled())
    try:
        with deadline(50):
            pass
        assert _around.current_scope() is None
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("outer", [False, True])
def test_ctrl_c_while_a_scope_is_entered_leaves_nothing_behind(monkeypatch, outer):
    def interrupt(when):
        raise KeyboardInterrupt

    around = CancelScope()
    if outer:
        around.__enter__()
    monkeypatch.setattr(_timer, "attend", interrupt)
    monkeypatch.setattr(_scope, "_INCOMING_LIMIT", -1)  # each scope attends to the timer
    with pytest.raises(KeyboardInterrupt), deadline(5):
        raise AssertionError("the block was not to run")
    assert _around.current_scope() is (around if outer else None)
    if outer:
        around.__exit__(None, None, None)


def test_a_scope_that_is_left_while_another_thread_moves_its_deadline(monkeypatch):
    inside, moving = threading.Event(), threading.Event()
    scope, disarm = move_on_after(50), _timer.disarm

    def renew():
        assert inside.wait(BOUND)

        def disarm_and_tell(entry):
            moving.set()
            threading.Event().wait(0.2)  # with the lock, for which the other waits by then
            disarm(entry)

        monkeypatch.setattr(_timer, "disarm", disarm_and_tell)
        scope.deadline = _clock.monotonic() + 100

    thread = run_thread(renew)
    with scope:
        with _timer.lock:
            _timer._sort_in()
            inside.set()
        assert moving.wait(BOUND)
    thread.join()
    assert _around.current_scope() is None


def test_a_coroutine_leaves_its_scope_while_it_is_being_cancelled(monkeypatch):
    looked, left, told = threading.Event(), threading.Event(), []

    class Extras(_scope.Extras):
        __slots__ = ("held",)

        @property
        def task(self):
            if threading.current_thread() is canceller and not looked.is_set():
                held = self.held
                looked.set()
                left.wait(BOUND)
                return held
            return self.held

        @task.setter
        def task(self, value):
            self.held = value

    async def main():
        with move_on_after(50) as scope:
            told.append(scope)
            canceller.start()
            while not looked.is_set():
                await asyncio.sleep(0)
        left.set()

    errors = []

    def cancel():
        try:
            told[0].cancel()
        except BaseException as exc:
            errors.append(exc)

    monkeypatch.setattr(_scope, "Extras", Extras)
    canceller = threading.Thread(target=cancel)
    asyncio.run(main())
    canceller.join()
    assert not errors


def test_a_busy_scope_that_is_cancelled_as_it_is_entered_is_interrupted():
    scope, ended = CancelScope(), []

    def busy():
        with scope:
            until = time.monotonic() + BOUND
            while time.monotonic() < until:
                pass
        ended.append(scope.cancelled_caught)

    _timer.start()
    with _timer.lock:
        canceller = run_thread(scope.cancel)
        while _is_outside(canceller, _scope.__file__):
            os.sched_yield()
        worker = run_thread(busy)
        while scope._state == _around.NEW:
            os.sched_yield()
    canceller.join()
    worker.join()
    assert ended == [True]


@needs_interrupt
def test_a_scope_that_is_left_as_it_is_pursued_is_not_pursued_for_ever(monkeypatch):
    """The next thread with that ident would be interrupted for it, insistently at once."""
    scope, entered, leave = CancelScope(), threading.Event(), threading.Event()

    def wait_inside():
        with scope:
            entered.set()
            leave.wait(BOUND)

    class SlowTarget(_pursuit.Target):
        """Made when the scope has been found to be entered. It is left now."""

        def __init__(self, ident, now):
            super().__init__(ident, now)
            leave.set()
            worker.join(0.2)  # what it did not do by then waits for the lock that is held here

    monkeypatch.setattr(_pursuit, "Target", SlowTarget)
    worker = run_thread(wait_inside)
    assert entered.wait(BOUND)
    scope.cancel()
    worker.join(BOUND)
    assert not _pursuit._targets


def cancelled_and_left_by(leave):
    """The targets that remain when another thread's scope was cancelled and left like that, in the end."""
    scope, cancelled = CancelScope(), threading.Event()

    def enter_and_leave():
        scope.__enter__()
        cancelled.wait(BOUND)
        leave(scope)

    worker = run_thread(enter_and_leave)
    while scope._state == _around.NEW:
        os.sched_yield()
    scope.cancel()
    assert _pursuit._targets
    cancelled.set()
    worker.join(BOUND)
    until = time.monotonic() + BOUND
    while _pursuit._targets and time.monotonic() < until:
        os.sched_yield()
    return _pursuit._targets


@needs_interrupt
def test_a_thread_that_was_struck_as_it_left_a_scope_is_not_pursued_for_ever(monkeypatch):
    def strike(scope):
        raise KeyError

    def leave(scope):
        with pytest.raises(KeyError):
            scope.__exit__(None, None, None)

    monkeypatch.setattr(_scope, "_dismiss", strike)
    assert not cancelled_and_left_by(leave)


@needs_interrupt
def test_a_thread_that_ends_without_leaving_its_scope_is_not_pursued_for_ever():
    assert not cancelled_and_left_by(lambda scope: None)


def _is_outside(thread, file):
    frame = sys._current_frames().get(thread.ident)
    return frame is None or not (frame.f_code.co_filename == file and frame.f_code.co_name == "_cancel")


def test_shields_in_a_coroutine_are_let_go():
    async def main():
        with deadline(3600) as scope:
            for _ in range(100):
                with shield(1):
                    pass
            return len(scope._extras.task._shields)

    assert asyncio.run(main()) == 0


def test_a_registration_that_was_taken_back_is_not_attached_again():
    with CancelScope() as scope:
        registration = _registration.Registration(lambda: None)
        registration.unregister()
        registration.attach(scope)
        assert not scope._callbacks


def test_a_shield_with_a_deadline_of_its_own_is_lowered_all_the_same():
    with CancelScope() as outer:
        with shield(0.05) as guard:
            guard.deadline = _clock.monotonic() + 3600
            outer.cancel()
            sleep(BOUND)
    assert outer.cancelled_caught
    guard = shield(3600)
    guard.deadline = _clock.monotonic() + 0.05
    with guard:
        sleep(BOUND)
    assert guard.cancelled_caught


# Tokens


def test_a_callback_that_raises_cancelled_keeps_no_other_from_being_told():
    source, told = CancelSource(), []
    source.token.register(check_cancelled)  # in a canceller whose own scope is cancelled
    source.token.register(lambda: told.append(1))
    with move_on_after(50) as scope:
        scope.cancel()
        source.cancel("stop")
    assert scope.cancelled_caught
    assert told == [1]


# The timer


def test_a_log_filter_that_raises_does_not_end_the_timer_thread():
    class Bad(logging.Filter):
        def filter(self, record):
            raise ValueError("a bad filter")

    bad, fired = Bad(), threading.Event()
    logger = logging.getLogger("threadsafe_timeout")
    logger.addFilter(bad)
    try:
        with _timer.lock:
            _timer.arm(_clock.monotonic(), lambda: 1 / 0)
            _timer.arm(_clock.monotonic(), fired.set)
        assert fired.wait(BOUND)
    finally:
        logger.removeFilter(bad)


def test_what_is_armed_while_a_due_one_is_taken_is_not_lost(monkeypatch):
    """A finaliser may run anywhere, and enter a scope."""
    fired = []

    class Due(list):
        def append(self, callback):
            super().append(callback)
            if not fired:
                fired.append("arming")
                _timer.push(0.0, fired.clear)

    with _timer.lock, monkeypatch.context() as patched:  # the scopes of others keep their own heap
        patched.setattr(_timer, "_heap", [])
        patched.setattr(_timer, "incoming", collections.deque())
        _timer.push(1.0, print)
        due = Due()
        _timer._take_due(due)
    assert due == [print, fired.clear]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_deadlines_of_other_threads_are_not_met_in_a_forked_child(gate):
    """What they wake, a socket say, is shared with the parent."""
    inside = threading.Event()

    def wait():
        with deadline(3600):
            inside.set()
            gate.wait(BOUND)

    thread = run_thread(wait)
    assert inside.wait(BOUND)
    with deadline(3600) as mine:
        child = os.fork()
        if not child:
            scopes = [getattr(entry[2], "__self__", None) for entry in _timer._heap]
            found = [one for one in scopes if isinstance(one, CancelScope)]
            os._exit(0 if found == [mine] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_frames_are_looked_at_has_a_collector():
    """And can look at frames itself."""
    looking, forking = threading.Event(), threading.Event()

    def look():
        with _frames.frames_of_others():
            looking.set()
            forking.wait(0.3)  # the other is held up by then, if it ever is

    looker = run_thread(look)
    assert looking.wait(BOUND)
    child = os.fork()
    if not child:
        signal.alarm(10)
        _frames.current_frames()
        os._exit(0 if gc.isenabled() else 1)
    forking.set()
    looker.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gc.isenabled()


@needs_interrupt
def test_a_look_that_fails_is_not_the_last(monkeypatch):
    mechanism = type(_pursuit._make_mechanism())
    arm, failed = mechanism.arm, []

    def fail_once(self, stacks):
        if stacks and not failed:
            failed.append(True)
            raise MemoryError
        arm(self, stacks)

    monkeypatch.setattr(mechanism, "arm", fail_once)
    until = time.monotonic() + BOUND
    with move_on_after(0.01) as scope:
        while time.monotonic() < until:
            pass
    assert failed
    assert scope.cancelled_caught


@needs_interrupt
def test_who_is_struck_while_it_has_a_look_armed_keeps_no_other_from_being_interrupted(monkeypatch):
    struck = []

    class Stray(Exception):
        pass

    def arm(when, callback):
        raise Stray

    def cancel():
        try:
            first.cancel()
        except Stray as exc:
            struck.append(exc)

    until = time.monotonic() + BOUND
    while _pursuit._look_at != float("inf") and time.monotonic() < until:
        time.sleep(0.001)  # an earlier test's last look is armed; then none would be armed now
    with CancelScope() as first, monkeypatch.context() as patched:
        patched.setattr(_timer, "arm", arm)
        run_thread(cancel).join()
    assert len(struck) == 1
    until = time.monotonic() + BOUND
    with move_on_after(0.01) as second:
        while time.monotonic() < until:
            pass
    assert second.cancelled_caught


# The pool


def stuck(gate):
    gate.wait(3 * BOUND)


def test_pending_tasks_are_not_lost_when_all_workers_are_given_up_at_once(gate):
    """The last one's place was taken by a thread that settles what is owed, and goes."""

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


def test_a_submit_that_could_not_start_a_thread_leaves_nothing_that_kills_a_worker(monkeypatch):
    start, ran = _crew.Crew._start_worker, []
    pool = ThreadPoolExecutor(1)

    def fail(self, *args, **kwargs):
        monkeypatch.setattr(_crew.Crew, "_start_worker", start)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_crew.Crew, "_start_worker", fail)
    with pytest.raises(RuntimeError, match="can't start"):
        pool.with_options(name="x", timeout=1).submit(ran.append, 1)
    assert pool.submit(int).result(BOUND) == 0
    pool.shutdown()
    stats = pool.stats()
    assert (stats["respawned"], stats["failed"], stats["cancelled"]) == (0, 0, 1)
    assert not ran


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


