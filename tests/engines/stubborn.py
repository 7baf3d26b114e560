"""A coroutine that does not end when it is cancelled."""

from __future__ import annotations

import asyncio


class Stubborn:
    """A coroutine function that swallows its cancellation until `let_go` is set. It does so in a `finally` body, where no
    interrupt strikes: on a busy machine its loop may seem blocked, and this task is to be stuck, not to be ended."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.cancelled = 0
        self.began = asyncio.Event()

    async def __call__(self) -> str:
        try:
            self.began.set()
        finally:
            while not self.let_go.is_set():
                try:
                    await self.let_go.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
        return "late"
