"""Scopes in coroutines, and around the threads that coroutines hand work to."""

import asyncio
import contextlib
import threading

import pytest

from threadsafe_timeout import (
    CancelScope,
    DeadlineExceeded,
    check_cancelled,
    deadline,
    move_on_after,
    shield,
    sleep,
)


def test_async_deadline_cancels_an_await():
    async def main(enter_async):
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlineExceeded) as caught:
            if enter_async:
                async with deadline(0.02, name="wait"):
                    await asyncio.sleep(50)
            else:
                with deadline(0.02, name="wait"):
                    await asyncio.sleep(50)
        assert caught.value.name == "wait"
        assert loop.time() - began < 20
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    for enter_async in (True, False):
        asyncio.run(main(enter_async))


def test_async_a_context_manager_written_as_a_generator():
    @contextlib.contextmanager
    def limited():
        with deadline(0.02, name="wait"):
            yield

    async def main():
        with pytest.raises(DeadlineExceeded), limited():
            await asyncio.sleep(50)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(main())


def test_async_move_on_and_nesting():
    async def main():
        async with move_on_after(50) as outer, move_on_after(0.02) as inner:
            await asyncio.sleep(50)
        assert inner.cancelled_caught
        assert not outer.cancel_called
        async with move_on_after(0.02) as outer:
            async with move_on_after(50) as inner:
                await asyncio.sleep(50)
            pytest.fail("went on")
        assert outer.cancelled_caught
        assert not inner.cancelled_caught

    asyncio.run(main())


def test_async_work_in_time_and_foreign_cancellation():
    async def quick():
        async with deadline(50) as scope:
            await asyncio.sleep(0)
        return scope.cancel_called

    async def slow():
        async with deadline(50):
            await asyncio.sleep(50)

    async def main():
        assert await quick() is False
        task = asyncio.ensure_future(slow())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_async_decorator():
    @deadline(0.02)
    async def slow():
        await asyncio.sleep(50)

    @deadline(50)
    async def quick(value):
        await asyncio.sleep(0)
        return value

    with pytest.raises(DeadlineExceeded, match="slow"):
        asyncio.run(slow())
    assert asyncio.run(quick(3)) == 3


def test_async_cancel_from_another_thread():
    async def main():
        async with CancelScope() as scope:
            thread = threading.Thread(target=scope.cancel, args=("from outside",))
            thread.start()
            await asyncio.sleep(50)
        thread.join()
        assert scope.cancelled_caught
        assert scope.reason == "from outside"

    asyncio.run(main())


def test_async_shield():
    async def main():
        steps = []
        async with move_on_after(0.01) as outer:
            async with shield(50):
                while not outer.cancel_called:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.01)
                steps.append("shielded")
            await asyncio.sleep(50)
            steps.append("went on")
        assert steps == ["shielded"]
        assert outer.cancelled_caught
        async with move_on_after(0.01) as outer, shield(0.03):
            await asyncio.sleep(50)
        assert outer.cancelled_caught

    asyncio.run(main())


def test_a_deadline_around_to_thread_reaches_the_thread():
    ended = threading.Event()

    def blocking():
        try:
            sleep(50)
        finally:
            ended.set()

    async def main():
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.02):
                await asyncio.to_thread(blocking)
        assert await asyncio.get_running_loop().run_in_executor(None, ended.wait, 30)

    asyncio.run(main())


def test_a_deadline_around_run_in_executor_reaches_a_thread_of_our_pool():
    """asyncio does not copy the context there; the pool's submit does."""
    from threadsafe_timeout import ThreadPoolExecutor

    begun, ended = threading.Event(), threading.Event()

    def blocking():
        begun.set()
        try:
            sleep(60)
        finally:
            ended.set()

    async def main(pool):
        loop = asyncio.get_running_loop()
        with pytest.raises(DeadlineExceeded):
            async with deadline(60) as scope:
                future = loop.run_in_executor(pool, blocking)
                assert await loop.run_in_executor(None, begun.wait, 30)
                scope.deadline = loop.time() + 0.02
                await future
        assert await loop.run_in_executor(None, ended.wait, 30)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main(pool))


def test_a_scope_in_a_coroutine_that_no_loop_runs():
    async def main():
        with move_on_after(0) as scope:
            check_cancelled()
        return scope.cancelled_caught

    with pytest.raises(StopIteration) as caught:
        main().send(None)
    assert caught.value.value is True
