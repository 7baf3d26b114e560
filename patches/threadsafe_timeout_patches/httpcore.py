"""httpcore and httpcore2: what is left to do when sockets and waits end with the scope (see `socket`, `ssl`,
`threading`), or, in asynchronous code, the task is cancelled.

A cancellation that comes out of a request makes httpcore close the connection, and not return it to its pool. But
through a proxy, and in an asynchronous TLS handshake, it reckons with errors only: the connection would stay open, or
keep its place in the pool for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.catchable import CANCELLED

__all__ = ["MODULES", "SUPPORTED", "apply"]

SUPPORTED = {"httpcore": ">=1.0,<2", "httpcore2": ">=2,<3"}
MODULES = tuple(
    f"{package}.{module}"
    for package in ("httpcore", "httpcore2")
    for module in (
        "_backends.anyio", "_sync.http_proxy", "_sync.socks_proxy", "_async.http_proxy", "_async.socks_proxy",
    )
)  # fmt: skip

_Wrapped = Callable[..., Any]
_Arguments = tuple[Any, ...]


def apply(module: ModuleType, patching: Patching) -> None:
    name = module.__name__.partition(".")[2]
    if name == "_backends.anyio":
        patching.wrap_object(module.AnyIOStream, "start_tls", _start_tls(module))
    else:
        kind = "TunnelHTTPConnection" if name.endswith("http_proxy") else "Socks5Connection"
        if name.startswith("_sync"):
            patching.wrap_object(getattr(module, kind), "handle_request", _through_proxy)
        else:
            patching.wrap_object(getattr(module, f"Async{kind}"), "handle_async_request", _through_proxy_async)


def _start_tls(module: ModuleType) -> Callable[..., Any]:
    async def start_tls(wrapped: _Wrapped, stream: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
        try:
            return await wrapped(*args, **kwargs)
        except asyncio.CancelledError:
            if _around.current_scope() is not None:
                await module.anyio.aclose_forcefully(stream._stream)
            raise

    return start_tls


def _is_half_open(connection: Any) -> bool:
    """Whether a connection through a proxy got as far as the proxy only: then it is to be closed."""
    if _around.current_scope() is None:
        return False
    if connection._connection is None:  # SOCKS: there is nothing to close yet, and the pool asks for this
        connection._connect_failed = True
        return False
    return not getattr(connection, "_connected", True)


def _through_proxy(wrapped: _Wrapped, connection: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    try:
        return wrapped(*args, **kwargs)
    except CANCELLED:
        if _is_half_open(connection):
            connection.close()
        raise


async def _through_proxy_async(wrapped: _Wrapped, connection: Any, args: _Arguments, kwargs: dict[str, Any]) -> Any:
    try:
        return await wrapped(*args, **kwargs)
    except asyncio.CancelledError:
        if _is_half_open(connection):
            await connection.aclose()
        raise
