"""openai's clients, sync and async: `llm_timeout`, `llm_first_byte` and `llm_idle_content`, see `_llm_call`."""

from __future__ import annotations

from threadsafe_timeout_patches._stainless import apply

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("openai._base_client",)
SUPPORTED = {"openai": ">=1.40,<4"}
