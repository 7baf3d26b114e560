"""requests: `http_timeout`, a total for each request, its redirects and its body; see `_llm_call`.

What requests makes of a timeout in a body is a `ConnectionError`; past the total it is its `ReadTimeout`, as before the
body.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout_patches.http_client import exchange, late

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("requests.sessions", "requests.models")
SUPPORTED = {"requests": ">=2.25,<3"}


def apply(module: ModuleType, patching: Patching) -> None:
    if module.__name__ == "requests.sessions":
        patching.wrap_object(module.Session, "send", exchange(_read_timeout))
    else:
        patching.wrap_object(module.Response, "iter_content", _iter_content)


def _read_timeout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Exception]:
    def make() -> Exception:
        errors = importlib.import_module("requests.exceptions")
        request = args[0] if args else kwargs.get("request")
        error: Exception = errors.ReadTimeout("timed out", request=request)
        return error

    return make


def _iter_content(
    wrapped: Callable[..., Any], response: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Any]:
    pieces = wrapped(*args, **kwargs)  # which refuses what it refuses here, not at the first piece
    return pieces if response._content_consumed else _in_time(pieces)


def _in_time(pieces: Any) -> Iterator[Any]:
    try:
        yield from pieces
    except Exception as exc:
        error = late(exc)
        if error is None:
            raise
        raise error from exc
