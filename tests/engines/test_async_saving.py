"""Coroutines whose outcome is on disk: tasks of an `AsyncPool` with keys, and `@checkpointed` on an `async def`."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from asleep import ON_PATH

from threadsafe_timeout import (
    AsyncPool,
    CancelScope,
    CancelSource,
    CheckpointWriter,
    DeadlineExceeded,
    checkpointed,
    deadline,
    load_checkpoint,
    time_remaining,
)
from threadsafe_timeout.checkpoint import open_run

pytestmark = pytest.mark.usefixtures("nothing_set")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


async def double(number: int) -> int:
    await asyncio.sleep(0)
    if number == 3:
        raise ValueError("three")
    if number == 4:
        began.append(number)
        await asyncio.Event().wait()
    return 2 * number


began: list[int] = []  # the stuck ones that have begun: a deadline in seconds could pass before that


@pytest.fixture(autouse=True)
def none_began() -> None:
    began.clear()


async def all_began(count: int) -> None:
    while len(began) < count:
        await asyncio.sleep(0.01)


async def swallow() -> None:
    began.append(5)
    stuck = asyncio.Event()
    asyncio.get_running_loop().call_later(300, stuck.set)
    while not stuck.is_set():
        try:
            await stuck.wait()
        except asyncio.CancelledError:
            pass


def test_every_outcome_is_on_disk_before_its_future_is_done(path: Path):
    async def main():
        async with AsyncPool(3, checkpoint=path, task_timeout=300, grace=0.05) as pool:
            keyed = pool.with_options(key=lambda number: f"task {number}")
            tasks = {number: keyed.submit(double, number) for number in range(4)}
            await pool.gather(*tasks.values(), return_exceptions=True)
            source = CancelSource()
            tasks[4] = pool.with_options(key="task 4", token=source.token).submit(double, 4)
            tasks[5] = pool.with_options(key="task 5", token=source.token).submit(swallow)
            await all_began(2)
            source.cancel("enough")
            async for task in pool.as_completed(tasks.values()):
                number = next(number for number, one in tasks.items() if one is task)
                assert load_checkpoint(path)[f"task {number}"].status != "started"
        return tasks

    tasks = asyncio.run(main())
    records = load_checkpoint(path)
    expected = {0: "done", 1: "done", 2: "done", 3: "failed", 4: "timeout", 5: "timeout"}
    assert {number: records[f"task {number}"].status for number in tasks} == expected
    assert records["task 2"].result == 4
    assert records["task 4"].where[2] == "double"


def test_a_killed_run_is_resumed(path: Path):
    program = (
        "import asyncio, sys\n"
        "from test_async_saving import killed_run\n"
        "asyncio.run(killed_run(sys.argv[1]))\n"
    )  # fmt: skip
    environment = {**os.environ, **ON_PATH, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "two are done\n"
        child.send_signal(signal.SIGKILL)
    writer, finished = open_run(path)
    assert {key: record.result for key, record in finished.items()} == {"0": 0, "1": 2}

    async def main():
        async with AsyncPool(3, checkpoint=writer) as pool:
            keyed = pool.with_options(key=str)
            tasks = [keyed.submit(double, number) for number in range(3) if str(number) not in finished]
            assert await pool.gather(*tasks) == [4]

    asyncio.run(main())
    writer.close(ended=True)
    records = load_checkpoint(path)
    assert [records[key].attempt for key in ("0", "1", "2")] == [1, 1, 1]


async def killed_run(path: str) -> None:
    async with AsyncPool(3, checkpoint=path) as pool:
        keyed = pool.with_options(key=str)
        await pool.gather(*(keyed.submit(double, number) for number in range(2)))
        hanging = keyed.submit(double, 4)
        print("two are done", flush=True)  # noqa: T201
        await hanging


def test_settle_runs_in_a_thread_outside_every_scope():
    async def main():
        seen = []

        def settle(outcome):
            seen.append((threading.get_ident(), time_remaining()))
            if outcome.error is not None:
                raise KeyError("settled")
            return outcome.result + 1

        async with AsyncPool(2, task_timeout=300) as pool:
            with deadline(300):
                assert await pool.with_options(settle=settle).submit(double, 1) == 3
            with pytest.raises(KeyError, match="settled"):
                await pool.with_options(settle=settle).submit(double, 3)
        assert [left for _, left in seen] == [math.inf, math.inf]
        assert threading.get_ident() not in {ident for ident, _ in seen}

    asyncio.run(main())


def test_the_loop_does_not_wait_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch):
    async def main():
        gate, saving = threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        save = CheckpointWriter.save

        def slow(*args, **kwargs):
            loop.call_soon_threadsafe(saving.set)
            assert gate.wait(120)
            return save(*args, **kwargs)

        monkeypatch.setattr(CheckpointWriter, "save", slow)
        async with AsyncPool(2, checkpoint=path) as pool:
            task = pool.with_options(key="a").submit(double, 1)
            await saving.wait()
            assert await pool.submit(double, 2) == 4
            assert not task.done()
            gate.set()
            assert await task == 2

    asyncio.run(main())


def test_checkpointed_on_async_def(path: Path):
    calls = []

    @checkpointed(path, key=str)
    async def work(number: int) -> int:
        calls.append(number)
        return await double(number)

    async def main():
        assert await asyncio.gather(*(work(number) for number in range(3))) == [0, 2, 4]
        with pytest.raises(ValueError, match="three"):
            await work(3)
        with CancelScope() as scope:
            running = asyncio.ensure_future(work(4))
            await all_began(1)
            scope.cancel("enough")
            await running
        assert scope.cancelled_caught

    try:
        asyncio.run(main())
        assert {key: record.status for key, record in load_checkpoint(path).items()} == {
            "0": "done", "1": "done", "2": "done", "3": "failed", "4": "timeout",
        }  # fmt: skip
        assert sorted(calls) == [0, 1, 2, 3, 4]
        work.close(ended=False)
        assert asyncio.run(work(2)) == 4
        assert sorted(calls) == [0, 1, 2, 3, 4]
        if sys.version_info >= (3, 12):
            assert inspect.iscoroutinefunction(work)
    finally:
        work.close()


def test_a_cancelled_checkpointed_call(path: Path):
    """One that asyncio cancels is not saved; one that was saved when the cancellation came is."""
    began = asyncio.Event()

    @checkpointed(path, key=str)
    async def work(wait: bool) -> str:
        began.set()
        if wait:
            await asyncio.Event().wait()
        return "result"

    async def main():
        running = asyncio.create_task(work(True))
        await began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        began.clear()
        saving = asyncio.create_task(work(False))
        await began.wait()
        for _ in range(3):
            saving.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await saving

    try:
        asyncio.run(main())
        assert {key: record.status for key, record in load_checkpoint(path).items()} == {
            "True": "started", "False": "done",
        }  # fmt: skip
    finally:
        work.close()


def test_a_checkpointed_call_of_an_abandoned_task_is_saved_as_a_timeout(path: Path):
    @checkpointed(path, key=lambda: "mule")
    async def work() -> None:
        await swallow()

    async def main():
        async with AsyncPool(1, grace=0.02) as pool:
            task = pool.submit(work)
            await all_began(1)
            task.cancel()
            with pytest.raises(DeadlineExceeded):
                await task
            assert load_checkpoint(path)["mule"].status == "timeout"

    try:
        asyncio.run(main())
    finally:
        work.close()
