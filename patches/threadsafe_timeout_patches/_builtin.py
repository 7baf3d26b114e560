"""Functions in the place of functions that are written in C: like those, they are not bound by a class they are in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout_patches._signatures import fitting

__all__ = ["StandIn", "stand_in"]


class StandIn(functools.partial[Any]):
    """A call of `partial` is one in C, and costs 0.05 to 0.1 µs; a `__call__` in Python would cost twice that.

    (A bound method would cost less, but cloudpickle takes those to pieces.)
    """

    if hasattr(functools.partial, "__get__"):  # it binds since 3.14, and warns of that in 3.13

        def __get__(self, instance: Any, owner: Any = None) -> StandIn:
            return self

    def __reduce__(self) -> str:
        return self.func.__qualname__  # pickled by name

    def __repr__(self) -> str:
        return repr(self.func)


def stand_in(module: ModuleType, name: str, function: Callable[..., Any]) -> StandIn:
    """`function`, for the place of `module.name`, with what that says about itself."""
    function = fitting(getattr(module, name), function)
    new = StandIn(function)
    for named in (function, new):
        named.__name__ = named.__qualname__ = name
        named.__module__, named.__doc__ = module.__name__, getattr(module, name).__doc__
    return new
