"""httpx and httpx2: what an LLM client sends through them is held to that call's limits, see `_llm_call`.

A request that belongs to no LLM call has `http_timeout`, with its redirects and its body, or passes through.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import deadlines as _deadlines
from threadsafe_timeout._scopes.catchable import library_call
from threadsafe_timeout_patches import _llm_call
from threadsafe_timeout_patches._body import Body as Limits

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("httpx._client", "httpx2._client")
SUPPORTED = {"httpx": ">=0.25,<1", "httpx2": ">=2,<3"}

_Wrapped = Callable[..., Any]
_Arguments = tuple[Any, ...]


def apply(module: ModuleType, patching: Patching) -> None:
    class Body(_Stream, module.SyncByteStream):  # type: ignore[misc, name-defined]  # of httpx or of httpx2: httpx asks for it
        def __iter__(self) -> Iterator[bytes]:
            return self._limits.pieces(self._stream)

        def close(self) -> None:
            self._stream.close()

    class AsyncBody(_Stream, module.AsyncByteStream):  # type: ignore[misc, name-defined]  # the same
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._limits.pieces_async(self._stream)

        async def aclose(self) -> None:
            await self._stream.aclose()

    # From where `_client` has it, for the package itself may be in the middle of its import.
    read_timeout = importlib.import_module(f"{module.__package__}._exceptions").ReadTimeout
    patching.wrap_object(module.Client, "send", _sending(Body, read_timeout))
    patching.wrap_object(module.AsyncClient, "send", _sending_async(AsyncBody, read_timeout))


class _Stream:
    """The stream of a response, within limits. What httpx and the clients note on it is passed on."""

    def __init__(self, stream: Any, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _no_first_byte(call: _llm_call.Call) -> str:
    return f"no answer within {call.first_byte:g} s (llm_first_byte)"


def _error_for(read_timeout: _Wrapped, args: _Arguments, kwargs: dict[str, Any]) -> Callable[[str], Exception]:
    """Clients ask the error for its request."""
    return partial(read_timeout, request=args[0] if args else kwargs.get("request"))


def _sending(kind: type[_Stream], read_timeout: type[Exception]) -> Callable[..., Any]:
    def attempt(call: _llm_call.Call, send: _Wrapped, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        error = _error_for(read_timeout, args, kwargs)
        if call.has_only_a_total and not kwargs.get("stream", False):
            return send(*args, **kwargs)
        with _deadlines.move_on_after(call.first_byte, name="LLM call") as scope:
            response = send(*args, **{**kwargs, "stream": True})
        if scope.cancelled_caught:
            raise call.attempt_is_late(_no_first_byte(call), error)
        try:
            response.stream = kind(response.stream, Limits(call, response.headers, error))
            if not kwargs.get("stream", False):
                response.read()
        except BaseException:
            response.close()
            raise
        return response

    def send(wrapped: _Wrapped, _client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        with library_call():
            return send_once(wrapped, args, kwargs)

    def send_once(wrapped: _Wrapped, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        call = _llm_call.current()
        if call is None:
            call = _llm_call.http_call(lambda: _error_for(read_timeout, args, kwargs)("timed out"))
            if call is None:
                return wrapped(*args, **kwargs)
            return _llm_call.run(call, attempt, call, wrapped, args, kwargs)
        _llm_call.begin_attempt(call)
        return attempt(call, wrapped, args, kwargs)

    return send


def _sending_async(kind: type[_Stream], read_timeout: type[Exception]) -> Callable[..., Any]:
    async def attempt(call: _llm_call.Call, send: _Wrapped, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        error = _error_for(read_timeout, args, kwargs)
        carried, call.carried = call.carried, True  # litellm has an aiohttp under it
        try:
            if call.has_only_a_total and not kwargs.get("stream", False):
                return await send(*args, **kwargs)
            with _deadlines.move_on_after(call.first_byte, name="LLM call") as scope:
                response = await send(*args, **{**kwargs, "stream": True})
        finally:
            call.carried = carried
        if scope.cancelled_caught:
            raise call.attempt_is_late(_no_first_byte(call), error)
        try:
            response.stream = kind(response.stream, Limits(call, response.headers, error))
            if not kwargs.get("stream", False):
                await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response

    async def send(wrapped: _Wrapped, _client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        call = _llm_call.current()
        if call is None:
            call = _llm_call.http_call(lambda: _error_for(read_timeout, args, kwargs)("timed out"))
            if call is None:
                return await wrapped(*args, **kwargs)
            return await _llm_call.run_async(call, attempt, call, wrapped, args, kwargs)
        _llm_call.begin_attempt(call)
        return await attempt(call, wrapped, args, kwargs)

    return send
