"""Patching a runner that is the program itself, and so is never imported under its name.

It is `__main__`, or was run by `runpy.run_path`, `exec` and their like: what tells is the name of its file. Its classes
do not exist yet when its first line runs. In `__main__` the class statement is where they appear; wherever else, they
are found when their own code makes a pool.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable, Mapping
from types import FrameType, ModuleType
from typing import Any, Protocol

from threadsafe_timeout._environment import finder as _finder

__all__ = ["look", "main_stem", "watch_program"]


class Patch(Protocol):
    """What is used of a patch here."""

    @property
    def MODULES(self) -> tuple[str, ...]: ...  # noqa: N802  # what every patch calls it
    @property
    def CLASSES(self) -> tuple[str, ...]: ...  # noqa: N802


class Patches(Protocol):
    """What is used of `Patching` here."""

    @property
    def patches(self) -> Mapping[str, Patch]: ...
    def load(self, name: str) -> None: ...
    def imported(self, module: ModuleType, name: str, *, anew: bool = False) -> None: ...
    def rebind(self) -> None: ...
    def on_uninstall(self, undo: Callable[[], object]) -> None: ...


class _Program:
    """The classes that patches want of a program, by the names of its file."""

    def __init__(self, patching: Patches, lock: Any) -> None:
        self._patching = patching
        self._lock = lock  # guards the patches
        self._classes = tuple(name for patch in patching.patches.values() for name in patch.CLASSES)
        self._stems = frozenset(name for patch in patching.patches.values() if patch.CLASSES for name in patch.MODULES)
        self._endings = tuple(f"{stem}.py" for stem in self._stems)
        self._found: set[type] = set()  # guarded by _lock

    def watch_main(self) -> None:
        main, stem = sys.modules.get("__main__"), main_stem()
        if main is None or stem not in self._stems:
            return
        if any(hasattr(main, name) for name in self._classes):
            self.take(vars(main), stem)
            return
        original = builtins.__build_class__

        def build_class(function: Any, name: str, /, *bases: Any, **kwargs: Any) -> Any:
            cls = original(function, name, *bases, **kwargs)
            if name in self._classes and cls.__module__ == "__main__" and _program is self:
                self._patching.load(stem)  # without the lock, as every import
                with self._lock:
                    self.take({"__name__": "__main__", name: cls}, stem)
                    self._patching.rebind()
            return cls

        def restore() -> None:
            if builtins.__build_class__ is build_class:
                builtins.__build_class__ = original

        builtins.__build_class__ = build_class
        self._patching.on_uninstall(restore)

    def take(self, namespace: dict[str, Any], stem: str) -> None:
        """Patch the classes of a namespace that were not before. The caller holds `_lock`."""
        view = ModuleType(namespace["__name__"])
        for name in self._classes:
            cls = namespace.get(name)
            if isinstance(cls, type) and cls.__module__ == view.__name__ and cls not in self._found:
                self._found.add(cls)
                setattr(view, name, cls)
        if any(hasattr(view, name) for name in self._classes):
            self._patching.imported(view, stem)

    def look_at_callers(self, frame: FrameType | None) -> None:
        last = None
        while frame is not None:
            namespace, frame = frame.f_globals, frame.f_back
            if namespace is last:
                continue
            last = namespace
            file = namespace.get("__file__")
            if type(file) is str and file.endswith(self._endings):
                self._look_at(namespace, _stem(file))

    def _look_at(self, namespace: dict[str, Any], stem: str) -> None:
        if stem not in self._stems or _finder.namespace_of(sys.modules.get(stem)) is namespace:
            return  # in the latter case it was imported, which the finder sees
        if not isinstance(namespace.get("__name__"), str):
            return
        self._patching.load(stem)  # without the lock, as every import
        if not self._lock.acquire(blocking=False):
            return
        try:
            self.take(namespace, stem)
            self._patching.rebind()
        finally:
            self._lock.release()


_program: _Program | None = None


def main_stem() -> str:
    """The name of the program's file, without its ending."""
    return _stem(getattr(sys.modules.get("__main__"), "__file__", None) or "")


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]  # `pathlib` would take longer to import than this module


def watch_program(patching: Patches, lock: Any) -> None:
    """Patch the program's own classes, those there are and those to come, until `patching` is undone."""
    global _program
    program = _program = _Program(patching, lock)
    patching.on_uninstall(_forget)
    program.watch_main()


def _forget() -> None:
    global _program
    _program = None


def look(frame: FrameType | None) -> None:
    """Patch what came in unseen: wanted modules, and classes of the code that calls (`frame`, and who calls that)."""
    _finder.look()
    program = _program
    if program is not None:
        program.look_at_callers(frame)
