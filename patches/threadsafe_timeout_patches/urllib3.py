"""urllib3, and so requests: who waits for a free connection of a full pool, and is cancelled, takes none with him.

The wait ends with the scope as every wait on a queue does. But urllib3 puts back, after anything that it does not
expect, a connection that it may not have taken; its own `EmptyPoolError` is what it expects there.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout._catchable import library_call
from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._install import Patching

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("urllib3.connectionpool",)
SUPPORTED = {"urllib3": ">=1.26,<3"}

_Wrapped = Callable[..., Any]


def apply(module: ModuleType, patching: Patching) -> None:
    def get_conn(wrapped: _Wrapped, pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except Cancelled as exc:
            raise module.EmptyPoolError(pool, "cancelled while waiting for a connection") from exc

    def urlopen(wrapped: _Wrapped, _pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with library_call():
            try:
                return wrapped(*args, **kwargs)
            except module.EmptyPoolError as exc:
                if isinstance(exc.__cause__, Cancelled):
                    raise exc.__cause__  # noqa: B904  # it is that one; and to ask for it here would count as clean-up
                raise

    patching.wrap_object(module.HTTPConnectionPool, "_get_conn", get_conn)
    patching.wrap_object(module.HTTPConnectionPool, "urlopen", urlopen)
