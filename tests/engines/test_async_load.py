"""Many tasks of every kind on one `AsyncPool`: each has one outcome, and nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections import Counter

import pytest

from threadsafe_timeout import AsyncPool, DeadlineExceeded
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout.engines._async_scope import AsyncTaskScope

KINDS = ("good", "bad", "hang", "mule", "cancelled", "slow clean-up")


async def work(kind: str, let_go: asyncio.Event) -> str:
    if kind == "bad":
        raise ValueError(kind)
    try:
        if kind == "good":
            await asyncio.sleep(0.001 * random.random())
        else:
            await let_go.wait()
    except asyncio.CancelledError:
        if kind == "slow clean-up":
            await asyncio.sleep(0.001)
        while kind == "mule" and not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                pass
        raise
    return kind


async def batch(count: int, width: int) -> tuple[Counter[str], dict[str, int], list[weakref.ref[object]]]:
    outcomes: Counter[str] = Counter()
    let_go = asyncio.Event()
    kinds = random.choices(KINDS, (80, 5, 5, 2, 4, 4), k=count)
    async with AsyncPool(width, task_timeout=0.02, grace=0.02, max_abandoned=count) as pool:
        tasks = {}
        for kind in kinds:
            limit = 300 if kind in ("good", "bad", "cancelled") else 0.02
            task = pool.with_options(timeout=limit).submit(work, kind, let_go)
            tasks[task] = kind
            if kind == "cancelled":
                asyncio.get_running_loop().call_later(0.01 * random.random(), task.cancel)
            if len(tasks) % 100 == 0:
                await asyncio.sleep(0)
        async for task in pool.as_completed(tasks):
            kind = tasks[task]
            if task.cancelled():
                outcomes["cancelled"] += 1
                assert kind == "cancelled"
                continue
            error = task.exception()
            assert kind in ("good", "bad") or isinstance(error, DeadlineExceeded)
            assert (kind == "good") == (error is None)
            outcomes[type(error).__name__] += 1
        let_go.set()
        while pool.stats()["abandoned_alive"]:
            await asyncio.sleep(0)
    left = [weakref.ref(task) for task in tasks]
    assert len(asyncio.all_tasks()) == 1
    return outcomes, pool.stats(), left


def run(count: int, width: int) -> None:
    gc.collect()
    before = sum(type(one) is AsyncTaskScope for one in gc.get_objects())
    outcomes, stats, left = asyncio.run(batch(count, width))
    assert sum(outcomes.values()) == count == stats["submitted"]
    assert stats["completed"] + stats["failed"] + stats["cancelled"] + stats["abandoned"] == count
    assert stats["late"] == stats["abandoned"]
    assert stats["running"] == stats["pending"] == 0
    assert _timer.settle(120)  # it lets go of scopes that were left before it took note of them
    gc.collect()
    assert not [one for one in left if one() is not None]
    assert sum(type(one) is AsyncTaskScope for one in gc.get_objects()) <= before


@pytest.mark.usefixtures("nothing_set")
def test_nothing_is_lost_or_left():
    run(500, 50)


@pytest.mark.stress
@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize("width", [1, 20, 1000])
def test_nothing_is_lost_or_left_under_load(width: int):
    run(3_000 if width > 1 else 500, width)
