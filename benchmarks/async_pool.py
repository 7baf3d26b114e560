"""What deadlines and the pool cost in coroutines, next to peers, in one run. Prints Markdown tables.

    pip install -e '.[bench]'
    python benchmarks/async_pool.py

The first table: coroutines that each have a deadline, all at a time. The second: no-op tasks, a hundred at a time. Ours
has a deadline on every task and reports its outcome; the limiters of anyio and aiometer have neither.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import os
import statistics
import sys
import time

from threadsafe_timeout import AsyncPool, deadline

DEADLINE = 60.0
WIDTH = 100


async def noop():
    await asyncio.sleep(0)


async def with_asyncio():
    async with asyncio.timeout(DEADLINE):
        await asyncio.sleep(0)


async def with_scope():
    with deadline(DEADLINE):
        await asyncio.sleep(0)


async def all_at_once(work, count):
    await asyncio.gather(*[work() for _ in range(count)])


async def in_pool(count, width=None):
    """All at a time, or `width` of them."""
    async with AsyncPool(width or count, task_timeout=DEADLINE) as pool:
        for task in [pool.submit(noop) for _ in range(count)]:
            await task


async def semaphore(count):
    limit = asyncio.Semaphore(WIDTH)

    async def one():
        async with limit:
            await noop()

    await asyncio.gather(*[one() for _ in range(count)])


async def semaphore_and_timeout(count):
    limit = asyncio.Semaphore(WIDTH)

    async def one():
        async with limit, asyncio.timeout(DEADLINE):
            await noop()

    await asyncio.gather(*[one() for _ in range(count)])


async def anyio_limiter(count):
    import anyio

    limit = anyio.CapacityLimiter(WIDTH)

    async def one():
        async with limit:
            await noop()

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)


async def aiometer_limiter(count):
    import aiometer

    await aiometer.run_all([noop] * count, max_at_once=WIDTH)


def measured(rows, count, rounds):
    """name -> microseconds of CPU a task (all threads), one for each round; the rows take turns."""
    found = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, work in rows.items():
            gc.collect()
            start = time.process_time()
            asyncio.run(work(count))
            if number:  # the first warms up
                found[name].append((time.process_time() - start) / count * 1e6)
    return found


def table(title, found, beside):
    base = found[beside]
    print(f"\n{title}\n\n| | µs of CPU a task | × {beside} |\n|---|---|---|")
    for name, values in found.items():
        ratios = sorted(one / other for one, other in zip(values, base, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        print(f"| {name} | {statistics.median(values):.1f} | {spread} |")


DEADLINES = {
    "asyncio.timeout": functools.partial(all_at_once, with_asyncio),
    "no deadline": functools.partial(all_at_once, noop),
    "deadline": functools.partial(all_at_once, with_scope),
    "AsyncPool": in_pool,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=DEADLINES, help="one row of the first table, to count its instructions")
    options = parser.parse_args()
    if options.only:
        for _ in range(options.rounds):
            asyncio.run(DEADLINES[options.only](options.count))
        return
    with contextlib.suppress(ImportError, AttributeError, OSError):
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    table(f"{options.count} coroutines at a time, each with a deadline",
          measured(DEADLINES, options.count, options.rounds), "asyncio.timeout")  # fmt: skip
    rows = {
        "Semaphore + asyncio.timeout": semaphore_and_timeout, "Semaphore, no deadline": semaphore,
        "AsyncPool": functools.partial(in_pool, width=WIDTH),
    }  # fmt: skip
    with contextlib.suppress(ImportError):
        import anyio  # noqa: F401

        rows["anyio.CapacityLimiter, no deadline"] = anyio_limiter
    with contextlib.suppress(ImportError):
        import aiometer  # noqa: F401

        rows["aiometer, no deadline"] = aiometer_limiter
    table(f"{options.count} no-op tasks, {WIDTH} at a time",
          measured(rows, options.count, options.rounds), "Semaphore + asyncio.timeout")  # fmt: skip


if __name__ == "__main__":
    main()
