"""Two slots, two stuck coroutines and two good ones queued behind, for every way of getting stuck.

The good ones finish, the stuck futures end with `DeadlineExceeded`, the block ends, and so does the loop.
"""

from __future__ import annotations

import asyncio

import pytest
from coroutine_modes import MODES, Hold, Mode
from quick import double

import threadsafe_timeout
from threadsafe_timeout import AsyncPool, DeadlineExceeded
from threadsafe_timeout._interruption.pursuit import support

WIDTH = 2


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.usefixtures("nothing_set")
def test_the_good_finish_and_the_stuck_end(mode: Mode):
    if mode.blocks and support().mechanism is None:
        pytest.skip(support().detail)
    with Hold() as hold, threadsafe_timeout.patched(checkpoint="off"):
        stats = asyncio.run(_run(mode, hold), debug=False)
    assert stats["submitted"] == stats["completed"] + stats["failed"] + stats["abandoned"] == 2 * WIDTH
    assert stats["abandoned"] == (0 if mode.ends else WIDTH)
    assert stats["timed_out"] == WIDTH
    assert stats["running"] == stats["pending"] == 0


async def _run(mode: Mode, hold: Hold) -> dict[str, int]:
    # A task that ends by itself has a grace that no machine needs. (Only one that blocks the loop needs two of them.)
    grace = 60 if mode.ends and not mode.blocks else 0.1
    async with AsyncPool(WIDTH, task_timeout=0.2, grace=grace) as pool:
        stuck = [pool.submit(mode.stick, hold) for _ in range(WIDTH)]
        good = [pool.with_options(timeout=300).submit(double, number) for number in range(WIDTH)]
        assert await pool.gather(*good) == [0, 2]
        for task in stuck:
            with pytest.raises(DeadlineExceeded, match="timed out") as caught:
                await task
            assert caught.value.where is not None
            assert caught.value.where[0].endswith("coroutine_modes.py")
            assert caught.value.reason == "deadline"
    hold.event.set()  # what an abandoned task has started is asyncio's, which waits for it
    return pool.stats()
