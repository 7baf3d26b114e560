"""mistralai's clients, sync and async, those for Azure and Google Cloud as well: see `_llm_call`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout_patches._llm_entries import Entry, httpx_timeout, patch_entries

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
    def error(sdk: Any, _args: object, _kwargs: object) -> Callable[[], Exception]:
        configuration = sdk.sdk_configuration
        return httpx_timeout(configuration.client or configuration.async_client)

    patch_entries(module, patching, _ENTRIES, error)
