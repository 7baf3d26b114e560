"""Coroutine functions that end at once."""

from __future__ import annotations

import asyncio


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def fail(number: int) -> None:
    raise ValueError(number)
