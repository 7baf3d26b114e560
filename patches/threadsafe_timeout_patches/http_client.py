"""`http.client`, and so urllib.request, urllib3, requests and botocore: the body of an answer is held to the total of
its call (`http_timeout`, or `llm_timeout`), see `_llm_call`.

What `http.client` reads comes from a file over the socket. In its place is one that reads each piece in a scope, until
the call's time is up; then it raises `Late`, a `TimeoutError`, from which what is built on it finds the way back to the
call and its error (`late`).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt  # noqa: F401  # `apply` needs it, and is to import nothing

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import deadlines as _deadlines
from threadsafe_timeout_patches import _llm_call
from threadsafe_timeout_patches._waiting import replace_attribute

__all__ = ["MODULES", "Late", "apply", "late"]

MODULES = ("http.client", "urllib.request")

_Method = Callable[..., Any]
_EXCHANGE = "_threadsafe_timeout_exchange"  # on a connection, between its request and the answer


class Late(TimeoutError):
    """Raised by a read of a body past the total of its call."""

    def __init__(self, call: _llm_call.Call) -> None:
        super().__init__(f"timed out: {call.reason()}")
        self.call = call


def late(exc: BaseException) -> Exception | None:
    """The error of the call, if `exc` was raised because a body was not read in time."""
    cause: BaseException | None = exc
    for _ in range(10):
        if cause is None:
            return None
        if isinstance(cause, Late):
            return cause.call.used_up()
        cause = cause.__cause__ or cause.__context__
    return None


def apply(module: ModuleType, patching: Patching) -> None:
    if module.__name__ == "urllib.request":
        patching.wrap_object(module.OpenerDirector, "open", exchange(lambda *_: TimeoutError))
        return
    connection = module.HTTPConnection
    replace_attribute(patching, connection, "request", _requesting(connection.request))
    replace_attribute(patching, connection, "getresponse", _getting_response(connection.getresponse))


def exchange(make_error: Callable[..., Callable[[], Exception]]) -> Callable[..., Any]:
    """A wrapper for what makes one HTTP exchange: it is a call of its own if it is part of none and has a limit.
    `make_error` gets positional and named arguments."""

    def call(wrapped: _Method, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = _llm_call.http_call(make_error(args, kwargs)) if _llm_call.current() is None else None
        return wrapped(*args, **kwargs) if own is None else _llm_call.run(own, wrapped, *args, **kwargs)

    return call


def _requesting(original: _Method) -> _Method:
    def request(connection: Any, /, *args: Any, **kwargs: Any) -> Any:
        around = _llm_call.current()
        if around is not None:
            _llm_call.begin_attempt(around)
            return original(connection, *args, **kwargs)
        call = _llm_call.http_call(TimeoutError)
        if call is None:
            return original(connection, *args, **kwargs)
        setattr(connection, _EXCHANGE, call)
        return _llm_call.run(call, original, connection, *args, **kwargs)

    return request


def _getting_response(original: _Method) -> _Method:
    def getresponse(connection: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = _llm_call.current()
        if call is not None:
            return _limited(call, original(connection, *args, **kwargs))
        call = vars(connection).pop(_EXCHANGE, None) or _llm_call.http_call(TimeoutError)
        if call is None:
            return original(connection, *args, **kwargs)
        return _limited(call, _llm_call.run(call, original, connection, *args, **kwargs))

    return getresponse


def _limited(call: _llm_call.Call, response: Any) -> Any:
    if call.limit is not None and not call.carried and response.fp is not None and response.status != 101:
        response.fp = _File(call, response.fp)
    return response


class _File:
    """A file of a response, whose reads end with the call."""

    has_a_limit = True

    def __init__(self, call: _llm_call.Call, file: Any) -> None:
        self._call = call
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _in_time(self, read: _Method, *args: Any) -> Any:
        call = self._call
        if not call.answered:
            return read(*args)  # in the scope around the client's whole work
        with _deadlines.move_on_at(call.until) as scope:
            return read(*args)
        assert scope.cancelled_caught
        self._hang_up()
        raise Late(call)

    def _hang_up(self) -> None:
        """Whoever keeps the response, or the error, keeps no connection with it."""
        sock = getattr(getattr(self._file, "raw", None), "_sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def read(self, *args: Any) -> Any:
        return self._in_time(self._file.read, *args)

    def read1(self, *args: Any) -> Any:
        return self._in_time(self._file.read1, *args)

    def readinto(self, *args: Any) -> Any:
        return self._in_time(self._file.readinto, *args)

    def readline(self, *args: Any) -> Any:
        return self._in_time(self._file.readline, *args)

    def peek(self, *args: Any) -> Any:
        return self._in_time(self._file.peek, *args)
