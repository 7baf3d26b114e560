"""Ways for a coroutine to get stuck, each with what becomes of its task; see test_async_stuck_modes.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import Event


class Hold:
    """What the stuck tasks are stuck in. Leaving it lets the threads among them go."""

    def __init__(self) -> None:
        self.event = Event()
        self.silent = socket.create_server(("127.0.0.1", 0), backlog=64)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.event.set()
        self.silent.close()


async def sleep(hold: Hold) -> None:
    await asyncio.sleep(1000)


async def future(hold: Hold) -> None:
    await asyncio.get_running_loop().create_future()


async def event(hold: Hold) -> None:
    await asyncio.Event().wait()


async def queue(hold: Hold) -> None:
    await asyncio.Queue[None]().get()


async def lock(hold: Hold) -> None:
    lock = asyncio.Lock()
    async with lock:
        await lock.acquire()


async def stream(hold: Hold) -> None:
    reader, writer = await asyncio.open_connection(*hold.silent.getsockname())
    try:
        await reader.read(1)
    finally:
        writer.close()


async def process(hold: Hold) -> None:
    command = f"import socket; socket.create_connection({hold.silent.getsockname()}).recv(1)"
    child = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", command)
    try:
        await child.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def thread(hold: Hold) -> None:
    await asyncio.to_thread(hold.event.wait)


async def gathered(hold: Hold) -> None:
    await asyncio.gather(*(sleep(hold) for _ in range(3)))


async def task_group(hold: Hold) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(sleep(hold))


async def shielded(hold: Hold) -> None:
    inner = asyncio.ensure_future(sleep(hold))
    try:
        await asyncio.shield(inner)
    finally:
        inner.cancel()


async def generator(hold: Hold) -> None:
    async def items():
        yield 1
        await asyncio.sleep(1000)

    async for _ in items():
        pass


async def busy(hold: Hold) -> None:
    number = 0
    while True:
        number += 1


async def busy_below(hold: Hold) -> None:
    await busy(hold)


def count_for_ever() -> None:
    number = 0
    while True:
        number += 1


async def busy_function(hold: Hold) -> None:
    await asyncio.sleep(0)
    count_for_ever()


async def busy_until_any_error(hold: Hold) -> None:
    while not hold.event.is_set():
        try:
            count_for_ever()
        except Exception:
            pass


async def blocking_sleep(hold: Hold) -> None:
    time.sleep(1000)


async def blocking_event(hold: Hold) -> None:
    hold.event.wait()


async def swallows(hold: Hold) -> None:
    while not hold.event.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)


async def swallows_everything(hold: Hold) -> None:
    while not hold.event.is_set():
        try:
            await asyncio.sleep(1000)
        except BaseException as exc:
            if isinstance(exc, GeneratorExit):
                raise


async def clean_up_hangs(hold: Hold) -> None:
    try:
        await asyncio.sleep(1000)
    finally:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


async def task_group_swallows(hold: Hold) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(swallows(hold))


@dataclass(frozen=True)
class Mode:
    """`ends`: by itself when it is cancelled or interrupted; else it is abandoned."""

    stick: Callable[[Hold], Awaitable[None]]
    ends: bool = True
    blocks: bool = False

    @property
    def name(self) -> str:
        return self.stick.__name__


MODES = [
    *(Mode(stick) for stick in (sleep, future, event, queue, lock, stream, process, thread, gathered, task_group, shielded,
                                generator)),
    *(Mode(stick, blocks=True) for stick in (busy, busy_below, busy_function, busy_until_any_error, blocking_sleep,
                                             blocking_event)),
    *(Mode(stick, ends=False) for stick in (swallows, swallows_everything, clean_up_hangs, task_group_swallows)),
]  # fmt: skip
