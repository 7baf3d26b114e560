"""`save="tasks"` in one process: what is saved, what is not, and what a run that goes on returns."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import joblib
import pytest
import tqdm.contrib.concurrent
from saved_tasks import JOURNAL, killed, statuses

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, SettingError, ThreadPoolExecutor, sleep
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint import CheckpointInUse, _program_run, iter_records, load_checkpoint
from threadsafe_timeout.checkpoint._lock import RunLock
from threadsafe_timeout.doctor import examine

calls: list[Any] = []


@pytest.fixture(autouse=True)
def run(nothing_set: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sys.argv", ["runner.py"])
    calls.clear()
    threadsafe_timeout.install(save="tasks", checkpoint="run.jsonl", grace=1)
    yield
    _program_run.end()  # before its folder is gone


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def square(number: int) -> int:
    calls.append(number)
    return number * number


def test_finished_tasks_are_not_run_again_after_a_kill() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(square, range(4))) == [0, 1, 4, 9]
    killed()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(square, range(6))) == [0, 1, 4, 9, 16, 25]
    assert sorted(calls) == [0, 1, 2, 3, 4, 5]


def test_a_result_is_saved_before_its_future_is_done() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(square, 3).result()
        assert statuses() == [("square", "done")]


def test_a_run_that_ended_is_kept_aside_and_the_next_begins_anew() -> None:
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(square, 3).result()
        _program_run.end()
    assert calls == [3, 3]
    assert len(list(Path().glob("run.tasks*.jsonl"))) == 2


def test_a_run_that_raises_at_its_top_or_leaves_a_task_goes_on(monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(square, 3).result()
    monkeypatch.setattr("sys.last_value", KeyboardInterrupt(), raising=False)
    _program_run.end()
    monkeypatch.delattr("sys.last_value")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(gate.wait)
        pool.submit(square, 3)
        assert pool.submit(square, 4).cancel()
        gate.set()
        first.result()
    _program_run.end()
    with ThreadPoolExecutor(1) as pool:
        assert [pool.submit(square, number).result() for number in (3, 4)] == [9, 16]
    assert calls == [3, 4]


def test_a_run_whose_running_task_was_cancelled_goes_on(gate: threading.Event) -> None:
    begun = threading.Event()

    def work(number: int) -> int:
        if number == 2 and not gate.is_set():
            begun.set()
            gate.wait()
        return square(number)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work, 1).result()
        future = pool.submit(work, 2)
        assert begun.wait(120)
        future.cancel()
        assert isinstance(future.exception(), DeadlineExceeded)
    _program_run.end()
    gate.set()
    with ThreadPoolExecutor(1) as pool:
        assert list(pool.map(work, (1, 2))) == [1, 4]
    assert calls == [1, 2]


def test_what_failed_or_was_too_slow_runs_again() -> None:
    def work(number: int) -> int:
        calls.append(number)
        if number == 1:
            raise ValueError("the password is sesame")
        if number == 2:
            scope = _around.current_scope()
            assert scope is not None
            scope.deadline = _clock.monotonic()
            sleep(300)
        return number

    for again in (True, False):
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(work, number) for number in range(3)]
            assert [type(future.exception()) for future in futures] == [type(None), ValueError, DeadlineExceeded]
        if again:
            killed()
    assert sorted(calls) == [0, 1, 1, 2, 2]
    assert [status for _, status in statuses()] == ["done", "failed", "timeout"]
    assert "sesame" not in JOURNAL.read_text()


def test_equal_tasks_are_told_apart_by_their_order() -> None:
    def draw(label: str) -> int:
        calls.append(label)
        return len(calls)

    with ThreadPoolExecutor(1) as pool:
        assert [pool.submit(draw, "a").result() for _ in range(3)] == [1, 2, 3]
    killed()
    with ThreadPoolExecutor(1) as pool:
        assert [pool.submit(draw, "a").result() for _ in range(4)] == [1, 2, 3, 4]


def test_a_task_that_is_submitted_again_as_it_failed_is_the_same_task() -> None:
    def flaky(label: str) -> str:
        calls.append(label)
        if calls.count(label) == 1:
            raise OSError
        return label

    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(flaky, "a").exception(), OSError)
        assert pool.submit(flaky, "a").result() == "a"
    killed()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(flaky, "a").result() == "a"
    assert calls == ["a", "a"]


class Client:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Agent:
    def __init__(self, name: str) -> None:
        self.name = name
        self.client = Client()
        self.done = 0

    def ask(self, question: str) -> str:
        calls.append((self.name, question))
        self.done += 1
        return f"{self.name} {question}"

    def __call__(self, question: str) -> str:
        return self.ask(question)


SHAPES: dict[str, Callable[[], list[tuple[Any, ...]]]] = {
    "method": lambda: [(agent.ask, question) for agent in (Agent("a"), Agent("b")) for question in ("x", "y")],
    "callable": lambda: [(agent, question) for agent in (Agent("a"), Agent("b")) for question in ("x", "y")],
    "lambda": lambda: [(lambda n=name, q=q: Agent(n).ask(q),) for name in "ab" for q in "xy"],
    "partial": lambda: [(functools.partial(Agent("a").ask, question=question),) for question in "xyzu"],
    "argument": lambda: [(Agent.ask, Agent("a"), question) for question in "xyzu"],
    "context": lambda: [(copy_context().run, Agent("a").ask, question) for question in "xyzu"],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_functions(shape: str) -> None:
    found = []
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            found.append([future.result() for future in [pool.submit(*call) for call in SHAPES[shape]()]])
        killed()
    assert found[0] == found[1]
    assert len(set(found[0])) == len(calls) == 4


def test_tasks_of_a_task_are_numbered_within_it() -> None:
    def inner(label: str) -> int:
        calls.append(label)
        return len(calls)

    def outer(number: int) -> list[int]:
        with ThreadPoolExecutor(1) as pool:
            found = [pool.submit(inner, "same").result() for _ in range(2)]
        if number == 1 and "resumed" not in calls:
            raise OSError("as if it was killed here")
        return found

    with ThreadPoolExecutor(1) as pool:
        assert [pool.submit(outer, number).exception() is None for number in range(2)] == [True, False]
    killed()
    calls.append("resumed")
    with ThreadPoolExecutor(1) as pool:
        assert [pool.submit(outer, number).result() for number in range(2)] == [[1, 2], [3, 4]]
    assert calls.count("same") == 4


def test_each_item_of_a_multiprocessing_thread_pool() -> None:
    for _ in range(2):
        with ThreadPool(2) as pool:
            assert pool.map(square, range(4), chunksize=2) == [0, 1, 4, 9]
            assert pool.starmap(square, [(5,)]) == [25]
        killed()
    assert sorted(calls) == [0, 1, 2, 3, 5]


def test_pools_of_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # else it has a thread, which goes on
    for _ in range(2):
        assert tqdm.contrib.concurrent.thread_map(square, range(3), disable=True) == [0, 1, 4]
        parallel = joblib.Parallel(n_jobs=2, prefer="threads")
        assert parallel(joblib.delayed(square)(number) for number in range(10, 13)) == [100, 121, 144]
        killed()
    assert sorted(calls) == [0, 1, 2, 10, 11, 12]


def test_what_the_program_wants_of_a_task_is_done_each_time(tmp_path: Path) -> None:
    seen: list[Any] = []
    for _ in range(2):
        with ThreadPoolExecutor(1, checkpoint=tmp_path / "own.jsonl") as pool:
            settled = pool.with_options(settle=lambda outcome: seen.append(outcome.result) or -1)  # type: ignore[func-returns-value]
            assert settled.submit(square, 2).result() == -1
            assert pool.with_options(key="mine").submit(square, 3).result() == 9
        killed()
    assert seen == [4, 4]
    assert calls == [2, 3, 3]  # with a key of the program's own, the program decides
    assert list(load_checkpoint(tmp_path / "own.jsonl")) == ["mine"]


def test_tasks_of_a_task_that_the_program_saves_run_with_it(tmp_path: Path) -> None:
    def outer() -> int:
        with ThreadPoolExecutor(1) as pool:
            return int(pool.submit(square, 3).result())

    for _ in range(2):
        with ThreadPoolExecutor(1, checkpoint=tmp_path / "own.jsonl") as pool:
            assert pool.with_options(key="mine").submit(outer).result() == 9
    assert calls == [3, 3]
    assert _program_run._run is None


def test_a_task_in_a_process_of_its_own_is_saved() -> None:
    for _ in range(2):
        with ThreadPoolExecutor(1, isolate="process") as pool:
            assert pool.submit(pow_of, 2, 5).result() == 32
        killed()
    assert sum(record.status == "started" for record in iter_records(JOURNAL)) == 1


def pow_of(number: int, power: int) -> int:
    return int(number**power)


def test_a_result_that_would_come_back_as_another_is_named_once_and_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    def work(number: int) -> Any:
        calls.append(number)
        return {"a": [range(number)]}

    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            assert list(pool.map(work, range(2))) == [{"a": [range(number)]} for number in range(2)]
        killed()
    assert calls == [0, 1, 0, 1]
    told = [line for line in warnings(caplog) if "cannot be saved: result['a'][0] is range" in line]
    assert len(told) == 2  # once in each run
    assert [status for _, status in statuses()] == ["unsaved", "unsaved"]


def test_that_nothing_was_returned_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def work(number: int) -> None:
        calls.append(number)

    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            list(pool.map(work, range(3)))
        killed()
    assert len(calls) == 3
    assert sum("had returned None" in line for line in warnings(caplog)) == 1


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: (os.getcwd,), "the tasks of getcwd are not saved: it is not written in Python"),
        (lambda: (functools.reduce, max, [1, 2]), "it is not written in Python"),
        (lambda: (os.path.join, "a", "b"), "it is a library's"),
        (lambda: (Agent.ask, threading.Lock()), "no argument tells its calls apart (self is _thread.lock)"),
    ],
)
def test_tasks_that_are_not_saved_are_named(call: Any, told: str, caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            pool.submit(*call()).exception()
    assert sum(told in line for line in warnings(caplog)) == 1
    assert _program_run._run is not None
    assert statuses() == []


def test_an_argument_that_is_left_out_is_named(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    import sqlite3

    def ask(connection: Any, question: str) -> str:
        return question

    connection = sqlite3.connect(tmp_path / "a.db", check_same_thread=False)
    with ThreadPoolExecutor(1) as pool:
        assert list(pool.map(ask, [connection] * 3, "abc")) == ["a", "b", "c"]
    connection.close()
    told = [line for line in warnings(caplog) if "without regard to connection, which is sqlite3.Connection" in line]
    assert len(told) == 1


def test_that_nothing_saved_was_asked_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(square, 1).result()
    killed()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(square, 2).result()
    _program_run.end()
    assert any("none of the 1 saved results" in line for line in warnings(caplog))


def test_a_second_process_with_the_same_command_is_refused() -> None:
    other = RunLock(str(JOURNAL.absolute()))
    assert other.acquire() is None
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(CheckpointInUse, match=rf"run\.tasks\.jsonl is in use by process {os.getpid()} .* start this one with save=off"):
            pool.submit(square, 1)
        other.release()
        assert pool.submit(square, 2).result() == 4


def test_other_arguments_are_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["runner.py", "--api-key", "sesame"])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(square, 1).result()
    (journal,) = Path().glob("run.tasks-*.jsonl")
    assert "sesame" not in journal.name + journal.read_text()


def test_it_is_off_by_default_and_then_nothing_is_loaded_or_written() -> None:
    threadsafe_timeout.install()
    with ThreadPoolExecutor(1) as pool:
        assert not pool._prepares
        pool.submit(square, 1).result()
    assert _program_run._run is None
    assert os.listdir() == []


def test_a_pool_that_asyncio_has_made_is_left_alone() -> None:
    import asyncio

    async def main() -> int:
        return await asyncio.to_thread(square, 3)

    assert asyncio.run(main()) == 9
    assert _program_run._run is None


def test_settings() -> None:
    with pytest.raises(SettingError, match="save: must be one of tasks, off, got 'task'; did you mean 'tasks'"):
        threadsafe_timeout.install(save="task")
    with pytest.raises(SettingError, match="save: tasks cannot be saved, as the setting checkpoint is off"):
        threadsafe_timeout.install(save="tasks", checkpoint="off")
    Path("file").touch()
    with pytest.raises(SettingError, match="cannot be written"):
        threadsafe_timeout.install(save="tasks", checkpoint="file/run.jsonl")
    threadsafe_timeout.install(save="tasks", patches="-legacy_runner")
    assert examine()["settings"]["checkpoint"]["value"] is not None
