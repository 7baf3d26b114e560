"""`socket`: in a scope, what would block ends with the scope; outside it is the original, one look-up later.

Guarantees:

- Sockets that never block (timeout 0: those of event loops) are not touched, in a scope or not.
- The socket's own timeout keeps its meaning: it ends the call if it is shorter than what the scope has left.
- A cancelled `recv*`, `accept` or datagram send leaves the socket as it was. A cancelled `connect` closes it: no
  standard says what it is good for then, and callers like `create_connection` close it on an OSError only. A
  cancelled `send` or `sendall` on a stream has sent nobody knows how much: the connection is shut down.
- A file of `makefile()` whose read was cancelled is not read again, as after a timeout: what its buffer had of the line
  is lost, and the rest would pass for the whole.

How: a thread that waits to receive polls the socket together with a descriptor that cancelling makes readable. A call
that blocks in spite of readiness (connecting, sending more than the buffers take) is woken by `shutdown(SHUT_RDWR)`
from the cancelling thread; `close()` would not wake it. A shutdown that comes a moment before the `connect` it is to
end has no effect on it, so it is repeated.

Not covered: `getaddrinfo`, and with it the resolving of a host name in `connect`, cannot be interrupted; the scope's
cancellation is raised when it returns. Of several threads or processes that accept from one blocking listener, who
loses the race for a connection waits for the next.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable
from errno import EAGAIN, ENOTCONN
from select import POLLIN, POLLOUT
from types import ModuleType
from typing import Any

from threadsafe_timeout import _scope, _timer
from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._install import Patching
from threadsafe_timeout_patches._descriptors import wait_ready
from threadsafe_timeout_patches._waiting import replace_attribute

__all__ = ["MODULES", "apply", "guarded", "wait_for"]

MODULES = ("socket",)

_Method = Callable[..., Any]
_current_scope = _scope._current.get  # `current_scope`, without a call of ours on every operation of every socket

# Those of the C base class, so that what a subclass overrides (SSLSocket.shutdown, say) is not called.
_timeout_of = _socket.socket.gettimeout
_set_timeout = _socket.socket.settimeout
_descriptor_of = _socket.socket.fileno
_shut_down = _socket.socket.shutdown
_type_of: Callable[[socket.socket], int] = _socket.socket.type.__get__
_family_of: Callable[[socket.socket], int] = _socket.socket.family.__get__

# Plain numbers: arithmetic with the enumerations of `socket` takes longer than the calls.
_NEVER_BLOCKS = int(socket.MSG_DONTWAIT | socket.MSG_OOB | getattr(socket, "MSG_ERRQUEUE", 0))
_AT_ONCE, _ALL, _STREAM = int(socket.MSG_DONTWAIT), int(socket.MSG_WAITALL), int(socket.SOCK_STREAM)
_RETRY_UNIX_CONNECT = 0.005
_RETRY_SHUTDOWN, _LONGEST_RETRY = 0.002, 0.05  # while a name is resolved, ever more rarely


def apply(module: ModuleType, patching: Patching) -> None:
    cls = module.socket
    for name, scoped in _METHODS.items():
        if hasattr(cls, name):
            replace_attribute(patching, cls, name, scoped(getattr(cls, name)))
    replace_attribute(patching, module.SocketIO, "readinto", _reading_file(module.SocketIO.readinto))


def wait_for(sock: socket.socket, events: int, timeout: float | None, expired: str = "timed out") -> None:
    """Wait until `sock` is ready, `timeout` seconds at most; past that, raise what the socket itself would."""
    fd = _descriptor_of(sock)
    # A closed socket has no descriptor to wait for: the call itself says what is wrong.
    if fd >= 0 and not wait_ready(fd, events, timeout):
        raise TimeoutError(expired)


def guarded(original: _Method, sock: socket.socket, *args: Any, **kwargs: Any) -> Any:
    """Call `original`; should a scope around be cancelled, the connection is shut down, which ends the call."""
    _scope.raise_if_cancelled()
    was_shut_down, retry_in = False, _RETRY_SHUTDOWN

    def shut_down() -> None:
        nonlocal was_shut_down, retry_in
        was_shut_down = True
        try:
            _shut_down(sock, socket.SHUT_RDWR)
        except OSError as exc:
            if exc.errno == ENOTCONN:  # not yet, or no more; in the latter case the call ends by itself
                _timer.call_later(retry_in, registration.run)
                retry_in = min(2 * retry_in, _LONGEST_RETRY)

    registration = _scope.Registration(shut_down)
    registration.attach(_current_scope())
    try:
        return original(sock, *args, **kwargs)
    finally:
        registration.unregister()
        if was_shut_down:
            # What the shutdown made of the call (an error, an end of file) is not the reason it ended.
            _scope.raise_if_cancelled()


# Signatures are spelt out, for *args and **kwargs would cost twice as much outside scopes as all the rest.


def _receiving(original: _Method) -> _Method:
    def receive(sock: socket.socket, size: Any, flags: int = 0, /) -> Any:
        if _current_scope() is None:
            return original(sock, size, flags)
        return _receive(original, sock, size, flags=flags)

    return receive


def _receiving_more(original: _Method) -> _Method:
    def receive(sock: socket.socket, buffer: Any, nbytes: int = 0, flags: int = 0) -> Any:
        if _current_scope() is None:
            return original(sock, buffer, nbytes, flags)
        return _receive(original, sock, buffer, nbytes, flags=flags)

    return receive


def _receive(original: _Method, sock: socket.socket, *args: Any, flags: int) -> Any:
    timeout = _timeout_of(sock)
    if timeout == 0 or flags & _NEVER_BLOCKS:
        return original(sock, *args, flags)
    if timeout is not None:
        wait_for(sock, POLLIN, timeout)
        return original(sock, *args, flags)
    if flags & _ALL:
        return guarded(original, sock, *args, flags)
    while True:
        wait_for(sock, POLLIN, None)
        try:
            return original(sock, *args, flags | _AT_ONCE)
        except BlockingIOError:
            continue  # another thread was faster, or a checksum was wrong


def _reading_file(original: _Method) -> _Method:
    def readinto(file: Any, b: Any) -> Any:
        try:
            return original(file, b)
        except Cancelled:
            file._timeout_occurred = True
            raise

    return readinto


def _sending(original: _Method) -> _Method:
    def send(sock: socket.socket, data: Any, flags: int = 0, /) -> Any:
        if _current_scope() is None:
            return original(sock, data, flags)
        return _send(original, sock, data, flags)

    return send


def _sending_to(original: _Method) -> _Method:
    def send(sock: socket.socket, /, *args: Any) -> Any:
        if _current_scope() is None:
            return original(sock, *args)
        return _send(original, sock, *args)

    return send


def _send(original: _Method, sock: socket.socket, *args: Any) -> Any:
    timeout = _timeout_of(sock)
    if timeout == 0:
        return original(sock, *args)
    if timeout is None and _type_of(sock) == _STREAM:
        return guarded(original, sock, *args)  # blocks until all of it is sent
    wait_for(sock, POLLOUT, timeout)
    return original(sock, *args)


def _sending_all(original: _Method) -> _Method:
    def sendall(sock: socket.socket, data: Any, flags: int = 0, /) -> Any:
        if _current_scope() is None or _timeout_of(sock) == 0:
            return original(sock, data, flags)
        return guarded(original, sock, data, flags)

    return sendall


def _sending_file(original: _Method) -> _Method:
    def sendfile(sock: socket.socket, /, *args: Any, **kwargs: Any) -> Any:
        if _current_scope() is None or _timeout_of(sock) == 0:
            return original(sock, *args, **kwargs)
        return guarded(original, sock, *args, **kwargs)

    return sendfile


def _accepting(original: _Method) -> _Method:
    def accept(sock: socket.socket, /) -> Any:
        if _current_scope() is not None and (timeout := _timeout_of(sock)) != 0:
            wait_for(sock, POLLIN, timeout)
        return original(sock)

    return accept


def _connecting(original: _Method) -> _Method:
    def connect(sock: socket.socket, address: Any, /) -> Any:
        if _current_scope() is None or (timeout := _timeout_of(sock)) == 0:
            return original(sock, address)
        try:
            if timeout is None and _family_of(sock) == socket.AF_UNIX:
                return _connect_unix(original, sock, address)
            return guarded(original, sock, address)
        except Cancelled:
            sock.close()
            raise

    return connect


def _connect_unix(original: _Method, sock: socket.socket, address: Any) -> Any:
    """A connect that waits for room in the listener's queue, from which a shutdown does not wake it."""
    _set_timeout(sock, 0)
    try:
        while True:
            _scope.raise_if_cancelled()
            try:
                result = original(sock, address)
            except BlockingIOError:
                result = EAGAIN
            if result != EAGAIN:  # connect_ex returns it
                return result
            _scope.sleep(_RETRY_UNIX_CONNECT)
    finally:
        _set_timeout(sock, None)


_METHODS = {
    "recv": _receiving,
    "recvfrom": _receiving,
    "recv_into": _receiving_more,
    "recvfrom_into": _receiving_more,
    "recvmsg": _receiving_more,
    "recvmsg_into": _receiving_more,
    "send": _sending,
    "sendto": _sending_to,
    "sendmsg": _sending_to,
    "sendall": _sending_all,
    "_sendfile_use_sendfile": _sending_file,
    "_accept": _accepting,
    "connect": _connecting,
    "connect_ex": _connecting,
}
