"""Clean-up in coroutines and around event loops."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time

from blocked import LONG, expire
from cleaning import allowed

from threadsafe_timeout import (
    CancelScope,
    check_cancelled,
    move_on_after,
    patched,
)


def test_in_a_coroutine_calls_and_awaits_work_while_it_handles_the_cancellation():
    async def main():
        done = []
        async with move_on_after(LONG):
            try:
                expire()
                await asyncio.sleep(LONG)
            finally:
                check_cancelled()
                await asyncio.sleep(0)
                done.append("cleaned")
        return done

    with patched(checkpoint="off", grace=LONG):
        assert asyncio.run(main()) == ["cleaned"]


def test_in_a_coroutine_a_clean_up_that_awaits_for_ever_is_cancelled_again():
    async def main():
        with patched(checkpoint="off", grace=0.05):
            async with move_on_after(0.02):
                try:
                    await asyncio.sleep(LONG)
                finally:
                    await asyncio.Event().wait()
            task = asyncio.current_task()
            return task.cancelling() if task is not None else None

    assert asyncio.run(main()) == 0


def test_in_a_coroutine_the_next_attempt_is_refused():
    async def main():
        made = 0
        async with move_on_after(0.02):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(LONG)
            made += allowed()
            check_cancelled()
        return made

    assert asyncio.run(main()) == 0


def test_a_sync_clean_up_may_run_an_event_loop():
    async def clean():
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)  # in a thread
        return "cleaned"

    with patched(checkpoint="off", grace=LONG):
        result = None
        with move_on_after(LONG):
            try:
                expire()
                time.sleep(LONG)
            finally:
                result = asyncio.run(clean())
    assert result == "cleaned"


def test_a_loop_in_a_cancelled_scope_cleans_up_with_calls_that_block():
    async def main():
        try:
            threading.Thread(target=scope.cancel).start()  # not before: a task that is cancelled earlier never begins
            await asyncio.sleep(LONG)
        finally:
            time.sleep(0)
            subprocess.run([sys.executable, "-c", ""], check=True)
            cleaned.append(True)

    cleaned: list[bool] = []
    with patched(checkpoint="off", grace=LONG), CancelScope() as scope:
        asyncio.run(main())
    assert scope.cancelled_caught
    assert cleaned == [True]
