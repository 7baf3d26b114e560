"""ollama's clients, sync and async: see `_llm_call`. `pull`, `push` and `create`, which move whole models, are no LLM
calls."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout_patches._llm_entries import Entry, httpx_timeout, patch_entries

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("ollama._client",)
SUPPORTED = {"ollama": ">=0.4,<1"}

_ENTRIES = (
    Entry(("_request",), "Client"),
    Entry(("_request",), "AsyncClient", "async call"),
)
_MOVES_MODELS = ("/api/pull", "/api/push", "/api/create", "/api/blobs")


def apply(module: ModuleType, patching: Patching) -> None:
    def error(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Exception] | None:
        # _request(class of the answer, method, path, ...)
        path = args[2] if len(args) > 2 else kwargs.get("url", "")
        if str(path).startswith(_MOVES_MODELS):
            return None
        return httpx_timeout(client._client)

    patch_entries(module, patching, _ENTRIES, error)
