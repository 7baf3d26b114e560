"""What a call is named in errors and log lines: the function that the program meant, not what it is wrapped in, and
what tells it from other calls of that.

`partial`, `Context.run`, a chunk of a `map` and the wrappers of installed libraries (joblib, LangChain, asyncio) are
looked through.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextvars import Context
from types import FunctionType, MethodType
from typing import Any

from threadsafe_timeout._introspection.arguments import ELLIPSIS, is_telling, short_arguments
from threadsafe_timeout._introspection.frames import is_installed

__all__ = ["called", "name_of"]

_DEPTH = 10  # wrappers in wrappers
# Where callable objects keep what they call.
_ATTRIBUTES = ("__wrapped__", "func", "function", "fn", "_func", "_function", "_fn")


def name_of(function: Any, args: Sequence[Any] = ()) -> str:
    """The name of a call of `function` with these positional arguments. Never raises, and never calls into it."""
    return _name(function, args, _DEPTH)


def called(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], number: int) -> str:
    """The name of a call with its arguments in short; and with its `number`, where those do not tell it from others."""
    name = name_of(function, args)
    try:
        inner, inner_args, keywords = _innermost(function, args, kwargs)
        arguments = ELLIPSIS if inner_args is None else short_arguments(inner, inner_args, keywords)
    except Exception:  # as in `_name`
        arguments = ELLIPSIS
    if arguments not in ("", ELLIPSIS):
        name += f"({arguments})"
    return name if is_telling(arguments) else f"{name} #{number}"


def _innermost(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Sequence[Any] | None, Mapping[str, Any]]:
    """The function that is called in the end, most likely, and with what, as far as that is known."""
    for _ in range(_DEPTH):
        keywords = function.keywords if isinstance(function, functools.partial) else {}
        inner, inner_args = _wrapped(function, args)
        if inner is None:
            break
        if inner_args is None:
            return inner, None, {}
        function, args, kwargs = inner, inner_args, {**keywords, **kwargs}
    return function, args, kwargs


def _name(function: Any, args: Sequence[Any], depth: int) -> str:
    try:
        inner, inner_args = _wrapped(function, args) if depth else (None, ())
        if inner is None:
            return _own_name(function)
        name = _name(inner, inner_args or (), depth - 1)
        return name if _is_plumbing(function) else f"{_own_name(function)}({name})"
    except Exception:  # an object that answers to attributes in a way of its own
        return type(function).__name__


def _own_name(function: Any) -> str:
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return type(function).__qualname__
    code = getattr(function, "__code__", None)
    if code is not None and name.rpartition(".")[2] == "<lambda>":
        return f"lambda at {os.path.basename(code.co_filename)}:{code.co_firstlineno}"
    return name


def _is_plumbing(function: Any) -> bool:
    """Whether it is of a library: whoever reads the name did not write it."""
    if isinstance(function, (FunctionType, functools.partial)):
        return True  # of functions, only those of libraries are looked through
    module = sys.modules.get(type(function).__module__)
    file = getattr(module, "__file__", None)
    return file is None or is_installed(file)


def _wrapped(function: Any, args: Sequence[Any]) -> tuple[Any, Sequence[Any] | None]:
    """What `function` calls, and with what (None: not known); (None, ()) if it is what the program meant."""
    if isinstance(function, functools.partial):
        return function.func, (*function.args, *args)
    bound_to = getattr(function, "__self__", None)
    if type(bound_to) is Context and args and callable(args[0]):
        return args[0], args[1:]
    if isinstance(function, FunctionType):
        if function.__name__ in ("mapstar", "starmapstar") and function.__module__ == "multiprocessing.pool" and args:
            return args[0][0], None
        return (_in_closure(function), args) if _is_librarys_closure(function) else (None, ())
    if isinstance(function, (MethodType, type)) or isinstance(getattr(function, "__qualname__", None), str):
        return None, ()
    # A library's object makes a call of its own; one of the program's has the same arguments, most likely.
    return _called_by_object(function), None if _is_plumbing(function) else args


def _is_librarys_closure(function: FunctionType) -> bool:
    return function.__closure__ is not None and is_installed(function.__code__.co_filename)


def _in_closure(function: FunctionType) -> Any:
    """The program's function that a library's closure calls, most likely: the first that it has."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # empty
            continue
        if name == "self" and not callable(value):
            value = _called_by_object(value)
        if callable(value) and not isinstance(value, type):
            return value
    return None


def _called_by_object(one: Any) -> Any:
    attributes = vars(one) if hasattr(type(one), "__dict__") and hasattr(one, "__dict__") else {}
    for name in _ATTRIBUTES:
        inner = attributes.get(name)
        if callable(inner) and not isinstance(inner, type):
            return inner
    return _first_of_batch(attributes.get("items"))


def _first_of_batch(items: Any) -> Any:
    """joblib's: (function, arguments, keywords) of each call."""
    if isinstance(items, list) and items and isinstance(items[0], Iterable):
        first = next(iter(items[0]), None)
        return first if callable(first) else None
    return None
