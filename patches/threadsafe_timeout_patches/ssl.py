"""`ssl`: in a scope, reading, writing and shaking hands end with the scope.

What OpenSSL does goes on after the socket is ready: half a record, a handshake of several flights. So a cancellation
shuts the connection down under it, and it is good for nothing more. Only a read that waits for the first byte of a
record waits as a plain socket does, and leaves the connection as it was. A cancelled handshake closes the socket:
`wrap_socket` itself did, before 3.13, on errors only.

`SSLObject` does not block. Sockets with timeout 0 are not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from select import POLLIN
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.catchable import CANCELLED
from threadsafe_timeout_patches._waiting import replace_attribute
from threadsafe_timeout_patches.socket import at_least, guarded, room, wait_for

__all__ = ["MODULES", "apply"]

MODULES = ("ssl",)

_Method = Callable[..., Any]
_current_scope = _around.current_scope


def apply(module: ModuleType, patching: Patching) -> None:
    cls = module.SSLSocket
    replace_attribute(patching, cls, "read", _reading(cls.read))
    # `sendall` sends; `recv` and `recv_into` read; `connect` and `accept` shake hands.
    for name in ("write", "send", "unwrap"):
        replace_attribute(patching, cls, name, _guarding(getattr(cls, name)))
    replace_attribute(patching, cls, "do_handshake", _shaking_hands(cls.do_handshake))


def _guarding(original: _Method) -> _Method:
    def call(sock: Any, /, *args: Any, **kwargs: Any) -> Any:
        if _current_scope() is None or sock.gettimeout() == 0:
            return original(sock, *args, **kwargs)
        return guarded(original, sock, *args, **kwargs)

    return call


def _shaking_hands(original: _Method) -> _Method:
    def do_handshake(sock: Any, block: Any = False) -> Any:
        if _current_scope() is None or (sock.gettimeout() == 0 and not block):
            return original(sock, block)
        try:
            return guarded(original, sock, block)
        except CANCELLED:
            sock.close()
            raise

    return do_handshake


def _reading(original: _Method) -> _Method:
    def read(sock: Any, len: Any = 1024, buffer: Any = None) -> Any:
        if _current_scope() is None or (timeout := sock.gettimeout()) == 0:
            return original(sock, len, buffer)
        if not (at_least(1, len) if buffer is None else room(buffer) > 0):
            return original(sock, len, buffer)  # at once: for nothing, or to refuse
        if sock._sslobj is not None and sock.pending() == 0:
            wait_for(sock, POLLIN, timeout, "The read operation timed out")
        return guarded(original, sock, len, buffer)

    return read
