"""httpcore and httpcore2, sync: every operation of a request is capped at the time its scope has left.

`timeout=60` of a client is per read; a server that trickles resets it for ever. Capping each operation, and refusing
to begin one in a cancelled scope, bounds the total. A scope that is cancelled shuts the socket down, which wakes a
blocked reader (closing it from another thread would not).
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout import _scope
from threadsafe_timeout._install import Patching

__all__ = ["MODULES", "apply"]

MODULES = (
    "httpcore._backends.sync",
    "httpcore._synchronization",
    "httpcore2._backends.sync",
    "httpcore2._synchronization",
)

# The cap is a second string to the shutdown: it must not fire before the deadline has passed.
_SLACK = 0.02
_Wrapped = Callable[..., Any]


def apply(module: ModuleType, patching: Patching) -> None:
    if module.__name__.endswith("_synchronization"):
        patching.wrap_object(module.Event, "wait", _pool_wait)
        return
    for stream in (module.SyncStream, module.TLSinTLSStream):
        # The position of `timeout` among the arguments: httpcore passes it either way.
        for name, position in (("read", 1), ("write", 1), ("start_tls", 2)):
            patching.wrap_object(stream, name, _stream_operation(position))
    for name, position in (("connect_tcp", 2), ("connect_unix_socket", 1)):
        patching.wrap_object(module.SyncBackend, name, _connect(position))


def _cap(args: tuple[Any, ...], kwargs: dict[str, Any], position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `timeout` capped; None (no limit) is capped too."""
    remaining = _scope.time_remaining()
    if remaining == math.inf:
        return args, kwargs
    given = args[position] if len(args) > position else kwargs.get("timeout")
    capped = remaining + _SLACK if given is None else min(given, remaining + _SLACK)
    if len(args) > position:
        return (*args[:position], capped, *args[position + 1 :]), kwargs
    return args, {**kwargs, "timeout": capped}


def _shut_down(stream: Any) -> None:
    # The base class's method: an SSLSocket's own would need its lock, and drop its TLS state under the reader.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(stream._sock, socket.SHUT_RDWR)


def _stream_operation(position: int) -> Callable[..., Any]:
    def operation(wrapped: _Wrapped, stream: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _scope.current_scope() is None:
            return wrapped(*args, **kwargs)
        _scope.raise_if_cancelled()
        registration = _scope.on_cancel(lambda: _shut_down(stream))
        try:
            args, kwargs = _cap(args, kwargs, position)
            result = wrapped(*args, **kwargs)
        except BaseException:
            registration.unregister()
            _scope.raise_if_cancelled()  # what the shutdown or the cap made of the call is not the reason it ended
            raise
        finally:
            registration.unregister()
        if result == b"":
            _scope.raise_if_cancelled()  # a reader woken by the shutdown sees an end of file
        return result

    return operation


def _connect(position: int) -> Callable[..., Any]:
    def connect(wrapped: _Wrapped, _backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _scope.current_scope() is None:
            return wrapped(*args, **kwargs)
        _scope.raise_if_cancelled()
        try:
            args, kwargs = _cap(args, kwargs, position)
            return wrapped(*args, **kwargs)
        except Exception:
            _scope.raise_if_cancelled()
            raise

    return connect


def _pool_wait(wrapped: _Wrapped, event: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Waiting for a free connection."""
    if _scope.current_scope() is None:
        return wrapped(*args, **kwargs)
    registration = _scope.on_cancel(event.set)
    try:
        args, kwargs = _cap(args, kwargs, 0)
        return wrapped(*args, **kwargs)
    finally:
        registration.unregister()
        _scope.raise_if_cancelled()
