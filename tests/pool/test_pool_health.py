"""Seeing what a pool does: health, events, log lines, and what PoolExhausted says."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import threading
import time

import blocked
import pytest
from blocked import expire, overdue
from paces import at_some_pace

from threadsafe_timeout import DeadlineExceeded, Event, PoolExhausted, ThreadPoolExecutor, check_cancelled, sleep
from threadsafe_timeout.checkpoint import CheckpointWriter

GRACE = 0.05
LONG = 120


def stuck(gate, *_arguments, begun=None):
    if begun is not None:
        begun.set()
    gate.wait(LONG)
    return "late"


def acquire(gate, *_arguments):
    """Stuck when its time ends; named as what no interrupt strikes in (see `blocked`)."""
    expire()
    gate.wait(LONG)
    return "late"


class Recorder:
    """Events as they come, and a way to wait for one."""

    def __init__(self):
        self.events: list[Event] = []
        self._came = threading.Condition()

    def __call__(self, event):
        with self._came:
            self.events.append(event)
            self._came.notify_all()

    def wait_for(self, kind):
        with self._came:
            assert self._came.wait_for(lambda: kind in self.kinds, 120), self.kinds
        return next(event for event in self.events if event.kind == kind)

    @property
    def kinds(self):
        return [event.kind for event in self.events]


# Health


def test_health_says_what_each_worker_does(gate):
    begun = threading.Event()
    with ThreadPoolExecutor(2, "pool", task_timeout=LONG) as pool:
        pool.submit(int).result(120)
        pool.with_options(name="the stuck one").submit(stuck, gate, begun=begun)
        assert begun.wait(120)
        health = pool.health()
        gate.set()
    assert (health.pool, health.width, health.pending, health.overdue) == ("pool", 2, 0, ())
    [worker] = [one for one in health.workers if one.state != "idle"]
    assert (worker.state, worker.task, worker.key) == ("running", "the stuck one", None)
    assert worker.elapsed >= 0
    assert 0 < worker.deadline_left <= LONG
    assert worker.last_progress is None, "an Event.wait that nobody patched is no progress"
    file, line, function = worker.where
    assert (file, function) == (__file__, "stuck")
    assert line > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        worker.state = "idle"


def test_progress_is_a_cooperative_point_and_not_a_living_thread(gate):
    at_point, go = threading.Event(), threading.Event()

    def task():
        check_cancelled()
        at_point.set()
        go.wait(LONG)
        check_cancelled()
        at_point.set()
        gate.wait(LONG)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(task)
        assert at_point.wait(120)
        before = pool.health().workers[0].last_progress
        threading.Event().wait(0.1)
        later = pool.health().workers[0].last_progress
        assert later >= before + 0.1
        at_point.clear()
        between = time.monotonic()
        go.set()
        assert at_point.wait(120)
        since = pool.health().workers[0].last_progress
        assert time.monotonic() - since >= between, "it has come to another point since"
        gate.set()


def test_health_follows_a_task_up_the_ladder(gate):
    def climb(pace):
        seen = Recorder()
        states = {}
        with ThreadPoolExecutor(1, grace=0.2 * pace) as pool:
            pool.on_event(seen)
            pool.submit(acquire, gate)
            for kind in ("overdue", "interrupting", "abandoned"):
                seen.wait_for(kind)
                health = pool.health()
                states[kind] = [one.state for one in health.overdue]
                assert health.overdue[0].task == "acquire(<Event>) #1"
                assert health.overdue[0].deadline_left < 0
                assert health.overdue[0].where[2] == "acquire"
        assert states == {"overdue": ["overdue"], "interrupting": ["interrupting"], "abandoned": ["abandoned"]}

    at_some_pace(climb)


# Events


def test_one_event_and_one_log_line_for_each_rung(gate, caplog, tmp_path):
    caplog.set_level(logging.INFO, "threadsafe_timeout")
    seen = Recorder()
    with (
        CheckpointWriter(tmp_path / "run.jsonl") as writer,
        ThreadPoolExecutor(1, "pool", grace=GRACE, checkpoint=writer) as pool,
    ):
        pool.on_event(seen)
        options = pool.with_options(key=17, name="sum")
        assert isinstance(options.submit(acquire, gate, "password in an argument").exception(120), DeadlineExceeded)
        gate.set()
        late = seen.wait_for("late")
    assert seen.kinds == ["overdue", "interrupting", "abandoned", "late"]
    for event in seen.events:
        assert (event.pool, event.task, event.key, event.worker) == ("pool", "sum", 17, "pool_0")
        assert event.elapsed > 0
    for event in seen.events[:3]:
        assert event.where[0] == __file__
        assert "gate.wait(LONG)" in event.stack
        assert "password" not in event.stack + repr(event)
    assert seen.events[0].reason == "deadline"
    assert late.outcome.result == "late"
    lines = [record for record in caplog.records if hasattr(record, "event")]
    assert [record.event for record in lines] == seen.kinds
    assert all("sum (key 17)" in record.getMessage() for record in lines)


def test_a_callback_that_raises_or_hangs_does_no_harm(gate, caplog):
    seen = Recorder()

    def hang(event):
        if event.kind == "abandoned":
            gate.wait(LONG)

    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        pool.on_event(lambda event: 1 / 0)
        pool.on_event(seen)
        pool.on_event(hang)
        for _ in range(2):  # the second although the first event's callback has not returned
            assert isinstance(pool.submit(overdue, gate).exception(120), DeadlineExceeded)
        gate.set()
    assert pool._crew.events.flush(LONG)
    assert "on_event callback failed" in caplog.text
    assert seen.kinds.count("abandoned") == 2


def test_a_callback_may_use_the_pool_and_be_unregistered(gate):
    seen, stats = Recorder(), []
    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        with pool.on_event(seen), pool.on_event(lambda event: stats.append((pool.stats(), pool.health()))):
            assert isinstance(pool.submit(overdue, gate).exception(120), DeadlineExceeded)
            seen.wait_for("abandoned")
        told = len(seen.events)
        assert isinstance(pool.submit(overdue, gate).exception(120), DeadlineExceeded)
        gate.set()
    assert len([event for event in seen.events if event.kind == "abandoned"]) == 1
    assert len(seen.events) <= told + 1  # one may have been on its way
    assert stats


def test_cooperative_tasks_make_one_line(caplog):
    seen = Recorder()
    with ThreadPoolExecutor(1, task_timeout=0.02, grace=LONG) as pool:
        pool.on_event(seen)
        assert isinstance(pool.submit(sleep, LONG).exception(120), DeadlineExceeded)
    assert pool._crew.events.flush(LONG)
    assert seen.kinds == ["overdue", "timed_out"]
    assert [record.event for record in caplog.records if record.levelno > logging.INFO] == ["timed_out"]


def test_a_worker_that_dies_is_told_of_and_counted(caplog):
    import ctypes

    seen = Recorder()
    with ThreadPoolExecutor(1) as pool:
        pool.on_event(seen)
        pool.submit(int).result(120)
        [thread] = pool._threads
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(ZeroDivisionError))
        assert pool.submit(int).result(120) == 0, "it strikes when the worker wakes, before the task has begun"
        event = seen.wait_for("respawned")
        assert isinstance(event.error, ZeroDivisionError)
        assert pool.stats()["respawned"] == 1
        assert pool.stats()["workers"] == 1
        assert pool.submit(int).result(120) == 0


@pytest.mark.parametrize("error", [SystemExit, MemoryError, KeyboardInterrupt, GeneratorExit])
def test_what_a_task_raises_belongs_to_its_future(error):
    def fail():
        raise error("out of the task")

    with ThreadPoolExecutor(1) as pool:
        assert type(pool.submit(fail).exception(120)) is error
        assert pool.submit(int).result(120) == 0
        assert pool.stats()["workers"] == 1
    stats = pool.stats()  # a worker counts a task after its future is done
    assert (stats["failed"], stats["completed"], stats["respawned"]) == (1, 1, 0)


def test_a_thread_local_that_cannot_be_made_fails_the_task_alone():
    class Local(threading.local):
        def __init__(self):
            raise ValueError("no connection")

    def use():
        return Local().value

    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(use).exception(120), ValueError)
        assert pool.submit(int).result(120) == 0


# Exhausted


def test_pool_exhausted_says_which_tasks_hold_the_threads_and_where(gate):
    seen = Recorder()
    with ThreadPoolExecutor(1, "pool", grace=GRACE, max_abandoned=1) as pool:
        pool.on_event(seen)
        for name in ("first", "second"):
            pool.with_options(name=name).submit(overdue, gate).exception(120)
        with pytest.raises(PoolExhausted) as caught:
            pool.submit(int)
        assert isinstance(seen.wait_for("exhausted").error, PoolExhausted)
        gate.set()
    error = caught.value
    assert sorted(name for name, _ in error.holders) == ["first", "second"]
    assert all(where[0] == blocked.__file__ and where[2] == "acquire" for _, where in error.holders)
    assert "first is stuck at" in str(error)
    assert pickle.loads(pickle.dumps(error)).holders == error.holders


def test_a_pool_recovers_when_its_stuck_threads_return(gate):
    with ThreadPoolExecutor(1, grace=GRACE, max_abandoned=0) as pool:
        seen = Recorder()
        pool.on_event(seen)
        pool.submit(overdue, gate).exception(120)
        with pytest.raises(PoolExhausted):
            pool.submit(int)
        gate.set()
        seen.wait_for("late")
        for worker in list(pool._crew.abandoned):
            worker.thread.join(120)
        assert pool.submit(int).result(120) == 0


def test_the_counts_say_how_every_task_ended(gate):
    begun = threading.Event()

    def fail():
        raise ValueError

    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        pool.submit(int).result(120)
        pool.submit(fail).exception(120)
        pool.submit(overdue, gate).exception(120)
        running = pool.submit(stuck, gate, begun=begun)
        assert begun.wait(120)
        expired = pool.with_options(deadline=time.monotonic()).submit(int)
        assert isinstance(expired.exception(120), DeadlineExceeded)
        cancelled = [pool.submit(int), pool.submit(int)]
        for future in cancelled:
            assert future.cancel()
            assert future.cancel(), "a second time it is cancelled already"
        during = pool.stats()
        gate.set()
        running.result(120)
    assert (during["running"], during["idle"], during["pending"], during["abandoned_alive"]) == (1, 0, 3, 1)
    stats = pool.stats()
    ended = {how: stats[how] for how in ("completed", "failed", "cancelled", "abandoned")}
    assert ended == {"completed": 2, "failed": 2, "cancelled": 2, "abandoned": 1}
    assert sum(ended.values()) == stats["submitted"]
    assert (stats["running"], stats["pending"]) == (0, 0)
