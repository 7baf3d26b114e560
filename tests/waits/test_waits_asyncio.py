"""Event loops that threads run inside scopes, and coroutines that threads give to a loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
import threading
import time
from collections.abc import Iterator

import pytest
from blocked import LONG, Blocked, expire

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, move_on_after

pytestmark = pytest.mark.usefixtures("installed")


class Main:
    """A coroutine that waits for ever, and takes its time to clean up. If it `expires`, the scope around ends then."""

    def __init__(self, *, expires: bool = False) -> None:
        self.expires = expires
        self.cleaned_up = False
        self.closed_generator = False

    async def generate(self):
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            self.closed_generator = True

    async def __call__(self) -> None:
        self.generator = self.generate()
        await anext(self.generator)
        if self.expires:
            asyncio.get_running_loop().call_soon(expire, 0)  # when it waits
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.001)
            self.cleaned_up = True


def run_by_hand(main):
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def run_a_task_by_hand(main):
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(loop.create_task(main()))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class Awaitable:
    """Neither a coroutine nor a future."""

    def __init__(self, main):
        self.main = main

    def __await__(self):
        return self.main().__await__()


@pytest.mark.parametrize(
    "run",
    [lambda main: asyncio.run(main()), run_by_hand, run_a_task_by_hand, lambda main: run_by_hand(lambda: Awaitable(main))],
    ids=["run", "by hand", "task", "awaitable"],
)
def test_a_loop_ends_with_the_scope_around_it(run):
    main = Main(expires=True)
    with pytest.raises(DeadlineExceeded), deadline(LONG):
        run(main)
    assert main.cleaned_up
    assert main.closed_generator
    main = Main()
    assert Blocked(lambda: run(main)).cancel().scope.cancelled_caught
    assert main.cleaned_up
    assert main.closed_generator


class Selector(selectors.DefaultSelector):
    """As programs have them, to measure how long a loop is idle."""

    def select(self, timeout=None):
        return self.timed(super().select, timeout)

    def timed(self, function, *args):
        return function(*args)


def test_a_loop_on_a_selector_of_the_programs_own_is_not_torn_apart():
    def run(main):
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Selector())) as runner:
            runner.run(main())

    main = Main(expires=True)
    with pytest.raises(DeadlineExceeded), deadline(LONG):
        run(main)
    assert main.cleaned_up
    assert main.closed_generator


def test_a_selector_that_a_coroutine_waits_for_is_no_loops():
    async def main():
        with Selector() as selector:
            selector.select()

    assert Blocked(lambda: asyncio.run(main())).cancel().scope.cancelled_caught


def test_nothing_is_run_in_a_cancelled_scope():
    started = False

    async def main() -> None:
        nonlocal started
        started = True

    for run in (asyncio.run, asyncio.new_event_loop().run_until_complete):
        with CancelScope() as scope:
            scope.cancel()
            run(main())
        assert scope.cancelled_caught
    assert not started
    run.__self__.close()  # type: ignore[attr-defined]


def test_what_ends_in_time_ends_as_ever():
    async def main(result):
        await asyncio.sleep(0.001)
        await asyncio.to_thread(len, "abc")
        if isinstance(result, Exception):
            raise result
        return result

    async def cancels_itself():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    for _ in range(2):
        with move_on_after(LONG) as scope:
            assert asyncio.run(main(1)) == 1
            with pytest.raises(KeyError):
                asyncio.run(main(KeyError()))
            with pytest.raises(asyncio.CancelledError):
                asyncio.run(cancels_itself())
            with pytest.raises((ValueError, TypeError), match=r"a coroutine(,| was expected)|awaitable is required"):
                asyncio.run(1)  # a TypeError since 3.14
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(Awaitable(lambda: main(2))) == 2
            with pytest.raises(TypeError, match="awaitable is required"):
                loop.run_until_complete(1)
            loop.close()
        assert not scope.cancel_called


def test_a_result_that_came_in_spite_of_the_cancellation_is_returned():
    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "stubborn"

    blocked = Blocked(lambda: asyncio.run(stubborn())).cancel()
    assert blocked.result == "stubborn"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_a_coroutine_given_to_another_threads_loop_ends_with_the_scope(loop):
    begun, ended = threading.Event(), threading.Event()

    async def forever():
        try:
            begun.set()  # one that is cancelled before that has nothing to end
            await asyncio.Event().wait()
        finally:
            ended.set()

    blocked = Blocked(lambda: asyncio.run_coroutine_threadsafe(forever(), loop).result())
    assert begun.wait(LONG)
    assert blocked.cancel().scope.cancelled_caught
    assert ended.wait(LONG)
    ended.clear()
    begun.clear()
    with pytest.raises(DeadlineExceeded), deadline(LONG) as scope:
        future = asyncio.run_coroutine_threadsafe(forever(), loop)
        assert begun.wait(LONG)
        scope.deadline = time.monotonic()
        future.result(LONG)
    assert ended.wait(LONG)
    with CancelScope() as scope:
        scope.cancel()
        asyncio.run_coroutine_threadsafe(forever(), loop)
    assert scope.cancelled_caught


def test_a_coroutine_outlives_a_scope_that_is_left(loop):
    go_on = asyncio.Event()

    async def work():
        await go_on.wait()
        return 7

    with CancelScope() as scope:
        future = asyncio.run_coroutine_threadsafe(work(), loop)
        with pytest.raises(TimeoutError):
            future.result(0.001)
    scope.cancel()
    assert not future.done()
    loop.call_soon_threadsafe(go_on.set)
    assert future.result(LONG) == 7
    assert isinstance(future, concurrent.futures.Future)
    with move_on_after(LONG), pytest.raises(TypeError, match="coroutine object is required"):
        asyncio.run_coroutine_threadsafe(1, loop)
