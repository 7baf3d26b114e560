"""mistralai's clients, sync and async, those for Azure and Google Cloud as well: see `_llm_call`."""

from __future__ import annotations

from types import ModuleType

from threadsafe_timeout._install import Patching
from threadsafe_timeout_patches._llm_entries import Entry, patch_entries

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = (
    "mistralai.basesdk", "mistralai.client.basesdk", "mistralai.azure.client.basesdk", "mistralai.gcp.client.basesdk",
)  # fmt: skip
SUPPORTED = {"mistralai": ">=1.0,<4"}

_ENTRIES = (
    Entry(("do_request",), "BaseSDK"),
    Entry(("do_request_async",), "BaseSDK", "async call"),
)


def apply(module: ModuleType, patching: Patching) -> None:
    read_timeout = module.httpx.ReadTimeout  # of httpx, or of httpx2
    patch_entries(module, patching, _ENTRIES, lambda *_: lambda: read_timeout("timed out"))
