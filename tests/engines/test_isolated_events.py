"""What a task does in a process of its own is seen in the program: its phases, its loops, its events, where it stands."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import isolated_tasks as tasks
import pytest
from conditions import said_in, until

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, Event, ThreadPoolExecutor
from threadsafe_timeout._pool import ladder
from threadsafe_timeout._pool.events import logger
from threadsafe_timeout._record.doing import Doing, Step, Told
from threadsafe_timeout._record.snapshot import worker_lines
from threadsafe_timeout.engines import process
from threadsafe_timeout.engines._reporter import PhaseReporter
from threadsafe_timeout.testing.fake_llm import FakeLLM

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

LONG = tasks.LONG


@pytest.fixture
def heard() -> Iterator[Callable[[ThreadPoolExecutor], list[Event]]]:
    listeners = []

    def hear(pool: ThreadPoolExecutor) -> list[Event]:
        events: list[Event] = []
        listeners.append(pool.on_event(events.append))
        return events

    yield hear
    for one in listeners:
        one.unregister()


def line_of(pool: ThreadPoolExecutor) -> dict[str, Any]:
    [line] = worker_lines(pool._crew, time.time())
    return line


@pytest.mark.usefixtures("watching")
def test_its_llm_calls_are_phases_of_the_task(tmp_path: Path) -> None:
    with (
        FakeLLM(mix={"good": 1}) as server, threadsafe_timeout.patched(checkpoint="off"),
        ThreadPoolExecutor(1, isolate="process", grace=0.2) as pool,
    ):  # fmt: skip
        assert pool.submit(tasks.ask, server.base_url, False).result(LONG) == 1
        [worker] = pool._crew.workers
        assert (worker.doing.calls, worker.doing.attempts) == (1, 1)
        assert set(worker.doing.spent()) == {"llm"}
        assert worker.doing.phase() is None
    with (
        FakeLLM(mix={"hang": 1}) as server, threadsafe_timeout.patched(checkpoint="off"),
        ThreadPoolExecutor(1, isolate="process", grace=0.2) as pool,
    ):  # fmt: skip
        future = pool.submit(tasks.ask, server.base_url, True)
        line = until(lambda: (line := line_of(pool)).get("phase") == "LLM call" and line)
        assert line["phase_since"] <= time.time() + 1
        future.cancel()
        assert isinstance(future.exception(LONG), DeadlineExceeded)


def test_without_anybody_who_looks_it_tells_no_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[dict[str, Any]] = []
    monkeypatch.setattr(process.Reports, "_heed", lambda _, message: taken.append(message))
    with FakeLLM(mix={"good": 1}) as server, threadsafe_timeout.patched(checkpoint="off", status_dir="off"):
        with ThreadPoolExecutor(1, isolate="process") as pool:
            assert pool.submit(tasks.ask, server.base_url, False).result(LONG) == 1
    assert taken == [{"stacks": True}]


def test_a_loop_that_is_ended_there_is_counted_and_told_here(heard: Any) -> None:
    with ThreadPoolExecutor(1, isolate="process") as pool:
        events = heard(pool)
        assert pool.with_options(name="agent").submit(tasks.end_a_loop).result(LONG) == "ended"
        assert pool.stats()["loops"] == 1
        assert pool._crew.events.flush(LONG)
    [event] = events
    assert (event.kind, event.task, event.reason) == ("loop", "agent", "repeat_loop: the same call: 5 times")
    assert event.where is not None
    assert event.where[2] == "end_a_loop"


def test_the_events_of_its_own_pools_are_told_here(heard: Any) -> None:
    with threadsafe_timeout.patched(checkpoint="off"), ThreadPoolExecutor(1, isolate="process") as pool:
        events = heard(pool)
        assert pool.with_options(name="outer").submit(tasks.be_late_in_a_pool).result(LONG) == "DeadlineExceeded"
        assert pool._crew.events.flush(LONG)
    [event] = [event for event in events if event.kind == "timed_out"]
    assert (event.task, event.pool) == ("outer", pool._crew.prefix)
    assert event.reason is not None
    assert event.reason.startswith("task inner of its process: ")


def test_where_a_killed_task_stood_is_told(
    heard: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if a call of C holds the interpreter of its process."""
    with caplog.at_level(logging.WARNING, logger.name), ThreadPoolExecutor(1, isolate="process", grace=LONG) as pool:
        events = heard(pool)
        future: Any = pool.submit(tasks.hold_the_gil, tmp_path / "begun")
        pid = int(said_in(tmp_path / "begun"))
        line = line_of(pool)
        assert (line["phase"], line.get("where"), line.get("stack", [])) == ("process", None, [])
        future.cancel()
        until(lambda: future._away.where)
        ladder.climb(future)
        assert pool._crew.events.flush(LONG)
        line = line_of(pool)
        assert line["where"][2] == line["stack"][-1][2] == "hold_the_gil"
        os.kill(pid, signal.SIGKILL)
        error = future.exception(LONG)
    assert isinstance(error, DeadlineExceeded)
    assert error.where is not None
    assert error.where[2] == "hold_the_gil"
    overdue, interrupting, *_ = events
    assert (overdue.kind, overdue.where, overdue.stack) == ("overdue", None, "")
    assert interrupting.kind == "interrupting"
    assert interrupting.stack.count("\n") == 1
    assert interrupting.stack.endswith("in hold_the_gil\n")
    assert f"its process {pid} is being killed" in caplog.text
    assert "engines/process.py" not in caplog.text


def test_a_task_that_is_cancelled_while_it_is_packed_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    original = process._Context.Process
    monkeypatch.setattr(process._Context, "Process", lambda *args, **more: started.append(1) or original(*args, **more))
    with ThreadPoolExecutor(1, isolate="process") as pool:
        assert isinstance(pool.submit(tasks.take, tasks.Cancels()).exception(LONG), DeadlineExceeded)
        assert not started
        assert pool.submit(tasks.add, 1, 2).result(LONG)[0] == 3
        assert started


class Call:
    attempts = 1
    known = False


def test_phases_are_told_seldom_and_the_last_one_always() -> None:
    """A task that makes a call after the other: what is sent is bounded by time, not by the calls."""
    from multiprocessing import Pipe

    reading, writing = Pipe(duplex=False)
    reporter = PhaseReporter(writing)
    try:
        for _ in range(5000):
            call = Call()
            reporter.llm_begins(call)
            reporter.llm_ends(call)
        last = Call()
        reporter.llm_begins(last)
    finally:
        reporter.end()
    os.set_blocking(reading.fileno(), False)
    lines = os.read(reading.fileno(), 1 << 16).decode().splitlines()
    reading.close()
    assert '"calls": 5001' in lines[-1]
    assert '"phase": "LLM call"' in lines[-1]
    assert len(lines) < 1000


def test_a_full_pipe_holds_nothing_up() -> None:
    from multiprocessing import Pipe

    reading, writing = Pipe(duplex=False)
    reporter = PhaseReporter(writing)
    try:
        for number in range(5000):
            reporter.looped("repeat_loop", f"{number}")
    finally:
        reporter.end()
        reading.close()


def test_what_is_no_state_changes_nothing() -> None:
    doing, told = Doing(3), Told(3)
    doing.begins("a", Step(None, 2, 0.0))
    told.take(doing.told())
    for bad in ({}, {"calls": "x", "attempts": 0, "spent": {}}, {"calls": 1, "attempts": 0, "spent": {"a": None}}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            told.take(bad)
    phase = told.phase()
    assert phase is not None
    assert phase[0] == "search ×2"
    assert threading.current_thread() is threading.main_thread()
