"""`AsyncPool`: what cancels a task, a stubborn one, and a loop that is blocked."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from quick import double, fail
from stubborn import Stubborn

from threadsafe_timeout import (
    AsyncPool,
    CancelScope,
    DeadlineExceeded,
    PoolExhausted,
    deadline,
)

pytestmark = pytest.mark.usefixtures("nothing_set")


def test_a_coroutine_that_swallows_its_cancellation_is_abandoned_and_named():
    async def main():
        kinds = []
        stubborn = Stubborn()
        async with AsyncPool(1, task_timeout=0.05, grace=0.05, name="p") as pool:
            pool.on_event(lambda event: kinds.append((event.kind, event.task)))
            task = pool.with_options(name="mule").submit(stubborn)
            behind = pool.with_options(timeout=300).submit(double, 4)
            with pytest.raises(DeadlineExceeded) as caught:
                await task
            assert caught.value.where is not None
            assert caught.value.where[2] == "Stubborn.__call__"
            assert await behind == 8  # its slot is free
            assert stubborn.cancelled >= 2
            health = pool.health()
            assert [(one.state, one.task, one.where[2]) for one in health.workers] == [
                ("abandoned", "mule", "Stubborn.__call__")
            ]
            assert pool.stats()["abandoned_alive"] == 1
            stubborn.let_go.set()
            while pool.stats()["late"] == 0:
                await asyncio.sleep(0)
            assert isinstance(task.exception(), DeadlineExceeded)  # the late result is discarded
        assert pool._crew.events.flush(120)
        told = [kind for kind, name in kinds if name == "mule" and kind != "blocked"]  # that, a busy machine may be
        assert told == ["overdue", "interrupting", "abandoned", "late"]
        assert pool.stats()["abandoned_alive"] == 0

    asyncio.run(main())


def test_an_abandoned_coroutine_is_cancelled_again_and_again():
    async def main():
        stubborn = Stubborn()
        async with AsyncPool(1, task_timeout=0.01, grace=0.01) as pool:
            with pytest.raises(DeadlineExceeded):
                await pool.submit(stubborn)
            before = stubborn.cancelled
            while stubborn.cancelled < before + 2:
                await asyncio.sleep(0.01)
            stubborn.let_go.set()

    asyncio.run(main())


def test_the_number_of_abandoned_ones_is_bounded():
    async def main():
        mules = [Stubborn() for _ in range(2)]
        async with AsyncPool(2, task_timeout=0.05, grace=0.02, max_abandoned=1) as pool:
            stuck = [pool.submit(mule) for mule in mules]
            pending = [pool.with_options(timeout=300).submit(asyncio.Event().wait) for _ in range(3)]
            for task in stuck:
                with pytest.raises(DeadlineExceeded):
                    await task
            with pytest.raises(PoolExhausted, match="2 abandoned coroutines are alive and max_abandoned is 1") as caught:
                pool.submit(double, 1)
            assert [where[2] for _, where in caught.value.holders] == ["Stubborn.__call__"] * 2
            with pytest.raises(PoolExhausted):
                await pending[-1]
            for mule in mules:
                mule.let_go.set()
            while pool.stats()["abandoned_alive"]:
                await asyncio.sleep(0)
            for task in pending:  # those that have started in the meantime
                task.cancel()
            assert await pool.with_options(timeout=300).submit(double, 1) == 2

    asyncio.run(main())


def test_a_task_that_blocks_the_loop_is_named_before_its_deadline():
    async def main():
        told = threading.Event()
        seen = []

        def listen(event):
            if event.kind == "blocked" and event.task == "heavy":
                seen.append(event)
                if "told.wait(5)" in event.stack:
                    told.set()

        async def block():
            # Again, if a busy machine kept the loop from running just before: then that was told, and this is the same.
            while not told.is_set():
                await asyncio.sleep(0)
                told.wait(5)

        async with AsyncPool(1, grace=0.05) as pool:
            pool.on_event(listen)
            await pool.with_options(name="heavy").submit(block)
        assert told.is_set()
        assert {event.where[2].rpartition(".")[2] for event in seen} == {"block"}

    asyncio.run(main())


def test_without_tasks_the_watch_sleeps():
    async def main():
        async with AsyncPool(1, grace=0.05) as pool:
            await pool.submit(double, 1)
            watch = pool._crew._watch
            while watch._look is not None:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_cancelling_who_awaits_cancels_the_task():
    async def main():
        async with AsyncPool(1, grace=60) as pool:
            task = pool.submit(asyncio.Event().wait)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.01)
            with pytest.raises(DeadlineExceeded, match="awaited it was cancelled"):
                await task

    asyncio.run(main())


def test_left_by_an_exception_it_cancels():
    async def main():
        with pytest.raises(KeyError):
            async with AsyncPool(1, grace=60) as pool:
                running, pending = (pool.submit(asyncio.Event().wait) for _ in range(2))
                await asyncio.sleep(0)
                raise KeyError
        assert isinstance(running.exception(), DeadlineExceeded)
        assert pending.cancelled()

    asyncio.run(main())


def test_left_by_an_exception_it_waits_one_grace_for_a_stubborn_one():
    async def main():
        mule = Stubborn()
        with pytest.raises(KeyError):
            async with AsyncPool(1, grace=0.05) as pool:
                task = pool.submit(mule)
                await mule.began.wait()
                raise KeyError
        assert isinstance(task.exception(), DeadlineExceeded)
        assert pool.stats()["abandoned"] == 1
        mule.let_go.set()

    asyncio.run(main())


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_wait_cancels_the_tasks_and_ends(times: int):
    async def main():
        mule = Stubborn()
        pools = []

        async def body():
            async with AsyncPool(1, grace=0.05) as pool:
                pools.append(pool)
                pool.submit(mule)

        outer = asyncio.create_task(body())
        await mule.began.wait()
        for _ in range(times):
            outer.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert outer.cancelling() == times
        assert pools[0].stats()["abandoned"] == 1
        mule.let_go.set()

    asyncio.run(main())


def test_a_timeout_around_the_pool_is_not_mistaken_for_another_one():
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), AsyncPool(1, grace=60) as pool:
                await pool.submit(asyncio.Event().wait)
        assert asyncio.current_task().cancelling() == 0
        with pytest.raises(DeadlineExceeded):
            with deadline(0.01):
                async with AsyncPool(1, grace=60) as pool:
                    pool.submit(asyncio.Event().wait)
        assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


def test_timeouts_in_a_task_and_around_it_are_told_apart():
    async def main():
        async def inner():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            assert asyncio.current_task().cancelling() == 0
            await asyncio.Event().wait()

        async def both_at_once():
            async with asyncio.timeout(0.05):
                await asyncio.Event().wait()

        async with AsyncPool(2, task_timeout=0.05, grace=60) as pool:
            with pytest.raises(DeadlineExceeded):
                await pool.submit(inner)
            with pytest.raises(TimeoutError):  # whichever is first
                await pool.submit(both_at_once)

    asyncio.run(main())


def test_a_task_that_is_cancelled_from_inside_is_cancelled_not_timed_out():
    async def main():
        async def give_up():
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

        async with AsyncPool(1) as pool:
            with pytest.raises(asyncio.CancelledError):
                await pool.submit(give_up)
            assert asyncio.current_task().cancelling() == 0
        assert pool.stats()["timed_out"] == 0

    asyncio.run(main())


def test_a_task_cancelled_before_its_first_step_has_an_outcome():
    async def main():
        async with AsyncPool(1) as pool:
            task = pool.submit(double, 1)
            task._aio.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await pool.submit(double, 1) == 2

    asyncio.run(main())


def test_task_groups_around_and_inside():
    async def main():
        async def inside(number):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(double(number)) for _ in range(3)]
            return sum(task.result() for task in tasks)

        async with asyncio.TaskGroup() as group:
            async with AsyncPool(2) as pool:
                first = group.create_task(asyncio.wait_for(pool.submit(inside, 1), 300))
                assert await pool.submit(inside, 2) == 12
        assert first.result() == 6
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(1))
                async with AsyncPool(1, grace=60) as pool:
                    task = pool.submit(asyncio.Event().wait)
                    await asyncio.Event().wait()
        assert caught.group_contains(ValueError) if hasattr(caught, "group_contains") else True
        assert isinstance(task.exception(), DeadlineExceeded)

    asyncio.run(main())


def test_a_submitter_without_time_left():
    async def main():
        async with AsyncPool(2, grace=60) as pool:
            with CancelScope() as scope:
                task = pool.submit(asyncio.Event().wait)
                await asyncio.sleep(0)
                scope.cancel("enough")
                await asyncio.Event().wait()
            assert scope.cancelled_caught
            with pytest.raises(DeadlineExceeded, match="a scope around it"):
                await task

    asyncio.run(main())
