"""`time.sleep`: inside a scope it ends with the scope; outside it is the original, one look-up later."""

from __future__ import annotations

from types import ModuleType

from threadsafe_timeout import _scope
from threadsafe_timeout._install import Patching

__all__ = ["MODULES", "apply"]

MODULES = ("time",)


def apply(module: ModuleType, patching: Patching) -> None:
    original = module.sleep
    current_scope, scoped_sleep = _scope.current_scope, _scope.sleep

    def sleep(seconds: float, /) -> None:
        if current_scope() is None:
            original(seconds)
        else:
            scoped_sleep(seconds)

    sleep.__doc__ = original.__doc__
    patching.replace(module, "sleep", sleep)
