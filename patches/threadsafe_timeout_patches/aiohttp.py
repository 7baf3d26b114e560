"""aiohttp: the total of a call (`http_timeout`, or `llm_timeout` of a client that sends through it), see `_llm_call`.

The body is read by the program after the request has returned. When the call's time is up its reads raise
`TimeoutError`, as they do past aiohttp's own total, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout_patches import _llm_call

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("aiohttp.client",)
SUPPORTED = {"aiohttp": ">=3.8,<4"}


def apply(module: ModuleType, patching: Patching) -> None:
    patching.wrap_object(module.ClientSession, "_request", _request)


async def _request(
    wrapped: Callable[..., Any], _session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    call = _llm_call.current()
    if call is not None:
        _llm_call.begin_attempt(call)
        return _limited(call, await wrapped(*args, **kwargs))
    call = _llm_call.http_call(TimeoutError)
    if call is None:
        return await wrapped(*args, **kwargs)
    return _limited(call, await _llm_call.run_async(call, wrapped, *args, **kwargs))


def _limited(call: _llm_call.Call, response: Any) -> Any:
    content = response.content
    # What has changed protocols (a web socket) is no answer that ends.
    if call.until == math.inf or call.carried or content.is_eof() or response.status == 101:
        return response
    # Not to be kept alive by its limit: that it is collected without being read is something that aiohttp complains of.
    reference = weakref.ref(response)

    def expire() -> None:
        response = reference()
        if response is None or response.closed or response.content.is_eof():
            return
        response.content.set_exception(call.used_up())
        response.close()

    loop = asyncio.get_running_loop()
    timer = loop.call_later(call.until - _clock.monotonic(), expire)
    content.on_eof(timer.cancel)
    return response
