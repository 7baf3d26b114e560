"""google-genai, sync and async, whatever it sends through (httpx, httpx2, aiohttp, or requests for Vertex AI): see
`_llm_call`. Files that are uploaded or downloaded are no LLM calls."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout_patches._llm_entries import Entry, httpx_timeout, patch_entries

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("google.genai._api_client", "google.genai._gaos.basesdk")
SUPPORTED = {"google-genai": ">=1.16,<4"}

_ENTRIES = {
    "google.genai._api_client": (
        Entry(("_request",), "BaseApiClient"),
        Entry(("_async_request",), "BaseApiClient", "async call"),
    ),
    "google.genai._gaos.basesdk": (
        Entry(("do_request",), "BaseSDK"),
        Entry(("do_request_async",), "BaseSDK", "async call"),
        Entry(("do_request",), "AsyncBaseSDK", "async call"),
    ),
}


def apply(module: ModuleType, patching: Patching) -> None:
    entries = _ENTRIES[module.__name__]
    if module.__name__.endswith("basesdk"):
        patch_entries(module, patching, entries, lambda sdk, *_: httpx_timeout(sdk.sdk_configuration.client))
        return
    patch_entries(module, patching, entries[:1], _timeout)
    patch_entries(module, patching, entries[1:], _timeout_async)


def _timeout(client: Any, _args: object, _kwargs: object) -> Callable[[], Exception]:
    if getattr(client, "_use_google_auth_sync", bool)():
        read_timeout: Callable[[], Exception] = importlib.import_module("requests.exceptions").ReadTimeout
        return read_timeout
    return httpx_timeout(client._httpx_client)


def _timeout_async(client: Any, _args: object, _kwargs: object) -> Callable[[], Exception]:
    # With aiohttp it is the built-in one that comes out today.
    return TimeoutError if getattr(client, "_use_aiohttp", bool)() else httpx_timeout(client._async_httpx_client)
