"""`install()` and `uninstall()`: patches found by entry point, applied on import, undone exactly.

A patch is a module, named in the entry-point group `threadsafe_timeout.patches`, that has

    MODULES: tuple of module names it patches, each as soon as it is imported (or at once if it was already)
    apply(module, patching): patches that module through `patching.wrap` and `patching.replace`
    CLASSES (optional): names of classes that make a program's own `__main__` one of these modules

so that anybody can ship a patch for his own runner. Undoing gives back the identical objects.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from threadsafe_timeout import _settings
from threadsafe_timeout._errors import SettingError

__all__ = ["Patching", "install", "installed", "patched", "uninstall"]

GROUP = "threadsafe_timeout.patches"
logger = logging.getLogger("threadsafe_timeout")
_lock = threading.RLock()
_active: Patching | None = None  # guarded by _lock
_hooked: set[str] = set()  # modules with a post-import hook, which cannot be taken back; guarded by _lock


class Patching:
    """The patches in force, and how to undo them."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self.applied: set[tuple[str, str]] = set()  # (patch, module)
        self.problems: dict[str, str] = {}  # patch -> why it could not be applied
        self.patches: dict[str, ModuleType] = {}

    def wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Put `wrapper(original, *args, **kwargs)` around the method or function `owner.name`."""

        def call(wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return wrapper(wrapped, *args, **kwargs)

        self.wrap_object(owner, name, call)

    def wrap_object(self, owner: Any, name: str, wrapper: Callable[..., Any], kind: Any = None) -> None:
        """Like `wrap`, for a wrapper in wrapt's own form: `wrapper(wrapped, instance, args, kwargs)`."""
        import wrapt

        handle = wrapt.wrap_object(owner, name, kind or wrapt.FunctionWrapper, (wrapper,))
        self._undo.append(lambda: wrapt.unwrap_object(owner, name, handle))

    def replace(self, module: ModuleType, name: str, new: Any) -> None:
        """Put `new` where `module.name` is, in that module and wherever else it was imported to."""
        old = getattr(module, name)
        module.__dict__[name] = new
        _rebind(old, new)
        self._undo.append(lambda: _rebind(new, old))

    def on_uninstall(self, undo: Callable[[], object]) -> None:
        self._undo.append(undo)

    def undo(self) -> None:
        while self._undo:
            try:
                self._undo.pop()()
            except Exception:
                logger.exception("threadsafe-timeout: a patch could not be undone; it stays, inert outside scopes")

    def imported(self, module: ModuleType, name: str) -> None:
        """Apply every patch that wants the module `name`."""
        for patch_name, patch in self.patches.items():
            if name in patch.MODULES and (patch_name, name) not in self.applied:
                self.applied.add((patch_name, name))
                try:
                    patch.apply(module, self)
                except Exception as exc:
                    self.problems[f"{patch_name}: {name}"] = f"{type(exc).__name__}: {exc}"
                    logger.warning(
                        "threadsafe-timeout: patch %s could not be applied to %s (%s: %s); it is left as it was",
                        patch_name, name, type(exc).__name__, exc,
                    )  # fmt: skip


def _rebind(old: Any, new: Any) -> None:
    """Replace `old` by `new` in the namespace of every module that imported it by name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {"threadsafe_timeout", "threadsafe_timeout_patches"}:
            continue
        namespace = getattr(module, "__dict__", None)
        if not isinstance(namespace, dict):
            continue
        for key, value in list(namespace.items()):
            if value is old:
                namespace[key] = new


def _wanted(chosen: tuple[str, ...], origin: str) -> list[EntryPoint]:
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    unknown = sorted({name.removeprefix("-") for name in chosen} - known.keys())
    if unknown:
        names = ", ".join(sorted(known))
        raise SettingError("patches", origin, f"there is no patch named {unknown[0]!r}; the patches are {names}")
    only = {name for name in chosen if not name.startswith("-")}
    return [e for name, e in sorted(known.items()) if f"-{name}" not in chosen and (not only or name in only)]


def _hook(name: str) -> None:
    """See to it that `name` is patched when it is imported, or now."""
    import wrapt

    def arrived(module: ModuleType) -> None:
        with _lock:
            if _active is not None:
                _active.imported(module, name)

    if name in _hooked:
        if name in sys.modules:
            arrived(sys.modules[name])
        return
    _hooked.add(name)
    wrapt.register_post_import_hook(arrived, name)


def install(**given: Any) -> None:
    """Apply every patch to what is imported now and to what will be. Call it before or after the runner's imports.

    Keyword arguments are settings (see `Settings`); they win over the environment and pyproject.toml. Calling it again
    changes the settings. Raises SettingError for an unknown setting or a bad value, naming the source; nothing is
    patched then.
    """
    global _active
    new, origin = _settings.load(given)
    with _lock:
        wanted = _wanted(new.patches, origin["patches"])
        if _active is not None:
            _settings.set_settings(new, origin)
            return
        patching = Patching()
        for entry in wanted:
            patching.patches[entry.name] = entry.load()
        _settings.set_settings(new, origin)
        _active = patching
        for patch in patching.patches.values():
            for name in patch.MODULES:
                _hook(name)
        _watch_main(patching)


def uninstall() -> None:
    """Undo `install()`: every patched name is the identical object it was before."""
    global _active
    with _lock:
        patching, _active = _active, None
        if patching is not None:
            patching.undo()
        _settings.set_settings(_settings.Settings(), {})


def installed() -> Patching | None:
    """The patches in force, or None."""
    return _active


@contextlib.contextmanager
def patched(**given: Any) -> Iterator[None]:
    """`install(**given)` for the duration of a block."""
    install(**given)
    try:
        yield
    finally:
        uninstall()


def _watch_main(patching: Patching) -> None:
    """Patch classes of the program itself, when the runner is `__main__` and so is never imported.

    Its classes do not exist yet when its first line runs; the class statement is where they appear.
    """
    main = sys.modules.get("__main__")
    stem = Path(getattr(main, "__file__", None) or "").stem
    if main is None or not any(stem in patch.MODULES for patch in patching.patches.values()):
        return
    classes = {name for patch in patching.patches.values() for name in getattr(patch, "CLASSES", ())}
    original = builtins.__build_class__

    def build_class(function: Any, name: str, /, *bases: Any, **kwargs: Any) -> Any:
        cls = original(function, name, *bases, **kwargs)
        if name in classes and cls.__module__ == "__main__" and _active is patching:
            view = ModuleType(stem)
            setattr(view, name, cls)
            patching.applied.clear()
            patching.imported(view, stem)
        return cls

    if any(hasattr(main, name) for name in classes):
        patching.imported(main, stem)
        return
    builtins.__build_class__ = build_class
    patching.on_uninstall(lambda: _restore_build_class(build_class, original))


def _restore_build_class(mine: Any, original: Any) -> None:
    if builtins.__build_class__ is mine:
        builtins.__build_class__ = original
