"""anthropic's clients, sync and async: `llm_timeout`, `llm_first_byte` and `llm_idle_content`, see `_llm_call`."""

from __future__ import annotations

from threadsafe_timeout_patches._stainless import apply

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("anthropic._base_client",)
SUPPORTED = {"anthropic": ">=0.40,<3"}
