"""The key of a call that nobody gave a key to: its function, and a fingerprint of its arguments.

Guarantees:

- Equal calls have equal keys, in every process and every run: no `hash()`, no `id()`, no `repr` of an object is in it.
  Sets and dicts count without their order.
- A key is a name and a digest: no argument can be read from it.
- An object is looked at once, when it first comes, for as long as it lives: a counter in it that tasks raise changes no
  later key.

What pickle could take is data, and counts by what it is made of. What it could not (a lock, a socket, a client) has no
stable fingerprint and is left out: of a library's object all of it, of one of the program's own that attribute only.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from threadsafe_timeout._introspection.frames import is_installed
from threadsafe_timeout.checkpoint._digest import Digester

__all__ = ["Call", "NotSaved", "call_of", "is_own_module"]

_DEPTH = 20  # wrappers in wrappers


class NotSaved(Exception):
    """Why a call is not saved. `own`: whether its function is the program's, which the program is to be told then."""

    def __init__(self, name: str, reason: str, *, own: bool) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason
        self.own = own


@dataclass(frozen=True, slots=True)
class Call:
    """A call that can be saved. `left_out`: what is not in its key, and may matter: its path, and its type."""

    name: str
    key: str
    left_out: tuple[tuple[str, str], ...]


def call_of(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    within: str = "",
    *,
    anew: bool = False,
) -> Call:
    """The call of `function(*args, **kwargs)`, in the task `within`. Raises NotSaved.

    `anew`: as the objects are now, and not as they were when they first came.
    """
    batch = _joblibs(function)
    if batch is not None:
        calls = [call_of(*one, within, anew=anew) for one in batch]
        digest = Digester.joined(b"batch", *(call.key.encode() for call in calls))
        left_out = dict(pair for call in calls for pair in call.left_out)
        return Call(calls[0].name, f"{calls[0].name}:{digest.hex()}", tuple(left_out.items()))
    function, args, kwargs = _flat(function, args, kwargs)
    target = _target(function)
    name = getattr(target, "__qualname__", None) or type(function).__qualname__
    if not isinstance(target, FunctionType):
        raise NotSaved(str(name), "it is not written in Python", own=False)
    if not is_own_function(target):
        raise NotSaved(f"{target.__module__}.{name}", "it is a library's", own=False)
    digester = Digester(is_own_module, anew=anew)
    parts = [digester.of("", function)]
    of_function = digester.told
    parts += [digester.of(where, value) for where, value in zip(_names(function, len(args)), args, strict=True)]
    parts += [digester.of(key, kwargs[key]) + key.encode() for key in sorted(kwargs)]
    if digester.open is not None and digester.told <= (of_function if args or kwargs else 0):
        raise NotSaved(name, f"no argument tells its calls apart ({digester.open})", own=True)
    digest = Digester.joined(b"call", within.encode(), str(target.__module__).encode(), *parts)
    return Call(name, f"{name}:{digest.hex()}", tuple(digester.left_out.items()))


def _joblibs(function: Any) -> list[tuple[Any, Any, Any]] | None:
    """The calls in a batch of joblib's, which it gives to a pool as an object of its own."""
    for _ in range(_DEPTH):
        if type(function).__module__.partition(".")[0] != "joblib" or not hasattr(function, "__dict__"):
            break
        items = vars(function).get("items")
        if isinstance(items, list) and items and all(len(one) == 3 for one in items):
            return items
        function = vars(function).get("func")
    return None


def _flat(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Sequence[Any], Mapping[str, Any]]:
    """The same call, without `partial` and `Context.run`."""
    for _ in range(_DEPTH):
        if isinstance(function, functools.partial):
            function, args, kwargs = function.func, (*function.args, *args), {**function.keywords, **kwargs}
        elif type(getattr(function, "__self__", None)) is Context and args and callable(args[0]):
            function, args = args[0], args[1:]
        else:
            break
    return function, args, kwargs


def _target(function: Any) -> Any:
    """The Python function that the program wrote: behind a method, a callable object, a library's decorator."""
    for _ in range(_DEPTH):
        if isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, FunctionType):
            inner = function.__dict__.get("__wrapped__")
            if inner is None or is_own_function(function):
                return function
            function = inner
        elif isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, type):
            return function
        elif isinstance(called := getattr(type(function), "__call__", None), FunctionType):  # noqa: B004  # which one
            function = called
        elif callable(inner := getattr(function, "__wrapped__", None)):  # functools.cache, wrapt
            function = inner
        else:
            return function
    return function


def _names(function: Any, number: int) -> list[str]:
    """What the positional arguments are called, as far as that is known."""
    code = getattr(_target(function), "__code__", None)
    skipped = int(isinstance(function, MethodType) or not isinstance(function, FunctionType))
    names = list(code.co_varnames[skipped : code.co_argcount]) if code is not None else []
    return [names[place] if place < len(names) else f"argument {place + 1}" for place in range(number)]


def is_own_function(function: FunctionType) -> bool:
    module = function.__globals__.get("__name__")
    return _is_own(module if isinstance(module, str) else "", function.__code__.co_filename)


def is_own_module(name: str) -> bool:
    """Whether a module is the program's: not the standard library's, nor an installed package's; or of the package
    that the program itself is."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if not isinstance(file, str):  # of the interpreter itself; or it was run by `runpy` and is in no list
        file = "<frozen" if name in sys.modules else ""
    return _is_own(name, file)


def _is_own(module: str, file: str) -> bool:
    top = module.partition(".")[0]
    if top in ("threadsafe_timeout", "threadsafe_timeout_patches"):
        return False
    return not is_installed(file) or module == "__main__" or top == _program_package()


def _program_package() -> str:
    """The package that was run with `-m`."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = getattr(spec, "name", None)
    return name.partition(".")[0] if isinstance(name, str) and not name.startswith("__main__") else ""
