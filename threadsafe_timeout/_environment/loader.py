"""A loader that tells when it has run a module; in all else it is the one it stands for."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

import wrapt

__all__ = ["attach"]

Ran = Callable[[str, ModuleType, bool], None]


class _Running(threading.local):
    """The modules that this thread runs through a loader of ours, by id: who finds one for another finder, such as
    wrapt's, has been given one of ours already."""

    def __init__(self) -> None:
        self.modules: set[int] = set()


_running = _Running()


def attach(spec: ModuleSpec, ran: Ran) -> None:
    """Have `ran(name, module, changed)` called whenever this spec's loader has run a module; `changed`: it is another
    than before (one that is written in C may be run once only)."""
    loader: Any = spec.loader
    if type(loader) is _Loader:
        return
    if issubclass(type(loader), importlib.util.LazyLoader):
        # It runs nothing; what it holds does, later.
        if type(loader.loader) is not _Loader:
            loader.loader = _Loader(loader.loader, spec.name, ran)
    elif hasattr(loader, "exec_module"):  # else of the old kind, or none: a namespace
        spec.loader = cast(Loader, _Loader(loader, spec.name, ran))


class _Loader(wrapt.ObjectProxy):  # type: ignore[type-arg]  # not generic in every version at run time
    def __init__(self, loader: Any, name: str, ran: Ran) -> None:
        super().__init__(loader)
        self._self_name = name
        self._self_ran = ran

    def exec_module(self, module: ModuleType) -> None:
        loader = self.__wrapped__
        namespace = object.__getattribute__(module, "__dict__")
        # What it says of itself is as it would have been.
        spec = namespace.get("__spec__")
        if getattr(spec, "loader", None) is self:
            spec.loader = loader
        if namespace.get("__loader__") is self:
            namespace["__loader__"] = loader
        if id(module) in _running.modules:
            loader.exec_module(module)
            return
        before = dict(namespace)
        _running.modules.add(id(module))
        try:
            loader.exec_module(module)
        finally:
            _running.modules.discard(id(module))
        same = namespace.keys() == before.keys() and all(namespace[name] is value for name, value in before.items())
        self._self_ran(self._self_name, module, not same)
