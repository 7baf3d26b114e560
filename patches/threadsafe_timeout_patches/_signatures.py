"""What stands in for a function takes what that takes, also if it is not the standard library's but another tool's.

Such a function may have more parameters, other names for them, or more defaults (gevent's `sleep` has, and those of
tools that trace calls). A call that says no more than one of the standard function could is translated; another goes to
the original as it is: it begins with a cooperative point, and is not capped.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

from threadsafe_timeout._scopes import around as _around

__all__ = ["fitting"]

_IN_C = (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType)


def fitting(original: Callable[..., Any], new: Callable[..., Any]) -> Callable[..., Any]:
    """`new`, whose parameters are those of the standard function, or something around it that takes every call which
    `original` takes."""
    if isinstance(original, _IN_C) or _is_standard(getattr(original, "__globals__", {}).get("__name__")):
        return new
    import inspect  # only for a program with such a tool

    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ours = inspect.signature(new, follow_wrapped=False)
    try:
        theirs = inspect.signature(original, follow_wrapped=False)
    except (TypeError, ValueError):  # it does not say
        theirs = ours
    known = list(theirs.parameters.values())[: len(ours.parameters)]
    if any(parameter.kind not in positional for parameter in known):
        theirs = ours  # it takes anything: what is given as to the standard function is meant as there
        known = list(ours.parameters.values())
    names = frozenset(parameter.name for parameter in known)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = theirs.bind(*args, **kwargs).arguments
        except TypeError:
            given = None
        if given is None or not given.keys() <= names:
            _around.raise_if_cancelled()
            return original(*args, **kwargs)
        return new(*[given.get(parameter.name, parameter.default) for parameter in known])

    return functools.update_wrapper(call, new)


def _is_standard(module: object) -> bool:
    package = module.partition(".")[0] if isinstance(module, str) else ""
    return package in sys.stdlib_module_names or package in {"threadsafe_timeout", "threadsafe_timeout_patches"}
