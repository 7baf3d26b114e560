"""`@deadline(...)` on a `def` or an `async def`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from threadsafe_timeout._introspection.names import name_of
from threadsafe_timeout._introspection.transparent import transparent

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["decorate"]

F = TypeVar("F", bound=Callable[..., Any])


def decorate(function: F, scope: CancelScope, fresh: Callable[[str | None], CancelScope]) -> F:
    """Wrap `function` so that each call runs under `fresh(name)`."""
    if isinstance(function, classmethod) or not callable(function):
        below = "; put it below @classmethod" if isinstance(function, classmethod) else ""
        raise TypeError(f"deadline decorates functions; {function!r} is not callable{below}")
    if isinstance(function, type):
        raise TypeError(
            f"deadline decorates functions; {function.__qualname__} is a class: decorate its methods, or put "
            "`with deadline(...)` around what uses it"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"deadline cannot decorate the generator function {name_of(function)}: its body runs in slices, each "
            "in its caller's scope; put `with deadline(...)` around the loop that consumes it"
        )
    name = scope.name or name_of(function)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with fresh(name):
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with fresh(name):
                return function(*args, **kwargs)

    transparent(wrapper)
    return wrapper  # type: ignore[return-value]  # functools.wraps keeps the signature
