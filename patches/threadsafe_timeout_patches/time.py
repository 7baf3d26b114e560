"""`time.sleep`: inside a scope it ends with the scope; outside it is the original, one look-up later."""

from __future__ import annotations

from threading import get_ident
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout_patches import _llm_call
from threadsafe_timeout_patches._builtin import stand_in
from threadsafe_timeout_patches._waiting import held_lock, real, wait

__all__ = ["MODULES", "apply"]

MODULES = ("time",)

_LONGEST = 1e9  # seconds; past 9.2e9 the original refuses, at some point in between a lock does


def apply(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.sleep, _around.current_scope

    def sleep(seconds: float, /) -> None:
        if current_scope() is None:
            original(seconds)
        else:
            _sleep_in_scope(original, seconds)

    patching.replace(module, "sleep", stand_in(module, "sleep", sleep))


def _sleep_in_scope(original: Any, seconds: Any) -> None:
    try:
        number = real(seconds)
    except TypeError:
        number = -1
    if not 0 <= number < _LONGEST:
        original(seconds)  # a mistake, which it names; or longer than anybody lives
        return
    _llm_call.refuse_long_wait(number, get_ident())
    _around.raise_if_cancelled()
    if number:
        wait(held_lock(), float(number))
    else:
        original(0)  # lets others run
