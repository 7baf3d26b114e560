"""The arguments of a call in short, to tell it from other calls of the same function.

Guarantees:

- At most 80 characters, at most 40 for each argument; printable. It never raises.
- None of the program's code is called: of objects of its own classes only the class is named.
- The value of what is called like a secret (a parameter, a keyword, a key of a dict) is not shown, and of a string
  nothing that looks like one: see `secrets`. A secret that looks like any other word cannot be known as one.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

from threadsafe_timeout._introspection.secrets import MASK, is_name_of_secret, without_secrets

__all__ = ["ELLIPSIS", "is_telling", "short_arguments"]

_ALL, _EACH = 80, 40  # characters
_NAME = 20  # of the name of a keyword
_ITEMS, _DEPTH = 4, 2
_LOOKED_AT = 512  # characters of a string: more are not shown, and not searched for secrets
_BITS = 100  # of an int; writing a longer one may take long
ELLIPSIS = "…"
_PATHS = (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath)
_name_of_type = type.__dict__["__name__"].__get__  # a metaclass may have one of its own
_variables_of_type = type.__dict__["__dict__"].__get__


def short_arguments(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The arguments of `function(*args, **kwargs)`, as in the call, without the parentheses."""
    try:
        names = _parameters(function)
        parts = [_argument("", value, name) for value, name in zip(islice(args, _ALL), names, strict=False)]
        parts += [_argument(name, value, name) for name, value in islice(kwargs.items(), _ALL)]
        return _joined(parts, _ALL, len(args) + len(kwargs))
    except Exception:  # the program changes a list while it is looked at, an object answers in a way of its own
        return ELLIPSIS


def is_telling(arguments: str) -> bool:
    """Whether nothing was left out, so that calls with other arguments look otherwise."""
    return bool(arguments) and not any(mark in arguments for mark in (ELLIPSIS, MASK, "<"))


def _argument(keyword: str, value: Any, name: str) -> str:
    prefix = f"{_cut(_printable(without_secrets(keyword[:_LOOKED_AT])), _NAME)}=" if keyword else ""
    return prefix + (MASK if is_name_of_secret(name) else _short(value, _EACH - len(prefix), _DEPTH))


# What a parameter is called


def _parameters(function: Any) -> Iterable[str]:
    """The names of its positional parameters, as far as they are known; then the name of `*args`, or none, for ever."""
    function, skipped = _python_function(function, 10)
    if function is None:
        return _forever([], "")
    code = function.__code__
    named, keywords = code.co_argcount, code.co_kwonlyargcount
    more = code.co_varnames[named + keywords] if code.co_flags & 0x04 else ""  # CO_VARARGS
    return _forever(code.co_varnames[skipped:named], more)


def _forever(names: Iterable[str], more: str) -> Iterable[str]:
    yield from names
    while True:
        yield more


def _python_function(function: Any, depth: int) -> tuple[FunctionType | None, int]:
    """The Python function that a call ends in, and how many of its parameters are not among the arguments."""
    kind = type(function)
    if kind is FunctionType:
        inner = function.__dict__.get("__wrapped__")
        return _python_function(inner, depth - 1) if inner is not None and depth else (function, 0)
    if kind is MethodType and depth:
        found, skipped = _python_function(function.__func__, depth - 1)
        return found, skipped + 1
    wrapt = sys.modules.get("wrapt")
    if wrapt is not None and issubclass(kind, (wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper)) and depth:
        return _python_function(function.__wrapped__, depth - 1)
    return (_in_class(function, "__init__") if issubclass(kind, type) else _in_class(kind, "__call__")), 1


def _in_class(cls: type, name: str) -> FunctionType | None:
    for one in type.__dict__["__mro__"].__get__(cls):
        found = _variables_of_type(one).get(name)
        if found is not None:
            return found if type(found) is FunctionType else None
    return None


# Values


def _short(value: Any, room: int, depth: int) -> str:  # noqa: PLR0911  # a table of rules
    """`value` in `room` characters."""
    kind = type(value)
    if value is None or kind is bool or (kind is int and value.bit_length() <= _BITS) or kind is float:
        return _cut(repr(value), room)
    if kind is str:
        return _quoted(value, room)
    if kind is bytes:
        return "b" + _quoted(value[:_LOOKED_AT].decode("latin-1"), room - 1)
    # By identity: a metaclass may have an `__eq__` of its own.
    if any(kind is one for one in _PATHS):
        return _quoted(str(value), room, end=True)
    if (kind is tuple or kind is list or kind is dict) and depth:
        return _container(value, room, depth)
    name = _cut(_printable(without_secrets(_name_of_type(kind)[:_LOOKED_AT])), room - 2)
    if issubclass(kind, Enum):
        member = object.__getattribute__(value, "__dict__").get("_name_")
        if type(member) is str and not is_name_of_secret(name):
            return _cut(_printable(without_secrets(f"{name}.{member[:_LOOKED_AT]}")), room)
    return f"<{name}>"


def _container(value: Any, room: int, depth: int) -> str:
    if type(value) is dict:
        first, last, parts = "{", "}", [_pair(key, item, depth - 1) for key, item in islice(value.items(), _ITEMS)]
    else:
        first, last = "()" if type(value) is tuple else "[]"
        parts, masked = [], False
        for item in value[:_ITEMS]:
            parts.append(MASK if masked else _short(item, _EACH, depth - 1))
            masked = type(item) is str and is_name_of_secret(item)  # as in a list of headers
    text = _joined(parts, room - 2, len(value))
    return first + text + ("," if text and first == "(" and len(value) == 1 and len(text) < room - 2 else "") + last


def _pair(key: Any, value: Any, depth: int) -> str:
    shown = _short(key, _EACH // 2, 0)
    return f"{shown}: " + (MASK if type(key) is str and is_name_of_secret(key) else _short(value, _EACH, depth))


def _joined(parts: list[str], room: int, number: int) -> str:
    """As many of the first of `parts` as fit into `room`; the first is cut if it must. There are `number` of them."""
    if len(parts) == number and len(text := ", ".join(parts)) <= room:
        return text
    text = ""
    for part in parts:
        longer = f"{text}, {part}" if text else part
        if len(longer) > room - 3:
            text = text or _cut(part, room - 3)
            break
        text = longer
    return f"{text}, {ELLIPSIS}" if text else ELLIPSIS


# Text


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room - 1, 0)] + ELLIPSIS


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


def _quoted(text: str, room: int, *, end: bool = False) -> str:
    """The beginning of it, or its `end`, in quotes."""
    whole = len(text) <= _LOOKED_AT
    seen = without_secrets(text[-_LOOKED_AT:] if end else text[:_LOOKED_AT])
    if whole and len(quoted := repr(seen)) <= room:
        return quoted
    letters, left = list[str](), room - 3
    for letter in reversed(seen) if end else seen:
        form = repr(letter)[1:-1]
        left -= len(form)
        if left < 0:
            break
        letters.append(form)
    shown = "".join(reversed(letters) if end else letters)
    return f"'{ELLIPSIS}{shown}'" if end else f"'{shown}{ELLIPSIS}'"
