"""The clients of openai and anthropic, which one generator (Stainless) makes: both have a `request` that tries, backs
off and tries again, on httpx or httpx2."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import time_left as _time_left
from threadsafe_timeout._timing import preload as _preload
from threadsafe_timeout_patches import _llm_call
from threadsafe_timeout_patches._llm_entries import Entry, patch_entries

if TYPE_CHECKING:
    from threadsafe_timeout._guard.client import ClientGuard

__all__ = ["apply"]

_GUARD = "threadsafe_timeout._guard.client"
_Wrapped = Callable[..., Any]
_ENTRIES = (
    Entry(("request",), "SyncAPIClient"),
    Entry(("request",), "AsyncAPIClient", "async call"),
)


def apply(module: ModuleType, patching: Patching) -> None:
    """Patch `_base_client` of openai or anthropic."""
    http = getattr(module, "httpx2", None) or module.httpx

    def error(client: Any, _args: object, _kwargs: object) -> Callable[[], Exception]:
        # No header and no body: only where the request went.
        return lambda: module.APITimeoutError(request=http.Request("POST", str(client.base_url)))

    patch_entries(module, patching, _ENTRIES, error)
    patching.wrap_object(module.SyncAPIClient, "request", _guarded)
    patching.wrap_object(module.AsyncAPIClient, "request", _guarded_async)
    patching.wrap_object(module.BaseClient, "_calculate_retry_timeout", _back_off)
    # Not loaded here: it takes as long as all other patches of this program, and many never make a request in a scope.
    _preload.also(_GUARD)


def _guarded(wrapped: _Wrapped, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Inside a scope the guard looks at the conversation that is sent, and at the answer: see `_guard.client`."""
    body = _body(args, kwargs)
    guard = _guard_of(body)
    if guard is not None:
        guard.asks(body)
    answer = wrapped(*args, **kwargs)
    if guard is not None:
        guard.answered(answer)
    return answer


async def _guarded_async(wrapped: _Wrapped, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    body = _body(args, kwargs)
    guard = _guard_of(body)
    if guard is not None:
        guard.asks(body)
    answer = await wrapped(*args, **kwargs)
    if guard is not None:
        guard.answered(answer)
    return answer


def _guard_of(body: Any) -> ClientGuard | None:
    if _around.current_scope() is None:
        return None
    if _GUARD not in sys.modules:
        _preload.load(_GUARD)
    from threadsafe_timeout._guard.client import guard_of_request

    return guard_of_request(body)


def _body(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a client's `request(cast_to, options, …)` is to send."""
    options = args[1] if len(args) > 1 else kwargs.get("options")
    return getattr(options, "json_data", None)


def _back_off(wrapped: _Wrapped, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """How long the client waits before its next attempt; ends the call if the server asks for more than is left."""
    seconds = wrapped(*args, **kwargs)
    call = _llm_call.current()
    left = _time_left.time_remaining()
    if call is None or left == math.inf:
        return seconds
    headers = args[2] if len(args) > 2 else kwargs.get("response_headers")
    asked = client._parse_retry_after_header(headers)  # the client ignores a long one, and asks too early
    if asked is not None and asked > left:
        call.give_up(f"the server asks to wait {asked:.0f} s (Retry-After), and only {left:.1f} s are left")
    elif seconds >= left:
        call.give_up(f"the next attempt would be in {seconds:.1f} s, and only {left:.1f} s are left")
    _llm_call.refuse_after_deadline()
    return seconds
