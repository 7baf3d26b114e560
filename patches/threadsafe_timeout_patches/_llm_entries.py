"""Where the calls of an LLM client begin, as data, and the one way to patch them all."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._scopes.catchable import library_call
from threadsafe_timeout._timing.clock import monotonic
from threadsafe_timeout_patches import _llm_call

__all__ = ["Entry", "MakeError", "httpx_timeout", "patch_entries"]

_Wrapped = Callable[..., Any]
_Arguments = tuple[Any, ...]
MakeError = Callable[[Any, _Arguments, dict[str, Any]], Callable[[], Exception] | None]
"""Of the client (None for a function), positional and named arguments of a call: what makes the client's own timeout
error for it; None if it is no LLM call."""


class Entry(NamedTuple):
    """Names of methods, or functions, at which calls begin. Those that a version does not have are left out."""

    names: tuple[str, ...]
    owner: str = ""
    """The class that has them; functions of the module without one."""
    kind: Literal["call", "async call", "context manager", "async context manager"] = "call"


def patch_entries(module: ModuleType, patching: Patching, entries: Sequence[Entry], make_error: MakeError) -> None:
    """Patch those of `entries` that the module has. Raises LookupError if there is not one: then it is no version that
    the patch was made for."""
    found = 0
    for entry in entries:
        owner = getattr(module, entry.owner, None) if entry.owner else module
        for name in entry.names:
            if owner is None or not hasattr(owner, name):
                continue
            found += 1
            wrapper = _KINDS[entry.kind](make_error)
            if entry.owner:
                patching.wrap_object(owner, name, wrapper)
            else:
                patching.wrap_function(owner, name, wrapper)
    if not found:
        raise LookupError(f"{module.__name__} has none of the methods at which calls begin")


class _Counted:
    """Around a call, for whoever counts them."""

    __slots__ = ("_begun",)

    def __enter__(self) -> None:
        self._begun = monotonic()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if _observer.llm_called is not None:
            _observer.llm_called(monotonic() - self._begun, error)


def _calling(make_error: MakeError) -> Callable[..., Any]:
    @transparent
    def call(wrapped: _Wrapped, client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        error = make_error(client, args, kwargs) if _is_outermost() else None
        if error is None:
            return wrapped(*args, **kwargs)
        with _Counted(), library_call():
            return _llm_call.run(_llm_call.llm_call(error), wrapped, *args, **kwargs)

    return call


def _calling_async(make_error: MakeError) -> Callable[..., Any]:
    @transparent
    async def call(wrapped: _Wrapped, client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        error = make_error(client, args, kwargs) if _is_outermost() else None
        if error is None:
            return await wrapped(*args, **kwargs)
        with _Counted():
            return await _llm_call.run_async(_llm_call.llm_call(error), wrapped, *args, **kwargs)

    return call


def _entering(make_error: MakeError) -> Callable[..., Any]:
    def enter(wrapped: _Wrapped, client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        error = make_error(client, args, kwargs) if _is_outermost() else None
        manager = wrapped(*args, **kwargs)
        return manager if error is None else _llm_call.run_entering(lambda: _llm_call.llm_call(error), manager)

    return enter


def _entering_async(make_error: MakeError) -> Callable[..., Any]:
    def enter(wrapped: _Wrapped, client: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        error = make_error(client, args, kwargs) if _is_outermost() else None
        manager = wrapped(*args, **kwargs)
        return manager if error is None else _llm_call.run_entering_async(lambda: _llm_call.llm_call(error), manager)

    return enter


def _is_outermost() -> bool:
    around = _llm_call.current()
    return around is None or not around.is_llm


_KINDS: dict[str, Callable[[MakeError], Callable[..., Any]]] = {
    "call": _calling,
    "async call": _calling_async,
    "context manager": _entering,
    "async context manager": _entering_async,
}


def httpx_timeout(client: Any) -> Callable[[], Exception]:
    """What makes the `ReadTimeout` of the library that an HTTP client is of: httpx or httpx2.

    Its request, which handlers may ask for, has no header and no body: only where it went.
    """
    for cls in type(client).__mro__:
        package = cls.__module__.partition(".")[0]
        if package in {"httpx", "httpx2"}:
            http: Any = importlib.import_module(package)
            return lambda: http.ReadTimeout("timed out", request=http.Request("POST", str(client.base_url)))
    return TimeoutError
