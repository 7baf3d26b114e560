"""How the types of the engines come out; checked by mypy, never run."""

from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial
from typing import Any, assert_type

from threadsafe_timeout import AsyncPool, PoolHealth
from threadsafe_timeout.checkpoint import checkpointed
from threadsafe_timeout.engines import AsyncPool as SamePool
from threadsafe_timeout.engines import ClusterLost, DaskExecutor


async def work(number: int) -> str:
    return str(number)


@checkpointed("run.jsonl", key=str)
async def saved(number: int) -> str:
    return str(number)


async def engines(pool: AsyncPool) -> None:
    assert_type(SamePool(1), AsyncPool)
    async with AsyncPool(3, task_timeout=1, grace=1, checkpoint="run.jsonl", name="p") as entered:
        assert_type(entered, AsyncPool)
    assert_type(pool.map(work, [1]), AsyncIterator[str])
    assert_type(pool.health(), PoolHealth)
    assert_type(pool.stats(), dict[str, int])
    assert_type(await saved(1), str)
    await pool.with_options(key="a", timeout=1).submit(work, 1)


def square(number: int) -> int:
    return number * number


def make(name: str, *, model: str = "m") -> Any:
    return square


def cluster() -> None:
    with DaskExecutor(task_timeout=1, grace=1, checkpoint="run.jsonl", task_factory="runner:make", name="p") as entered:
        assert_type(entered, DaskExecutor)
    try:
        pool = DaskExecutor("tcp://10.0.0.1:8786", 8, task_factory=partial(make, model="n"), reconnect=60)
    except ClusterLost as lost:
        assert_type(lost.address, str)
        raise
    assert_type(pool.submit(square, 1), Future[Any])
    assert_type(pool.health(), PoolHealth)
