"""botocore's client of Amazon Bedrock's models (`bedrock-runtime`), boto3's too: see `_llm_call`.

What botocore's other clients do is theirs. What a stream raises past its total is botocore's own `ReadTimeoutError`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout_patches._llm_entries import Entry, patch_entries
from threadsafe_timeout_patches.http_client import late

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("botocore.client", "botocore.response", "botocore.eventstream")
SUPPORTED = {"botocore": ">=1.31,<2"}

_ENTRIES = (Entry(("_make_api_call",), "BaseClient"),)
_SERVICES = frozenset({"bedrock-runtime", "bedrock-agent-runtime"})

_Wrapped = Callable[..., Any]


def apply(module: ModuleType, patching: Patching) -> None:
    name = module.__name__.rpartition(".")[2]
    if name == "client":
        patch_entries(module, patching, _ENTRIES, _timeout)
    elif name == "response":
        for method in ("read", "readinto"):
            if method in vars(module.StreamingBody):
                patching.wrap_object(module.StreamingBody, method, _reading)
    else:
        patching.wrap_object(module.EventStream, "_create_raw_event_generator", _streaming)


def _timeout(client: Any, _args: object, _kwargs: object) -> Callable[[], Exception] | None:
    meta = client.meta
    if meta.service_model.service_name not in _SERVICES:
        return None

    def make() -> Exception:
        errors = importlib.import_module("botocore.exceptions")
        error: Exception = errors.ReadTimeoutError(endpoint_url=meta.endpoint_url)
        return error

    return make


def _reading(wrapped: _Wrapped, _body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return wrapped(*args, **kwargs)
    except Exception as exc:
        error = late(exc)
        if error is None:
            raise
        raise error from exc


def _streaming(wrapped: _Wrapped, _stream: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    try:
        yield from wrapped(*args, **kwargs)
    except Exception as exc:
        error = late(exc)
        if error is None:
            raise
        raise error from exc
