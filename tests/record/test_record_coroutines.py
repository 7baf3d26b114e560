"""What a run with an `AsyncPool` writes: its tasks, what they await, and how its counts add up."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conditions import until
from runs import events, folders, of_kind, run, status

from threadsafe_timeout import AsyncPool
from threadsafe_timeout._pool import observer
from threadsafe_timeout._record import holder
from threadsafe_timeout._record.doing import Watching
from threadsafe_timeout._record.dump import _report
from threadsafe_timeout._record.snapshot import worker_lines

ENDED = ("done", "failed", "timed_out", "cancelled")
BEGIN = """
import asyncio
from threadsafe_timeout import AsyncPool

async def until_async(found):
    while not found():
        await asyncio.sleep(0.01)
"""


def run_async(folder: Path, program: str) -> Path:
    run(folder, BEGIN + program)
    [found] = folders(folder)
    return found


def test_each_task_has_a_line_and_the_counts_add_up(tmp_path: Path) -> None:
    folder = run_async(
        tmp_path,
        """
async def ask(number):
    if number == 3:
        raise ValueError("no such case")
    if number == 4:
        await asyncio.Event().wait()
    if number == 5:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
    await asyncio.sleep(0)
    return number

async def main():
    async with AsyncPool(3, task_timeout=0.05, grace=0.05, name="batch") as pool:
        ends = pool.with_options(timeout=300)
        tasks = [(pool if number > 3 else ends).submit(ask, number) for number in range(6)]
        pending = [ends.submit(ask, 0), ends.submit(ask, 0)]
        pending[1].cancel()
        await pool.gather(*tasks, pending[0], return_exceptions=True)

asyncio.run(main())
""",
    )
    lines = of_kind(folder, "task")
    assert {(line["task"], line["outcome"]) for line in lines} == {
        ("ask(0)", "done"), ("ask(1)", "done"), ("ask(2)", "done"), ("ask(3)", "failed"), ("ask(4)", "timeout"),
        ("ask(5)", "abandoned"),
    }  # fmt: skip
    assert {line["worker"] for line in lines} <= {f"batch_{number}" for number in range(4)}  # one was given up
    assert {line["where"][2] for line in lines if "where" in line} == {"ask"}
    assert {"overdue", "timed_out", "interrupting", "abandoned"} <= {line["kind"] for line in events(folder)}
    [pool] = of_kind(folder, "pool")
    assert (pool["pool"], pool["width"]) == ("batch", 3)
    totals = status(folder)["totals"]
    assert (totals["done"], totals["failed"], totals["timed_out"], totals["cancelled"]) == (4, 1, 2, 1)
    assert sum(totals[name] for name in ENDED) == totals["submitted"] == 8
    assert totals["abandoned"] == 1


def test_the_thread_sleeps_while_nothing_runs_and_wakes_for_the_next_task(tmp_path: Path) -> None:
    folder = run_async(
        tmp_path,
        """
from threadsafe_timeout._record import recording
notes = recording._recording._notes

async def main():
    async with AsyncPool(2) as pool:
        await pool.submit(asyncio.sleep, 0)
        await until_async(lambda: notes.asleep)
        gate = asyncio.Event()
        task = pool.submit(gate.wait)
        await until_async(lambda: status()["totals"]["running"] == 1)
        gate.set()
        await task
        await until_async(lambda: notes.asleep)
        assert status()["totals"]["done"] == 2

asyncio.run(main())
""",
    )
    assert status(folder)["totals"]["done"] == 2


def test_saved_tasks_say_so_and_the_threads_that_save_are_not_told_of(tmp_path: Path) -> None:
    folder = run_async(
        tmp_path,
        """
async def main():
    async with AsyncPool(2, checkpoint="tasks.jsonl", name="batch") as pool:
        keyed = pool.with_options(key=lambda seconds: f"case {seconds}")
        await pool.gather(*(keyed.submit(asyncio.sleep, seconds) for seconds in (0, 0.001)))

asyncio.run(main())
""",
    )
    assert {(line["key"], line["saved"]) for line in of_kind(folder, "task")} == {("case 0", True), ("case 0.001", True)}
    assert [pool["pool"] for pool in status(folder)["pools"]] == ["batch"]
    assert status(folder)["totals"]["saved"] == 2
    assert events(folder)[0]["journal"] == str(tmp_path / "tasks.jsonl")


def test_tasks_that_come_too_fast_are_counted(tmp_path: Path) -> None:
    folder = run_async(
        tmp_path,
        """
from threadsafe_timeout._record import recording

async def main():
    async with AsyncPool(10) as pool:
        with recording._recording._work:  # between two looks, however long it takes
            await pool.gather(*(pool.submit(asyncio.sleep, 0) for _ in range(1000)))

asyncio.run(main())
""",
    )
    [pool] = status(folder)["pools"]
    assert pool["unlisted"] > 0
    assert len(of_kind(folder, "task")) + pool["unlisted"] == pool["completed"] == 1000


@pytest.mark.parametrize(
    "program",
    ["pass", "async with AsyncPool(2): pass", "async with asyncio.timeout(60): await asyncio.sleep(0)"],
    ids=["nothing", "a pool without a task", "no pool"],
)
def test_a_program_without_a_task_writes_nothing(tmp_path: Path, program: str) -> None:
    run(
        tmp_path,
        f"""
        {BEGIN.replace(chr(10), chr(10) + 8 * " ")}
        async def main():
            {program}
        asyncio.run(main())
        assert not [thread for thread in threading.enumerate() if "record" in thread.name]
        """,
    )
    assert [file.name for file in tmp_path.iterdir()] == ["program.py"]


# In this process, without files.


@asynccontextmanager
async def pool_with(*work: object) -> AsyncIterator[AsyncPool]:
    """A pool whose tasks are there, at what they await; cancelled in the end."""
    async with AsyncPool(10, task_timeout=300, name="batch") as pool:
        tasks = [pool.submit(one) for one in work]  # type: ignore[arg-type]
        while not all(task._scope._state for task in tasks):
            await asyncio.sleep(0)
        yield pool
        for task in tasks:
            task.cancel()


def test_what_a_coroutine_awaits_is_its_place_its_phase_and_its_stack() -> None:
    async def sleeps() -> None:
        await asyncio.sleep(300)

    async def deeper() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        await lock.acquire()

    async def locked() -> None:
        await deeper()

    async def awaits() -> None:
        await asyncio.get_running_loop().create_future()

    async def reads() -> None:
        here, there = socket.socketpair()
        with here, there:  # it may be cancelled before it reads
            reader, writer = await asyncio.open_connection(sock=here)
            try:
                await reader.read(1)
            finally:
                writer.close()

    async def main() -> None:
        async with pool_with(sleeps, locked, awaits, reads) as pool:
            until = time.monotonic() + 120
            while True:
                lines = {line["where"][2].rpartition(".")[2]: line for line in worker_lines(pool._crew, time.time())}
                phases = {name: line["phase"] for name, line in lines.items()}
                if phases == {"sleeps": "sleep", "deeper": "lock", "awaits": "await", "reads": "network"}:
                    break
                assert time.monotonic() < until, phases
                await asyncio.sleep(0.005)
            for line in lines.values():
                assert (line["pool"], line["state"]) == ("batch", "running")
                assert line["deadline_left"] <= 300
                assert line["elapsed"] >= line["idle"] >= 0
            report = await asyncio.to_thread(_report)
            [part] = [block for block in report.split("\n\n") if ".locked" in block.partition("\n")[0]]
            assert part.index("in test_what_a_coroutine_awaits") < part.index(".deeper") < part.index("locks.py")

    asyncio.run(main())


def test_a_coroutine_that_blocks_its_loop_is_where_the_thread_of_the_loop_is() -> None:
    inside, leave = threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        leave.wait()

    async def blocks() -> None:
        block()

    async def waits() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with pool_with(waits, blocks):
            pass

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert inside.wait(120)
        from threadsafe_timeout.engines._async_crew import crews

        [crew] = [one for one in crews if one.ident == thread.ident and one.running]

        def lines() -> dict[str, str]:
            return {line["where"][2].rpartition(".")[2]: line["phase"] for line in worker_lines(crew, time.time())}

        until(lambda: lines() == {"waits": "lock", "block": "lock"}, lines)  # it may be on its way to the wait
        suspect = holder._suspect(thread)  # if the interpreter had stood still
        assert suspect.name.endswith(".blocks #2")
        assert holder._events_of(suspect) is crew.events
        report = _report()
        [part] = [block for block in report.split("\n\n") if ".blocks" in block.partition("\n")[0]]
        assert ".blocks" in part
        assert ".block\n" in part
        assert "run_forever" not in part
    finally:
        leave.set()
        thread.join()


def test_an_llm_call_is_noted_of_the_coroutine_that_makes_it() -> None:
    class Call:
        attempts, known = 1, False

    one = Watching()
    found = {}

    async def ask() -> None:
        call = Call()
        one.llm_begins(call)  # as the patch of a client has it called
        call.attempts = 2
        await asyncio.Event().wait()

    async def other() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with pool_with(ask, other) as pool:
            for line in worker_lines(pool._crew, time.time()):
                found[line["where"][2].rpartition(".")[2]] = line["phase"]

    observer.attach(one)
    try:
        asyncio.run(main())
    finally:
        observer.detach(one)
    assert found == {"ask": "LLM call, attempt 2", "other": "lock"}
