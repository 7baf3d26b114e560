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
end has no effect on it, so it is repeated. What is whole or nothing (a message, a connection to accept) is tried and
waited for in turn, because between a poll and the call another thread may be faster.

Not covered: `getaddrinfo`, and with it the resolving of a host name in `connect`, cannot be interrupted; the scope's
cancellation is raised when it returns. Of several threads or processes that accept from one listener without a timeout,
or that read one stream with a timeout, who loses the race waits for the next connection, or for that timeout.
"""

from __future__ import annotations

import _socket
import operator
import os
import socket
from collections.abc import Callable
from errno import EAGAIN, ENOTCONN
from select import POLLIN, POLLOUT
from types import ModuleType
from typing import Any

from threadsafe_timeout._environment import finder as _finder
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes import sleep as _sleep
from threadsafe_timeout._scopes.catchable import CANCELLED
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout_patches._descriptors import wait_ready
from threadsafe_timeout_patches._waiting import Remaining, replace_attribute

__all__ = ["MODULES", "apply", "at_least", "guarded", "room", "wait_for"]

MODULES = ("socket",)

_Method = Callable[..., Any]
_current_scope = _around.current_scope

# Those of the C base class, so that what a subclass overrides (SSLSocket.shutdown, say) is not called.
_timeout_of = _socket.socket.gettimeout
_set_timeout = _socket.socket.settimeout
_descriptor_of = _socket.socket.fileno
_shut_down = _socket.socket.shutdown
_type_of: Callable[[socket.socket], int] = _socket.socket.type.__get__
_family_of: Callable[[socket.socket], int] = _socket.socket.family.__get__
_protocol_of: Callable[[socket.socket], int] = _socket.socket.proto.__get__

# Plain numbers: arithmetic with the enumerations of `socket` takes longer than the calls.
_NEVER_BLOCKS = int(socket.MSG_DONTWAIT | socket.MSG_OOB | getattr(socket, "MSG_ERRQUEUE", 0))
_AT_ONCE, _ALL, _STREAM = int(socket.MSG_DONTWAIT), int(socket.MSG_WAITALL), int(socket.SOCK_STREAM)
_RETRY_UNIX = 0.005
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
    _around.raise_if_cancelled()
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

    registration = _registration.Registration(shut_down)
    _registration.attach_here(registration)
    try:
        return original(sock, *args, **kwargs)
    finally:
        registration.unregister()
        if was_shut_down:
            # What the shutdown made of the call (an error, an end of file) is not the reason it ended.
            _around.raise_if_cancelled()


def room(buffer: Any, size: Any = 0) -> int:
    """How much the original would receive into `buffer`; -1 for what it refuses."""
    try:
        with memoryview(buffer) as view:
            wanted = operator.index(size)
            return -1 if view.readonly or wanted > view.nbytes else wanted or view.nbytes
    except TypeError:
        return -1


def at_least(least: int, size: Any) -> bool:
    try:
        return operator.index(size) >= least
    except TypeError:
        return False


def _never_blocks(sock: socket.socket) -> bool:
    """Whether a socket without a timeout has a descriptor that does not block all the same, as `fromfd` may make it."""
    fd = _descriptor_of(sock)
    return fd >= 0 and not os.get_blocking(fd)


def _in_turn(original: _Method, sock: socket.socket, events: int, timeout: float | None, *args: Any) -> Any:
    """Try and wait, try and wait; for a call that, without a timeout, does not wait by itself."""
    _around.raise_if_cancelled()
    remaining = Remaining(timeout)
    was_ready = False
    while True:
        try:
            return original(sock, *args) if timeout is None else _without_timeout(original, sock, *args)
        except BlockingIOError:
            if timeout is None and _never_blocks(sock):
                raise
        if was_ready:
            # Another thread was faster, or a checksum was wrong. Or it is the queue of a Unix socket that this one is
            # not connected to, for which there is nothing to wait on.
            if timeout is not None and not remaining.own:
                raise TimeoutError("timed out")
            if events == POLLOUT and _family_of(sock) == socket.AF_UNIX:
                _sleep.sleep(min(_RETRY_UNIX, remaining.own))
        wait_for(sock, events, None if timeout is None else remaining.own)
        was_ready = True


def _without_timeout(original: _Method, sock: socket.socket, *args: Any) -> Any:
    """The call on a second socket over the same connection: one that has a timeout would begin by waiting for it, where
    nothing wakes it, and setting it to 0 would be seen by the other threads that use the socket."""
    try:
        fd = os.dup(_descriptor_of(sock))
    except OSError:  # closed, which the call itself says; or too many are open
        return original(sock, *args)
    try:
        double = _socket.socket(_family_of(sock), _type_of(sock), _protocol_of(sock), fd)
    except BaseException:
        os.close(fd)
        raise
    try:
        if double.gettimeout() is not None:  # it has the default one. What both share does not block already
            double.settimeout(0)
        return original(double, *args)
    finally:
        double.close()


def _lasting(items: Any) -> Any:
    """`items`, to be gone through more than once."""
    return items if isinstance(items, (list, tuple)) or not hasattr(items, "__iter__") else list(items)


# Signatures are spelt out, for *args and **kwargs would cost twice as much outside scopes as all the rest.


def _receiving(original: _Method, least: int = 1) -> _Method:
    def receive(sock: socket.socket, size: Any, flags: int = 0, /) -> Any:
        if _current_scope() is None or not at_least(least, size):
            return original(sock, size, flags)
        return _receive(original, sock, size, flags=flags)

    return receive


def _receiving_from(original: _Method) -> _Method:
    return _receiving(original, least=0)  # a datagram of which nothing is wanted is waited for


def _receiving_into(original: _Method, least: int = 1) -> _Method:
    def receive(sock: socket.socket, buffer: Any, nbytes: int = 0, flags: int = 0) -> Any:
        if _current_scope() is None or room(buffer, nbytes) < least:
            return original(sock, buffer, nbytes, flags)
        return _receive(original, sock, buffer, nbytes, flags=flags)

    return receive


def _receiving_from_into(original: _Method) -> _Method:
    return _receiving_into(original, least=0)


def _receiving_message(original: _Method) -> _Method:
    def receive(sock: socket.socket, into: Any, ancillary: int = 0, flags: int = 0, /) -> Any:
        if _current_scope() is None:
            return original(sock, into, ancillary, flags)
        return _receive(original, sock, _lasting(into), ancillary, flags=flags)

    return receive


def _receive(original: _Method, sock: socket.socket, *args: Any, flags: int) -> Any:
    timeout = _timeout_of(sock)
    if timeout == 0 or flags & _NEVER_BLOCKS:
        return original(sock, *args, flags)
    if _type_of(sock) == _STREAM:
        if timeout is not None:
            wait_for(sock, POLLIN, timeout)
            return original(sock, *args, flags)
        if flags & _ALL:
            return guarded(original, sock, *args, flags)
    return _in_turn(original, sock, POLLIN, timeout, *args, flags | _AT_ONCE)


def _reading_file(original: _Method) -> _Method:
    def readinto(file: Any, b: Any) -> Any:
        try:
            return original(file, b)
        except CANCELLED:
            file._timeout_occurred = True
            raise

    return readinto


def _sending(original: _Method) -> _Method:
    def send(sock: socket.socket, data: Any, flags: int = 0, /) -> Any:
        if _current_scope() is None or (timeout := _timeout_of(sock)) == 0:
            return original(sock, data, flags)
        if _type_of(sock) != _STREAM:
            return _in_turn(original, sock, POLLOUT, timeout, data, flags | _AT_ONCE)
        return _send(original, sock, timeout, data, flags)

    return send


def _sending_to(original: _Method) -> _Method:
    def sendto(sock: socket.socket, /, *args: Any) -> Any:
        if _current_scope() is None or (timeout := _timeout_of(sock)) == 0 or not 2 <= len(args) <= 3:
            return original(sock, *args)
        if _type_of(sock) != _STREAM:
            flags = args[1] if len(args) == 3 else 0
            return _in_turn(original, sock, POLLOUT, timeout, args[0], flags | _AT_ONCE, args[-1])
        return _send(original, sock, timeout, *args)

    return sendto


def _sending_message(original: _Method) -> _Method:
    def sendmsg(sock: socket.socket, buffers: Any, ancillary: Any = (), flags: int = 0, /, *address: Any) -> Any:
        if _current_scope() is None or (timeout := _timeout_of(sock)) == 0:
            return original(sock, buffers, ancillary, flags, *address)
        if _type_of(sock) != _STREAM:
            message = _lasting(buffers), _lasting(ancillary), flags | _AT_ONCE, *address
            return _in_turn(original, sock, POLLOUT, timeout, *message)
        return _send(original, sock, timeout, buffers, ancillary, flags, *address)

    return sendmsg


def _send(original: _Method, sock: socket.socket, timeout: float | None, *args: Any) -> Any:
    if timeout is None:
        return guarded(original, sock, *args)  # blocks until all of it is sent
    wait_for(sock, POLLOUT, timeout)
    return original(sock, *args)


def _sending_all(original: _Method) -> _Method:
    def sendall(sock: socket.socket, data: Any, flags: int = 0, /) -> Any:
        if _current_scope() is None or (timeout := _timeout_of(sock)) == 0:
            return original(sock, data, flags)
        if _type_of(sock) != _STREAM:
            return _in_turn(original, sock, POLLOUT, timeout, data, flags | _AT_ONCE)
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
        if _current_scope() is None or (timeout := _timeout_of(sock)) == 0:
            return original(sock)
        if timeout is not None:
            return _in_turn(original, sock, POLLIN, timeout)
        if not _never_blocks(sock):
            wait_for(sock, POLLIN, None)
        return original(sock)

    return accept


def _connecting(original: _Method) -> _Method:
    def connect(sock: socket.socket, address: Any, /) -> Any:
        _finder.glance()  # the client that connects may be a module that came in unseen
        if _current_scope() is None or (timeout := _timeout_of(sock)) == 0:
            return original(sock, address)
        try:
            if timeout is None and _family_of(sock) == socket.AF_UNIX and not _never_blocks(sock):
                return _connect_unix(original, sock, address)
            return guarded(original, sock, address)
        except CANCELLED:
            sock.close()
            raise

    return connect


def _connect_unix(original: _Method, sock: socket.socket, address: Any) -> Any:
    """A connect that waits for room in the listener's queue, from which a shutdown does not wake it."""
    _set_timeout(sock, 0)
    try:
        while True:
            _around.raise_if_cancelled()
            try:
                result = original(sock, address)
            except BlockingIOError:
                result = EAGAIN
            if result != EAGAIN:  # connect_ex returns it
                return result
            _sleep.sleep(_RETRY_UNIX)
    finally:
        _set_timeout(sock, None)


_METHODS = {
    "recv": _receiving,
    "recvfrom": _receiving_from,
    "recv_into": _receiving_into,
    "recvfrom_into": _receiving_from_into,
    "recvmsg": _receiving_message,
    "recvmsg_into": _receiving_message,
    "send": _sending,
    "sendto": _sending_to,
    "sendmsg": _sending_message,
    "sendall": _sending_all,
    "_sendfile_use_sendfile": _sending_file,
    "_accept": _accepting,
    "connect": _connecting,
    "connect_ex": _connecting,
}
