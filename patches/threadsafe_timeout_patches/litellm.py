"""litellm, with all its providers: the whole of a call, its retries and fallbacks included, and so is a `Router`'s; see
`_llm_call`. The error is `litellm.Timeout`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout_patches import _llm_call
from threadsafe_timeout_patches._llm_entries import Entry, patch_entries

__all__ = ["IMPORT_WITH", "MODULES", "SUPPORTED", "apply"]

# The functions are patched in the package, when all of it is there: they may be others than those of litellm.main.
MODULES = (
    "litellm", "litellm.router", "litellm.router_rust.core", "litellm.litellm_core_utils.streaming_handler",
)  # fmt: skip
SUPPORTED = {"litellm": ">=1.60,<2"}
IMPORT_WITH = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else the import asks the network for a list of prices

_CALLS = (
    "completion", "text_completion", "embedding", "responses", "completion_with_retries", "responses_with_retries",
    "moderation", "rerank", "transcription", "speech", "image_generation", "image_edit", "ocr",
)  # fmt: skip
_ASYNC_CALLS = (*(f"a{name}" for name in _CALLS), "anthropic_messages")

_FUNCTIONS = (Entry(_CALLS), Entry(_ASYNC_CALLS, kind="async call"))


def _of_router(owner: str) -> tuple[Entry, ...]:
    return Entry(_CALLS, owner), Entry(_ASYNC_CALLS, owner, "async call")


_ENTRIES = {
    "litellm": _FUNCTIONS,
    "litellm.router": _of_router("Router"),
    "litellm.router_rust.core": _of_router("RustCore"),
}


_CALL = "_threadsafe_timeout_call"  # on a stream: whose it is

_Wrapped = Callable[..., Any]
_Arguments = tuple[Any, ...]


def apply(module: ModuleType, patching: Patching) -> None:
    if module.__name__.endswith("streaming_handler"):
        stream = module.CustomStreamWrapper
        patching.wrap_object(stream, "__init__", _begin_stream)
        patching.wrap_object(stream, "__next__", _step)
        patching.wrap_object(stream, "__anext__", _step_async)
        return
    if module.__name__ == "litellm.router" and "completion" not in vars(module.Router):
        return  # it hands everything on to litellm.router_rust.core
    patch_entries(module, patching, _ENTRIES[module.__name__], _timeout)


def _timeout(_client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Callable[[], Exception]:
    model = kwargs.get("model") or (args[0] if args and isinstance(args[0], str) else "")

    def make() -> Exception:
        errors = importlib.import_module("litellm.exceptions")
        provider = kwargs.get("custom_llm_provider") or str(model).partition("/")[0]
        error: Exception = errors.Timeout(message="timed out", model=model, llm_provider=provider)
        return error

    return make


def _begin_stream(wrapped: _Wrapped, stream: Any, args: _Arguments, kwargs: dict[str, Any]) -> None:
    wrapped(*args, **kwargs)
    setattr(stream, _CALL, _llm_call.current())


def _step(wrapped: _Wrapped, stream: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    """With some providers the request itself is sent at the first step."""
    call = getattr(stream, _CALL, None)
    return wrapped(*args, **kwargs) if call is None else _llm_call.run(call, wrapped, *args, **kwargs)


async def _step_async(wrapped: _Wrapped, stream: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    call = getattr(stream, _CALL, None)
    return await (wrapped(*args, **kwargs) if call is None else _llm_call.run_async(call, wrapped, *args, **kwargs))
