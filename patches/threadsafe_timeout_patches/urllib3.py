"""urllib3, and so requests: a cancelled wait for a connection of a full pool takes none; `http_timeout`.

The wait ends with the scope as every wait on a queue does. But urllib3 puts back, after anything that it does not
expect, a connection that it may not have taken; its own `EmptyPoolError` is what it expects there.

In the total of one `urlopen` are its retries, back-off, redirects and body; see `http_client` for the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes.catchable import library_call
from threadsafe_timeout_patches import _llm_call
from threadsafe_timeout_patches._waiting import replace_attribute
from threadsafe_timeout_patches.http_client import Late, exchange

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("urllib3.connectionpool", "urllib3.poolmanager", "urllib3.response")
SUPPORTED = {"urllib3": ">=1.26,<3"}

_Wrapped = Callable[..., Any]


def apply(module: ModuleType, patching: Patching) -> None:
    name = module.__name__.rpartition(".")[2]
    if name == "response":
        _say_which_timeout(module, patching)
        return
    if name == "connectionpool":
        _patch_waiting_for_a_connection(module, patching)
    kind = module.HTTPConnectionPool if name == "connectionpool" else module.PoolManager
    patching.wrap_object(kind, "urlopen", exchange(_read_timeout))


def _read_timeout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Exception]:
    def make() -> Exception:
        from urllib3.exceptions import ReadTimeoutError

        url = args[1] if len(args) > 1 else kwargs.get("url")
        error: Exception = ReadTimeoutError(None, url, "timed out")  # type: ignore[arg-type]  # the pool, for its repr
        return error

    return make


def _patch_waiting_for_a_connection(module: ModuleType, patching: Patching) -> None:
    def get_conn(wrapped: _Wrapped, pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except Cancelled as exc:
            raise module.EmptyPoolError(pool, "cancelled while waiting for a connection") from exc

    def urlopen(wrapped: _Wrapped, _pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with library_call():
            try:
                return wrapped(*args, **kwargs)
            except module.EmptyPoolError as exc:
                if isinstance(exc.__cause__, Cancelled):
                    raise exc.__cause__  # noqa: B904  # it is that one; and to ask for it here would count as clean-up
                raise

    patching.wrap_object(module.HTTPConnectionPool, "_get_conn", get_conn)
    patching.wrap_object(module.HTTPConnectionPool, "urlopen", urlopen)


def _say_which_timeout(module: ModuleType, patching: Patching) -> None:
    """urllib3 makes a `ReadTimeoutError` of every timeout in a body, with a text of its own: put ours in."""
    original = module.HTTPResponse._error_catcher

    @contextmanager
    def explaining(catcher: Any) -> Iterator[None]:
        try:
            with catcher:
                yield
        except module.ReadTimeoutError as exc:
            cause = exc.__cause__ or exc.__context__
            if isinstance(cause, Late):
                _llm_call.explained(exc, cause.call.reason())
            raise

    def error_catcher(response: Any, *args: Any, **kwargs: Any) -> Any:
        catcher = original(response, *args, **kwargs)
        file = getattr(getattr(response, "_fp", None), "fp", None)
        # Only where a body has a limit: this is called at every read.
        return explaining(catcher) if getattr(type(file), "has_a_limit", False) else catcher

    replace_attribute(patching, module.HTTPResponse, "_error_catcher", error_catcher)
