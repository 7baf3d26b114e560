"""SIGALRM off the main thread: handlers that come to an event loop."""

import asyncio
import contextlib
import signal
import threading
import time

import pytest
from alarms import SOON, WAIT, Slow, in_thread, in_waits_only, raising, time_limit

from threadsafe_timeout import (
    DeadlineExceeded,
    deadline,
)

pytestmark = [pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here"), pytest.mark.usefixtures("alarms")]


@in_waits_only  # a machine may take longer than the alarm to make a loop, and nobody would await the coroutine
def by_hand(coroutine):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


@in_waits_only
def in_another_threads_loop(coroutine):
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(WAIT)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        with contextlib.suppress(asyncio.CancelledError):
            by_hand_rest(loop)
        loop.close()


def by_hand_rest(loop):
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(task)


@pytest.mark.parametrize("run", [asyncio.run, by_hand, in_another_threads_loop])
def test_an_event_loop_goes_on_after_a_handler_that_returned(run):
    seen = []
    idents = []

    def work():
        async def main():
            while len(seen) < 3:
                await asyncio.sleep(0.001)
            return "done"

        def handler(signum, frame):
            seen.append(signum)
            idents.append(threading.get_ident())

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, SOON, SOON)
        try:
            return run(main()), {threading.get_ident()} == set(idents)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    assert in_thread(work) == ("done", True)


@pytest.mark.parametrize("run", [asyncio.run, by_hand, in_another_threads_loop])
@pytest.mark.parametrize("error", [Slow, SystemExit])
def test_what_a_handler_raises_comes_out_of_the_event_loop(run, error):
    begun, cleaned_up = [], []  # on a busy machine it may not have begun by then

    def work():
        async def main():
            begun.append(1)
            try:
                await asyncio.sleep(WAIT)
            finally:
                await asyncio.sleep(0)
                cleaned_up.append(1)

        def handler(signum, frame):
            raise error("late")

        with time_limit(SOON, handler):
            run(main())

    with pytest.raises(error, match="late"):
        in_thread(work)
    assert cleaned_up == begun


def test_what_a_handler_raises_comes_out_though_the_coroutine_goes_on():
    def work():
        async def stubborn():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(WAIT)
            return "stubborn"

        with time_limit(SOON):
            return asyncio.run(stubborn())

    with pytest.raises(Slow):
        in_thread(work)


def test_an_alarm_that_its_handler_sets_again_in_an_event_loop_holds_after_it():
    seen = []

    def work():
        async def main():
            while not seen:
                await asyncio.sleep(0.001)

        def handler(signum, frame):
            if seen:
                raising(signum, frame)
            seen.append(signum)
            signal.setitimer(signal.ITIMER_REAL, 5 * SOON)

        with time_limit(SOON, handler):
            asyncio.run(main())
            threading.Event().wait(WAIT)

    with pytest.raises(Slow):
        in_thread(work)


def test_a_scope_and_an_alarm_around_an_event_loop_both_hold():
    seen = []

    def work():
        async def main():
            await asyncio.sleep(WAIT)

        scope = deadline(WAIT)

        def handler(*_):
            seen.append(1)
            scope.deadline = time.monotonic() + SOON

        with time_limit(SOON, handler), scope:
            asyncio.run(main())

    with pytest.raises(DeadlineExceeded):
        in_thread(work)
    assert seen == [1]
