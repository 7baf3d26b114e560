"""`multiprocessing`: waits for processes and for messages end with the scope around them.

Guarantees:

- `Process.join`, `Connection.recv`, `Connection.poll`, `connection.wait`, and what is built of them, are woken.
- `Queue.get` and `put` end at the deadline; woken as well, unless another process or thread holds the queue's lock.
- A message is received whole or not at all: a connection that is cancelled in the middle of one is closed.
- A manager's proxy that is cancelled while it waits for an answer uses a new connection afterwards: the answer that is
  still to come is not taken for the next one.
- A child of a fork server has what `install()` gave its parent, as a forked one has.
- A process that is forked inside a scope is not in it, and its parent's deadlines do nothing in it.

The process that was waited for is left running, as after a timeout.

`Process.join`, `recv`, `poll`, `get` and `put` that need not wait do not raise.

Not reached: locks, semaphores, conditions and events of `multiprocessing`, which wait in C; sending to a full pipe.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from select import POLLIN, poll
from types import ModuleType
from typing import Any

from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout_patches import _llm_call
from threadsafe_timeout_patches._children import WithTheLine
from threadsafe_timeout_patches._descriptors import exit_descriptor, wait_ready
from threadsafe_timeout_patches._waiting import Remaining, replace_attribute

__all__ = ["MODULES", "apply"]

MODULES = (
    "multiprocessing.connection", "multiprocessing.managers", "multiprocessing.popen_fork", "multiprocessing.process",
    "multiprocessing.queues",
)  # fmt: skip

_A_MOMENT = 1.0  # seconds, for what takes much less
_Wrapped = Callable[..., Any]


def apply(module: ModuleType, patching: Patching) -> None:
    name = module.__name__.rpartition(".")[2]
    {
        "connection": _patch_connection,
        "managers": _patch_proxy,
        "popen_fork": _patch_popen,
        "process": _patch_process,
        "queues": _patch_queue,
    }[name](module, patching)


def _patch_process(module: ModuleType, patching: Patching) -> None:
    original, installer = module.BaseProcess._bootstrap, os.getpid()

    def bootstrap(self: Any, parent_sentinel: int | None = None) -> int:
        if os.getpid() != installer:  # forked; a spawned child has installed this itself, and its deadlines are its own
            _leave_inherited()
        return original(self, parent_sentinel)  # type: ignore[no-any-return]  # the original is untyped

    replace_attribute(patching, module.BaseProcess, "_bootstrap", bootstrap)
    start_original = module.BaseProcess.start

    def start(self: Any) -> None:
        by_server = _starts_by_server(self)
        if by_server:
            self.__dict__["_threadsafe_timeout"] = WithTheLine()
        try:
            start_original(self)
        finally:
            if by_server:
                del self.__dict__["_threadsafe_timeout"]

    replace_attribute(patching, module.BaseProcess, "start", start)


def _starts_by_server(process: Any) -> bool:
    from multiprocessing import get_start_method

    method = getattr(process, "_start_method", None)
    return (method or get_start_method(allow_none=True) or get_start_method()) == "forkserver"


def _leave_inherited() -> None:
    """In a forked child, which never comes to the edge of the blocks that its parent was in."""
    scope = innermost = _around.current.get()
    _around.current.set(None)
    _llm_call._current.set(None)
    with _timer.lock:
        # Those of the parent's other threads too: what they would wake is shared with the parent.
        for entry in list(_timer._heap):
            _timer.disarm(entry)
        while scope is not None:
            if not scope._once:  # an alarm: none is left after a fork
                scope._state, scope._frame = _around.DONE, None
            scope = scope._parent
    while innermost is not None:
        _pursuit.dismiss(innermost)  # it may have expired since the fork
        innermost = innermost._parent


def _patch_popen(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.Popen.wait, _around.current_scope

    def wait(self: Any, timeout: float | None = None) -> int | None:
        if current_scope() is None or self.returncode is not None:
            return original(self, timeout)  # type: ignore[no-any-return]  # the original is untyped
        return _wait_in_scope(original, self, timeout)

    replace_attribute(patching, module.Popen, "wait", wait)


def _wait_in_scope(original: _Wrapped, popen: Any, timeout: float | None) -> int | None:
    # A fork server reaps its processes by itself: the number may be another one's by now.
    descriptor = None if popen.method == "forkserver" else exit_descriptor(popen.pid)
    watched = popen.sentinel if descriptor is None else descriptor
    try:
        if not _is_ready(watched) and not wait_ready(watched, POLLIN, timeout):
            return None
    finally:
        if descriptor is not None:
            os.close(descriptor)
    with _shield.shield(_A_MOMENT):
        code: int | None = original(popen)  # it has ended: this reaps it
    return code


def _patch_connection(module: ModuleType, patching: Patching) -> None:
    connection, current_scope = module.Connection, _around.current_scope
    original_recv, original_poll = connection._recv_bytes, connection._poll

    def recv_bytes(self: Any, maxsize: int | None = None) -> Any:
        return original_recv(self if current_scope() is None else _Message(self), maxsize)

    def poll(self: Any, timeout: float | None) -> bool:
        if current_scope() is not None:
            ready = _is_ready(self._handle)
            if ready or (timeout is not None and timeout <= 0):
                return ready
        return original_poll(self, timeout)  # type: ignore[no-any-return]  # the original is untyped

    replace_attribute(patching, connection, "_recv_bytes", recv_bytes)
    replace_attribute(patching, connection, "_poll", poll)


class _Message:
    """Stands in for a connection while one message is read from it: it knows whether any of it was."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _recv(self, size: int) -> Any:
        return self._connection._recv(size, self._read)

    def _read(self, descriptor: int, size: int) -> bytes:
        if not _is_ready(descriptor):
            try:
                wait_ready(descriptor, POLLIN, None)
            except BaseException:  # Cancelled, or what an alarm's handler raised
                if self._begun:
                    self._connection.close()  # the rest of this message would be taken for the next one
                raise
        # It is read however cancelled the scope is: between a wait and this, nothing is lost.
        read = os.read(descriptor, size)
        self._begun = True
        return read


def _is_ready(descriptor: int) -> bool:
    """Whether it can be read without waiting. No cooperative point."""
    poller = poll()
    poller.register(descriptor, POLLIN)
    return bool(poller.poll(0))


def _patch_proxy(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.BaseProxy._callmethod, _around.current_scope

    def callmethod(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current_scope() is None:
            return original(self, *args, **kwargs)
        if _around.cancel_pending() and not hasattr(self._tls, "connection"):
            # A clean-up, most likely: that it releases a lock must reach the manager, as it would have before.
            with _shield.shield(_A_MOMENT):
                self._connect()
        try:
            return original(self, *args, **kwargs)
        except BaseException as exc:  # Cancelled, or what an alarm's handler raised
            if not _is_answer(exc):
                _disconnect(self._tls)
            raise

    replace_attribute(patching, module.BaseProxy, "_callmethod", callmethod)


def _is_answer(exc: BaseException) -> bool:
    """Whether the manager sent it, or will send nothing any more: then the connection is as the original leaves it."""
    within = exc.__traceback__ and exc.__traceback__.tb_next  # the original's frame; what was sent is raised in there
    return isinstance(exc, (ConnectionError, EOFError)) or within is None or within.tb_next is None


def _disconnect(local: Any) -> None:
    connection = local.__dict__.pop("connection", None)
    if connection is not None:
        connection.close()


def _patch_queue(module: ModuleType, patching: Patching) -> None:
    original_get, current_scope = module.Queue.get, _around.current_scope

    def get(self: Any, block: bool = True, timeout: float | None = None) -> Any:
        if current_scope() is None or not block:
            return original_get(self, block, timeout)
        return _capped(lambda seconds: original_get(self, True, seconds), timeout, queue.Empty)

    replace_attribute(patching, module.Queue, "get", get)
    for owner in (module.Queue, module.JoinableQueue):  # which has a `put` of its own
        _patch_put(owner, patching)


def _patch_put(owner: Any, patching: Patching) -> None:
    original, current_scope = owner.put, _around.current_scope

    def put(self: Any, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        if current_scope() is None or not block:
            original(self, obj, block, timeout)
        else:
            _capped(lambda seconds: original(self, obj, True, seconds), timeout, queue.Full)

    replace_attribute(patching, owner, "put", put)


def _capped(call: Callable[[float | None], Any], timeout: float | None, expired: type[Exception]) -> Any:
    remaining = Remaining(timeout)
    while True:
        try:
            return call(remaining.seconds())  # 0 in a cancelled scope: what needs no wait is done
        except expired:
            _around.raise_if_cancelled()
            if not remaining.own:
                raise
