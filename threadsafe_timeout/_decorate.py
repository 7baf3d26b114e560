"""`@deadline(...)` on a `def` or an `async def`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from threadsafe_timeout._names import name_of
from threadsafe_timeout._transparent import transparent

if TYPE_CHECKING:
    from threadsafe_timeout._scope import CancelScope

__all__ = ["decorate"]

F = TypeVar("F", bound=Callable[..., Any])


def decorate(function: F, scope: CancelScope, fresh: Callable[[str | None], CancelScope]) -> F:
    """Wrap `function` so that each call runs under `fresh(name)`."""
    if not callable(function):
        raise TypeError(f"deadline decorates functions; {function!r} is not callable")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"deadline cannot decorate the generator function {name_of(function)}: its body runs in slices, each "
            "in its caller's scope; put `with deadline(...)` around the loop that consumes it"
        )
    name = scope.name or name_of(function)
    if inspect.iscoroutinefunction(function):

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
