"""cohere's clients, sync and async: see `_llm_call`."""

from __future__ import annotations

from types import ModuleType

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout_patches._llm_entries import Entry, httpx_timeout, patch_entries

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("cohere.core.http_client",)
SUPPORTED = {"cohere": ">=5.5,<8"}

_ENTRIES = (
    Entry(("request",), "HttpClient"),
    Entry(("stream",), "HttpClient", "context manager"),
    Entry(("request",), "AsyncHttpClient", "async call"),
    Entry(("stream",), "AsyncHttpClient", "async context manager"),
)


def apply(module: ModuleType, patching: Patching) -> None:
    patch_entries(module, patching, _ENTRIES, lambda client, *_: httpx_timeout(client.httpx_client))
