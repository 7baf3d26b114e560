"""`AsyncPool`: its futures, the deadlines of its tasks, and its settings."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sys
import time

import pytest
from quick import double, fail
from stubborn import Stubborn

import threadsafe_timeout
from threadsafe_timeout import (
    AsyncPool,
    CancelSource,
    DeadlineExceeded,
    current_deadline,
)

pytestmark = pytest.mark.usefixtures("nothing_set")


def test_a_task_is_a_standard_future_that_can_be_awaited():
    async def main():
        async with AsyncPool(2) as pool:
            task = pool.submit(double, 2)
            assert isinstance(task, concurrent.futures.Future)
            with pytest.raises(asyncio.InvalidStateError, match="await"):
                task.result()
            assert await task == 4
            assert await task == 4  # as often as one likes
            assert task.result() == 4
            assert task.exception() is None
            failed = pool.submit(fail, 3)
            with pytest.raises(ValueError, match="3"):
                await failed
            assert isinstance(failed.exception(), ValueError)

    asyncio.run(main())


def test_threads_and_other_loops_wait_for_it():
    async def main():
        async with AsyncPool(2) as pool:
            gate = asyncio.Event()

            async def wait():
                await gate.wait()
                return "open"

            task = pool.submit(wait)

            async def elsewhere():
                return await task

            waiting = [asyncio.to_thread(task.result), asyncio.to_thread(asyncio.run, elsewhere())]
            both = asyncio.gather(*waiting)
            await asyncio.sleep(0)
            gate.set()
            assert await both == ["open", "open"]

    asyncio.run(main())


def test_asyncios_own_functions_take_it():
    async def main():
        async with AsyncPool(2) as pool:
            assert await asyncio.gather(*(pool.submit(double, number) for number in range(5))) == [0, 2, 4, 6, 8]
            assert await asyncio.wait_for(pool.submit(double, 1), 300) == 2
            assert await asyncio.shield(pool.submit(double, 1)) == 2
            done, pending = await asyncio.wait([asyncio.ensure_future(pool.submit(double, 1))])
            assert [task.result() for task in done] == [2]
            assert not pending
            async with asyncio.TaskGroup() as group:
                inside = group.create_task(asyncio.wait_for(pool.submit(double, 4), 300))
            assert inside.result() == 8

    asyncio.run(main())


def test_no_more_than_the_limit_run_at_a_time():
    async def main():
        at_work, most = 0, 0

        async def work(number):
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0)
            at_work -= 1
            return number

        async with AsyncPool(3) as pool:
            assert [result async for result in pool.map(work, range(20))] == list(range(20))
            stats = pool.stats()
        assert most == 3
        assert (stats["workers"], stats["idle"], stats["completed"]) == (3, 3, 20)

    asyncio.run(main())


def test_map_submits_no_further_ahead_than_its_buffer_and_cancels_what_is_pending():
    async def main():
        taken = []

        def inputs():
            for number in range(100):
                taken.append(number)
                yield number

        async with AsyncPool(1) as pool:
            results = pool.map(double, inputs(), buffersize=3)
            async for result in results:
                assert result == 0
                break
            assert len(taken) <= 5
            await results.aclose()
        stats = pool.stats()
        assert stats["completed"] + stats["cancelled"] == stats["submitted"] == len(taken)
        assert stats["cancelled"]

    asyncio.run(main())


def test_as_completed_and_gather():
    async def main():
        async with AsyncPool(5) as pool:
            never = pool.submit(asyncio.Event().wait)
            tasks = [pool.submit(double, number) for number in range(3)]
            assert {task.result() async for task in pool.as_completed(tasks)} == {0, 2, 4}
            with pytest.raises(TimeoutError):
                async for _ in pool.as_completed([never], timeout=0.01):
                    pass
            assert await pool.gather(*tasks) == [0, 2, 4]
            mixed = await pool.gather(pool.submit(double, 1), pool.submit(fail, 1), return_exceptions=True)
            assert mixed[0] == 2
            assert isinstance(mixed[1], ValueError)
            with pytest.raises(ValueError, match="7"):
                await pool.gather(never, pool.submit(fail, 7))
            assert not never.cancel()

    asyncio.run(main())


def test_a_deadline_starts_with_the_task():
    async def main():
        async with AsyncPool(1, task_timeout=100) as pool:
            gate = asyncio.Event()
            first = pool.submit(gate.wait)

            async def ends():
                return current_deadline()

            second = pool.submit(ends)
            await asyncio.sleep(0.01)
            opened = time.monotonic()
            gate.set()
            await first
            assert await second >= opened + 100

    asyncio.run(main())


def test_deadline_token_and_timeout_of_one_task():
    async def main():
        source = CancelSource()
        async with AsyncPool(1, grace=60) as pool:
            running = pool.with_options(token=source.token).submit(asyncio.Event().wait)
            late = pool.with_options(deadline=asyncio.get_running_loop().time()).submit(double, 1)
            unlucky = pool.with_options(token=source.token).submit(double, 1)
            with pytest.raises(DeadlineExceeded, match="never started"):
                await late
            source.cancel("enough")
            with pytest.raises(asyncio.CancelledError):
                await unlucky
            with pytest.raises(DeadlineExceeded, match="enough"):
                await running
            with pytest.raises(DeadlineExceeded) as caught:
                await pool.with_options(timeout=0.01).submit(asyncio.Event().wait)
            assert caught.value.budget == 0.01

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
def test_eager_tasks():
    async def at_once(number):
        return number

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with AsyncPool(2, task_timeout=300) as pool:
            assert pool.submit(at_once, 1).done()
            gates = [asyncio.Event() for _ in range(2)]
            held = [pool.submit(gate.wait) for gate in gates]
            many = [pool.submit(at_once, number) for number in range(5000)]  # they end one inside the other
            for gate in gates:
                gate.set()
            assert await pool.gather(*many) == list(range(5000))
            assert await pool.gather(*held) == [True, True]
            with pytest.raises(DeadlineExceeded):
                await pool.with_options(timeout=0.01).submit(asyncio.Event().wait)
            assert pool.submit(at_once, 1).result() == 1
        assert pool.stats()["running"] == 0

    asyncio.run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_uvloop():
    import uvloop

    async def main():
        async with AsyncPool(2, task_timeout=0.05, grace=0.05) as pool:
            assert await pool.with_options(timeout=300).submit(double, 1) == 2
            mule = Stubborn()
            with pytest.raises(DeadlineExceeded):
                await pool.submit(mule)
            assert pool.stats()["abandoned"] == 1
            mule.let_go.set()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_bad_input():
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="limit"):
            AsyncPool(wrong)
    with pytest.raises(TypeError, match="limit"):
        AsyncPool("3")
    with pytest.raises(ValueError, match="task_timeout"):
        AsyncPool(1, task_timeout=-1)
    with pytest.raises(TypeError, match="name"):
        AsyncPool(1, name=1)

    async def main():
        pool = AsyncPool(1)
        with pytest.raises(RuntimeError, match="async with"):
            pool.submit(double, 1)
        async with pool:
            with pytest.raises(TypeError, match=r"submit\(f, x\)"):
                pool.submit(double(1))
            with pytest.raises(TypeError, match="int returned int"):
                await pool.submit(int, 3)
            with pytest.raises(ValueError, match="key"):
                pool.with_options(key="a")
            with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
                await asyncio.to_thread(pool.submit, double, 1)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(double, 1)
        with pytest.raises(RuntimeError, match="entered before"):
            await pool.__aenter__()

    asyncio.run(main())


def test_the_settings_are_its_defaults():
    async def main():
        async with AsyncPool(1) as pool:
            with pytest.raises(DeadlineExceeded) as caught:
                await pool.submit(asyncio.Event().wait)
            assert caught.value.budget == 0.05

    with threadsafe_timeout.patched(task_timeout=0.05, grace=60):
        asyncio.run(main())


def test_a_timeout_has_one_log_line(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, logger="threadsafe_timeout")

    async def main():
        async with AsyncPool(1, task_timeout=0.01, grace=60, name="p") as pool:
            with pytest.raises(DeadlineExceeded):
                await pool.submit(asyncio.Event().wait)
        assert pool._crew.events.flush(120)

    asyncio.run(main())
    # "blocked" too, if something else kept the loop from running.
    assert [record.event for record in caplog.records if record.event != "blocked"] == ["timed_out"]
