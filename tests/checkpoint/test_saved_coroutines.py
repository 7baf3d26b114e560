"""`save="tasks"` for the tasks of an `AsyncPool`: they are known, saved and brought back as those of threads are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from blocked import LONG, expire
from saved_tasks import JOURNAL, killed, statuses

import threadsafe_timeout
from threadsafe_timeout import AsyncPool, DeadlineExceeded, ThreadPoolExecutor
from threadsafe_timeout.checkpoint import CheckpointInUse, _program_run, load_checkpoint
from threadsafe_timeout.checkpoint._lock import RunLock

calls: list[Any] = []


@pytest.fixture(autouse=True)
def run(nothing_set: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sys.argv", ["runner.py"])
    calls.clear()
    threadsafe_timeout.install(save="tasks", checkpoint="run.jsonl", grace=0.05)
    yield
    _program_run.end()  # before its folder is gone


async def square(number: int) -> int:
    calls.append(number)
    await asyncio.sleep(0)
    return number * number


def squares(*numbers: int) -> list[int]:
    async def main() -> list[int]:
        async with AsyncPool(2) as pool:
            return [result async for result in pool.map(square, numbers)]

    return asyncio.run(main())


def test_finished_tasks_are_not_run_again_after_a_kill() -> None:
    assert squares(0, 1, 2, 3, 3) == [0, 1, 4, 9, 9]
    killed()
    assert squares(0, 1, 2, 3, 3, 4) == [0, 1, 4, 9, 9, 16]
    assert sorted(calls) == [0, 1, 2, 3, 3, 4]


def test_a_result_is_saved_before_its_task_is_done_and_the_loop_goes_on_meanwhile() -> None:
    async def main() -> None:
        async with AsyncPool(1) as pool:
            task = pool.with_options(name="three").submit(square, 3)
            while not task.done():
                await asyncio.sleep(0)
            assert statuses() == [("square", "done")]
            assert task.result() == 9

    asyncio.run(main())


def test_what_failed_was_too_slow_or_was_cancelled_runs_again() -> None:
    async def ends(how: str) -> str:
        calls.append(how)
        if how == "fails":
            raise ValueError(how)
        if how == "hangs":
            await asyncio.Event().wait()
        if how == "is cancelled":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(300)
        return how

    hows = ("fails", "hangs", "is cancelled", "returns")

    async def main() -> list[Any]:
        async with AsyncPool(4) as pool:
            hurried = pool.with_options(timeout=0.01)
            tasks = [(hurried if how == "hangs" else pool).submit(ends, how) for how in hows]
            return await pool.gather(*tasks, return_exceptions=True)

    for _ in range(2):
        found = asyncio.run(main())
        assert [type(one) for one in found] == [ValueError, DeadlineExceeded, asyncio.CancelledError, str]
        killed()
    # (One that hangs may be too late before it is called.)
    assert [calls.count(how) for how in ("fails", "is cancelled", "returns")] == [2, 2, 1]
    assert {"done", "failed", "started"} <= {status for _, status in statuses()}  # cancelled: as if it still ran


def test_tasks_within_a_task_are_numbered_within_it() -> None:
    async def outer(name: str) -> int:
        calls.append(name)
        async with AsyncPool(2) as pool:
            return sum([result async for result in pool.map(square, (2, 2))])

    async def main() -> list[int]:
        async with AsyncPool(2) as pool:
            return [result async for result in pool.map(outer, ("a", "b"))]

    assert asyncio.run(main()) == [8, 8]
    assert len(load_checkpoint(JOURNAL)) == 6
    killed()
    assert asyncio.run(main()) == [8, 8]
    assert len(calls) == 6


def test_a_thread_and_a_coroutine_share_the_journal() -> None:
    def half(number: int) -> int:
        calls.append(number)
        return number // 2

    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(half, 8).result() == 4
        assert squares(5) == [25]
        killed()
    assert calls == [8, 5]


def test_a_second_process_with_the_same_command_is_refused() -> None:
    lock = RunLock(str(JOURNAL.absolute()))
    assert lock.acquire() is None
    try:
        with pytest.raises(CheckpointInUse):
            squares(1)
    finally:
        lock.release()


def test_a_wrong_submit_opens_no_journal() -> None:
    async def main() -> None:
        pool = AsyncPool(1)
        with pytest.raises(RuntimeError, match="not entered"):
            pool.submit(square, 1)

    asyncio.run(main())
    assert not JOURNAL.exists(), JOURNAL.read_text()


def test_a_task_with_a_key_is_the_programs() -> None:
    async def main() -> None:
        async with AsyncPool(1, checkpoint="own.jsonl") as pool:
            await pool.with_options(key="a").submit(square, 2)

    asyncio.run(main())
    assert list(load_checkpoint("own.jsonl")) == ["a"]
    assert not JOURNAL.exists()


def test_an_abandoned_one_is_saved_as_a_timeout() -> None:
    let_go = threading.Event()

    async def stubborn() -> None:
        expire()
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

    async def main() -> None:
        async with AsyncPool(1, task_timeout=LONG) as pool:
            bound = pool.submit(stubborn_of, "a")
            with pytest.raises(DeadlineExceeded):
                await bound
            let_go.set()
            while pool.stats()["abandoned_alive"]:
                await asyncio.sleep(0.001)

    async def stubborn_of(_name: str) -> None:
        await stubborn()

    asyncio.run(main())
    assert [status for _, status in statuses()] == ["timeout"]
