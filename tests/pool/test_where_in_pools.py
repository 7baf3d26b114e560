"""Tasks of a pool that time out say where, and one line of the log says it too."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from blocked import LONG, expire
from here import assert_here

from threadsafe_timeout import (
    CancelSource,
    DeadlineExceeded,
    Event,
    ThreadPoolExecutor,
    check_cancelled,
    deadline,
    patched,
    sleep,
)
from threadsafe_timeout._pool import ending

GRACE = 0.05


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self._came = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._came:
            self.events.append(event)
            self._came.notify_all()

    def wait_for(self, kind: str) -> Event:
        with self._came:
            assert self._came.wait_for(lambda: kind in self.kinds, LONG), self.kinds
        return next(event for event in self.events if event.kind == kind)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def warnings(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


# The places


def cooperative(_number=0):
    expire(0)
    check_cancelled()  # here


def sleeping(_number=0):
    sleep(LONG)  # here


def busy(_number=0):
    while True: pass  # here  # noqa: E701


def in_a_loop(_number=0):
    asyncio.run(awaiting())


async def awaiting():
    asyncio.get_running_loop().call_soon(expire, 0)  # when it waits: to begin a loop may take longer than a deadline
    await asyncio.sleep(LONG)  # here


def in_a_process(_number=0):
    subprocess.run([sys.executable, "-c", "import time; time.sleep(100)"], check=False)  # here


CALLS = [
    (cooperative, "cooperative", 0.1), (sleeping, "sleeping", 0.1), (busy, "busy", 0.1), (in_a_loop, "awaiting", LONG),
    (in_a_process, "in_a_process", 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("call", "function", "seconds"), CALLS)
def test_a_task_that_ends_by_its_deadline(call, function, seconds, caplog):
    with patched(checkpoint="off"), ThreadPoolExecutor(1, "pool", task_timeout=seconds, grace=LONG) as pool:
        pool.on_event(seen := Recorder())
        error = pool.submit(call, 7).exception(LONG)
    event = seen.wait_for("timed_out")
    assert_here(error, __file__, function)
    assert error.name == f"{call.__name__}(7)"
    [record] = [record for record in warnings(caplog) if record.event == "timed_out"]
    assert (record.task, record.where, record.pool) == (error.name, error.where, "pool")
    assert record.getMessage().startswith(f"threadsafe-timeout: task {error.name} timed out after ")
    assert record.getMessage().endswith(", at {}:{}, in {}".format(*error.where))
    assert (event.task, event.where, event.worker, event.reason) == (error.name, error.where, "pool_0", "deadline")


@pytest.mark.parametrize("call", [sleeping, busy])
def test_a_deadline_that_the_function_may_catch(call, caplog):
    """As `map` has it: an ordinary error, with its place."""
    caught = []

    def catching(number):
        try:
            call(number)
        except TimeoutError as exc:
            caught.append(exc)
        return number

    with ThreadPoolExecutor(2, task_timeout=0.1, grace=LONG) as pool:
        assert list(pool.map(catching, [1])) == [1]
        with pytest.raises(DeadlineExceeded) as raised:
            list(pool.map(call, [2]))
    assert pool._crew.events.flush(LONG)
    assert_here(caught[0], __file__, call.__name__)
    assert_here(raised.value, __file__, call.__name__)
    first, second = [record.getMessage() for record in warnings(caplog)]
    assert first.endswith("; it caught that, and its own outcome counts")
    assert not second.endswith("counts")
    assert f"{call.__name__}(2) timed out" in second


def hold(gate):
    expire()
    gate.wait(LONG)  # here


def test_an_abandoned_task_says_what_its_thread_is_stuck_in(gate, caplog):
    def acquire(_number):  # the name says that no interrupt strikes in it
        hold_it(gate)

    def release(gate):  # likewise
        expire()
        gate.wait(LONG)  # here

    hold_it = release
    with ThreadPoolExecutor(1, grace=GRACE) as pool:
        pool.on_event(seen := Recorder())
        error = pool.submit(acquire, 1).exception(LONG)
        event = seen.wait_for("abandoned")
        gate.set()
    assert_here(error, __file__, "release")
    assert event.where == error.where
    kinds = [record.event for record in warnings(caplog)]
    assert kinds[:2] == ["interrupting", "abandoned"], "that it was given up says that it timed out"
    assert "timed_out" not in kinds


def test_a_function_of_c_has_no_place_and_this_library_is_none(caplog):
    """Its thread runs no code of the program."""
    read, write = os.pipe()
    libc = ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer(1)
    with ThreadPoolExecutor(1, task_timeout=0.05, grace=GRACE) as pool:
        pool.on_event(seen := Recorder())
        error = pool.submit(libc.read, read, buffer, 1).exception(LONG)
        event = seen.wait_for("abandoned")
        os.write(write, b"x")
    os.close(read)
    os.close(write)
    assert isinstance(error, DeadlineExceeded)
    assert error.where is event.where is None
    assert "threadsafe_timeout" not in str(error)


def test_a_task_that_never_started(gate, caplog):
    with ThreadPoolExecutor(1) as pool:
        pool.on_event(seen := Recorder())
        pool.submit(gate.wait)
        late = pool.with_options(deadline=time.monotonic()).submit(sleeping, 1)
        error = late.exception(LONG)
        gate.set()
        event = seen.wait_for("timed_out")
    assert error.where is None
    assert str(error) == "sleeping(1) timed out: its deadline passed while it waited for a worker; it never started"
    assert (event.where, event.task) == (None, "sleeping(1)")
    assert [record.event for record in warnings(caplog)] == ["timed_out"]
    with pytest.raises(DeadlineExceeded):
        late.result()
    assert late.exception().where is None, "whoever asks is not where it was"


def test_a_task_whose_submitter_was_out_of_time_before_it_started(gate, caplog):
    ran = []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait)
        with pytest.raises(DeadlineExceeded), deadline(LONG) as scope:
            future = pool.submit(ran.append, 1)
            scope.cancel("deadline")
            sleep(LONG)
        gate.set()
        error = future.exception(LONG)
    assert not ran
    assert (error.where, error.elapsed) == (None, None)
    assert str(error) == "list.append(1) timed out: a scope around it was cancelled (deadline); it never started"


def test_the_deadline_of_a_scope_around_the_pool(caplog):
    begun = threading.Semaphore(0)

    def sleeping(_number):
        begun.release(); sleep(LONG)  # here  # noqa: E702

    with pytest.raises(DeadlineExceeded), deadline(LONG) as scope, ThreadPoolExecutor(2, grace=LONG) as pool:
        futures = [pool.submit(sleeping, number) for number in range(2)]
        assert all(begun.acquire(timeout=LONG) for _ in futures)
        scope.cancel("deadline")
        sleep(LONG)
    assert pool._crew.events.flush(LONG)
    for number, future in enumerate(futures):
        assert_here(future.exception(LONG), __file__, "sleeping")
        [line] = [record.getMessage() for record in warnings(caplog) if record.task.endswith(f".sleeping({number})")]
        assert "(the deadline of a scope around it), at " in line


def test_a_group_of_errors(caplog):
    def grouping():
        try:
            sleep(LONG)  # here
        except BaseException as exc:
            raise BaseExceptionGroup("group", [exc, ValueError()]) from None

    with ThreadPoolExecutor(1, task_timeout=0.05, grace=LONG) as pool:
        assert_here(pool.submit(grouping).exception(LONG), __file__, "grouping")
    assert pool._crew.events.flush(LONG)
    assert [record.event for record in warnings(caplog)] == ["timed_out"]


# The lines


def test_each_of_many_tasks_has_one_line(caplog):
    caplog.set_level(logging.INFO, "threadsafe_timeout")
    with ThreadPoolExecutor(10, task_timeout=0.05, grace=LONG) as pool:
        futures = [pool.submit(sleeping, number) for number in range(30)]
    assert pool._crew.events.flush(LONG)
    assert all(isinstance(future.exception(), DeadlineExceeded) for future in futures)
    told = [record for record in caplog.records if record.event == "timed_out"]
    assert sorted(record.task for record in told) == sorted(f"sleeping({number})" for number in range(30))
    for record in told:
        before = [one for one in caplog.records[: caplog.records.index(record)] if one.task == record.task]
        assert [one.event for one in before] == ["overdue"]


def test_what_the_program_cancels_is_no_warning(caplog):
    source = CancelSource()
    begun = threading.Semaphore(0)

    def wait():
        begun.release()
        sleep(LONG)

    with ThreadPoolExecutor(2, grace=LONG) as pool:
        one, other = pool.submit(wait), pool.with_options(token=source.token).submit(wait)
        for _ in range(2):
            assert begun.acquire(timeout=LONG)
        one.cancel()
        source.cancel("enough")
        assert {type(future.exception(LONG)) for future in (one, other)} == {DeadlineExceeded}
    assert not warnings(caplog)


def test_a_scope_inside_a_task_is_the_tasks_own_business(caplog):
    def bounded():
        with deadline(0):
            check_cancelled()  # here

    with ThreadPoolExecutor(1, task_timeout=LONG) as pool:
        assert_here(pool.submit(bounded).exception(LONG), __file__, "bounded")
    assert not warnings(caplog)


def test_a_late_task_that_met_no_deadline_is_no_warning(gate, caplog, monkeypatch):
    """It has its result, only late; less than is noticeable."""
    monkeypatch.setattr(ending, "NOTICEABLE", 2 * LONG)
    with ThreadPoolExecutor(1, grace=LONG) as pool:
        pool.on_event(seen := Recorder())

        def acquire():
            expire(0)
            gate.wait(LONG)
            return "late"

        future = pool.submit(acquire)
        seen.wait_for("overdue")
        gate.set()
        assert future.result(LONG) == "late"
    assert pool._crew.events.flush(LONG)
    assert not warnings(caplog)


SILENT = """
from threadsafe_timeout import ThreadPoolExecutor, sleep

def ask(question):
    sleep(100)

with ThreadPoolExecutor(8, task_timeout=0.05, grace=60) as pool:
    [pool.submit(ask, f"q{number}") for number in range(8)]
"""


def test_without_any_logging_a_program_says_so_on_stderr(tmp_path):
    """Eight time-outs: eight lines."""
    script = tmp_path / "runner.py"
    script.write_text(SILENT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=LONG, check=True)
    lines = sorted(done.stderr.splitlines())
    assert len(lines) == 8
    for number, line in enumerate(lines):
        said = re.sub(r"after \d+\.\d s", "after a while", line)
        assert said == (
            f"threadsafe-timeout: task ask('q{number}') timed out after a while (limit 0.05 s), at {script}:5, in ask"
        )
