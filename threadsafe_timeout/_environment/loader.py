"""A loader that tells when it has run a module; in all else it is the one it stands for."""

from __future__ import annotations

import importlib.util
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Protocol, cast

__all__ = ["Ran", "attach"]


class Ran(Protocol):
    """What is told of a module that was run; `changed`: it is another than before (one that is written in C may be run
    once only); `first`: nobody can have anything of it yet but what was imported while it ran."""

    def __call__(self, name: str, module: ModuleType, *, changed: bool, first: bool) -> None: ...


class _Running(threading.local):
    """The modules that this thread runs through a loader of ours, by id: who finds one for another finder, such as
    wrapt's, has been given one of ours already."""

    def __init__(self) -> None:
        self.modules: set[int] = set()


_running = _Running()
_ran_before: set[str] = set()  # names of modules; `add` is one step


def attach(spec: ModuleSpec, ran: Ran) -> None:
    """Have `ran` called whenever this spec's loader has run a module."""
    loader: Any = spec.loader
    if type(loader) is _Loader:
        return
    first = spec.name not in sys.modules and spec.name not in _ran_before
    if issubclass(type(loader), importlib.util.LazyLoader):
        # It runs nothing; what it holds does, later.
        if type(loader.loader) is not _Loader:
            loader.loader = _Loader(loader.loader, spec.name, ran, False)
    elif hasattr(loader, "exec_module"):  # else of the old kind, or none: a namespace
        spec.loader = cast(Any, _Loader(loader, spec.name, ran, first))


class _Loader:
    """Not wrapt's proxy: wrapt takes longer to import than all that is imported here, and imports some of it."""

    __slots__ = ("__wrapped__", "_first", "_name", "_ran")

    def __init__(self, loader: Any, name: str, ran: Ran, first: bool) -> None:
        for slot, value in zip(_Loader.__slots__, (loader, first, name, ran), strict=True):
            object.__setattr__(self, slot, value)

    @property  # type: ignore[misc]  # what isinstance() asks
    def __class__(self) -> type:
        return type(self.__wrapped__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__wrapped__, name)

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == (other.__wrapped__ if type(other) is _Loader else other))

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

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
        first = self._first and self._name not in _ran_before
        _ran_before.add(self._name)
        self._ran(self._name, module, changed=not same, first=first)
