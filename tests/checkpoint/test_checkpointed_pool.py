"""`@checkpointed` functions that do not end in time: what their journal says, and when."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blocked import LONG, expire

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor, deadline, move_on_after, patched, sleep
from threadsafe_timeout.checkpoint import RecordedError, checkpointed, iter_records, load_checkpoint


@pytest.fixture
def gate() -> Iterator[threading.Lock]:
    """What stuck tasks wait for, in C; let go at the end."""
    lock = threading.Lock()
    lock.acquire()
    yield lock
    lock.release()


def statuses(path: Path) -> dict[Any, str]:
    return {key: record.status for key, record in load_checkpoint(path).items()}


def waits() -> None:
    expire()
    sleep(LONG)


def computes() -> None:
    expire()
    while True:
        sum(range(10))


def swallows() -> None:
    expire()
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            sleep(1)
        except:  # noqa: E722
            pass


@pytest.mark.parametrize("work", [waits, computes, swallows])
@pytest.mark.parametrize("wrap", ["plain", "lambda", "partial"])
def test_a_timeout_in_a_pool_is_saved_before_the_future_is_done(path_of: Callable[[], Path], work: Any, wrap: str) -> None:
    path = path_of()

    @checkpointed(path, key=lambda name: name)
    def run(name: str) -> str:
        if name == "late":
            work()
        return name

    function: Any = {"plain": run, "lambda": lambda name: run(name) + "", "partial": functools.partial(run)}[wrap]
    with ThreadPoolExecutor(2, task_timeout=LONG, grace=LONG) as pool:
        late = pool.submit(function, "late")
        assert pool.submit(function, "good").result(120) == "good"
        with pytest.raises(DeadlineExceeded):
            late.result(120)
        assert statuses(path)["late"] == "timeout"
    assert pool.stats()["abandoned"] == 0, "it had to be given up"
    run.close()
    assert statuses(path) == {"late": "timeout", "good": "done"}
    error = load_checkpoint(path)["late"].result
    assert error.class_name.endswith("DeadlineExceeded")
    assert "timed out" in error.message


@pytest.fixture
def path_of(tmp_path: Path) -> Callable[[], Path]:
    return lambda: tmp_path / "run.jsonl"


def test_a_task_that_is_given_up_is_saved_and_its_late_result_is_not(
    tmp_path: Path, gate: threading.Lock, caplog: pytest.LogCaptureFixture
) -> None:
    path, ended = tmp_path / "run.jsonl", threading.Event()

    class Runner:
        @checkpointed(path, key=lambda self, name: name)
        def acquire(self, name: str) -> str:  # no interrupt strikes in a function of that name, on the way to the wait
            expire()
            with gate:
                return name

    with caplog.at_level(logging.WARNING, "threadsafe_timeout"), ThreadPoolExecutor(1, task_timeout=LONG, grace=0.02) as pool:
        pool.on_event(lambda event: ended.set() if event.kind == "late" else None)
        stuck = pool.submit(Runner().acquire, "stuck")
        with pytest.raises(DeadlineExceeded):
            stuck.result(120)
        assert statuses(path) == {"stuck": "timeout"}
        gate.release()
        assert ended.wait(120)
        gate.acquire()
    vars(Runner)["acquire"].close()
    assert statuses(path) == {"stuck": "timeout"}
    assert load_checkpoint(path)["stuck"].attempt == 1


def test_a_timed_out_call_runs_again_when_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    calls = []

    def make(retry: Any, work: Callable[[], object]) -> Any:
        def run(name: str) -> str:
            calls.append(name)
            work()
            return "late, but here"

        return checkpointed(path, key=lambda name: name, retry=retry)(run)

    first, kept, again = make(None, waits), make((), print), make(None, print)
    with move_on_after(LONG) as scope:
        first("a")
    assert scope.cancelled_caught
    first.close()
    assert statuses(path) == {"a": "timeout"}
    with pytest.raises(RecordedError, match="timed out"):
        kept("a")
    kept.close()
    assert again("a") == "late, but here"
    again.close()
    assert calls == ["a", "a"]
    assert statuses(path) == {"a": "done"}


def test_every_way_to_be_cancelled_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"

    @checkpointed(path, key=lambda name, _work: name)
    def run(name: str, work: Callable[[], object]) -> None:
        work()

    with pytest.raises(DeadlineExceeded), deadline(LONG):
        run("a deadline around", waits)
    with move_on_after(LONG) as scope:
        run("cancelled by somebody", lambda: (scope.cancel("enough"), sleep(LONG)))
    with patched(), pytest.raises(DeadlineExceeded), deadline(LONG):
        run("in a patched wait", lambda: (expire(), time.sleep(LONG)))
    with ThreadPoolExecutor(1) as pool:
        started = threading.Event()
        future = pool.submit(run, "its future's cancel()", lambda: (started.set(), sleep(LONG)))
        assert started.wait(120)
        assert not future.cancel()
        with pytest.raises(DeadlineExceeded):
            future.result(120)
        with pytest.raises(DeadlineExceeded):
            pool.with_options(timeout=LONG).submit(run, "a timeout of its own", waits).result(120)
    run.close()
    found = statuses(path)
    assert len(found) == 5
    assert set(found.values()) == {"timeout"}
    assert "enough" in load_checkpoint(path)["cancelled by somebody"].result.message


def test_one_outcome_is_saved_when_the_end_and_the_abandonment_race(tmp_path: Path) -> None:
    path, count = tmp_path / "run.jsonl", 200

    lock = threading.Lock()
    lock.acquire()

    @checkpointed(path, key=lambda number: number, mode="fast")
    def blocks(number: int) -> int:
        lock.acquire(timeout=0.011)
        return number

    assert blocks.writer.path  # opened before the clock runs
    with ThreadPoolExecutor(16, task_timeout=0.005, grace=0.003, max_abandoned=1000) as pool:
        futures = [pool.submit(blocks, number) for number in range(count)]
        ended = [future.exception(120) for future in futures]
        threads = [worker.thread for worker in list(pool._crew.abandoned)]
    for thread in threads:
        thread.join(120)
    blocks.close()
    events: dict[int, list[str]] = {}
    for record in iter_records(path):
        events.setdefault(int(record.key), []).append(record.status)
    # (One whose time is up before it begins, on a busy machine, has none.)
    assert {tuple(sorted(kinds)) for kinds in events.values()} <= {("done", "started"), ("started", "timeout")}
    for number, error in enumerate(ended):
        if error is None:
            assert load_checkpoint(path)[number].status == "done"


@pytest.mark.parametrize("wrong", [lambda: None, 5, None])
def test_without_its_path_the_decorator_says_so(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"@checkpointed\('results.jsonl'\)"):
        checkpointed(wrong)
