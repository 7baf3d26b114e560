"""Modules that are wanted, noticed however they come in: by whichever finder, for the first time or once more.

Two ways, because no single one sees everything:

- Whoever imports, reloads or looks for a module asks `importlib._bootstrap._find_spec`, which asks the finders in
  `sys.meta_path`. A finder of our own would not be asked for what one in front of it finds. So that function is
  replaced while somebody watches: it gives a wanted module's loader a proxy, which tells when the module was run.
- What is put into `sys.modules` by hand, or was still running when it was first seen, is found by looking there: `look`
  where a few microseconds do not matter, `glance` where they would, which looks if the number of modules has changed.

A module that is not ready yet (it is running, or a lazy loader has not loaded it) is left alone until it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Set
from types import ModuleType

from threadsafe_timeout._typing import Any, Protocol

__all__ = ["glance", "look", "namespace_of", "unwatch", "watch"]


class Arrived(Protocol):
    """What is told of a wanted module; `anew`: it has just been run and is another than before; `first`: for the first
    time, so nobody has anything of it but what was imported since."""

    def __call__(self, module: ModuleType, name: str, *, anew: bool, first: bool = False) -> None: ...


_modules = sys.modules
_names: tuple[str, ...] = ()
_wanted: frozenset[str] = frozenset()
_seen: list[Any] = []  # what `sys.modules` had under each of the names, once that was told
_count = -1  # of modules, at the last look
_arrived: Arrived | None = None
_expected: Callable[[str], bool] | None = None
_being_run: Callable[[], Set[int]] = frozenset
_lock: Any = None  # held by the thread that calls _arrived
_restore: list[Callable[[], None]] = []


def watch(
    names: Iterable[str], arrived: Arrived, expected: Callable[[str], bool], being_run: Callable[[], Set[int]],
    lock: Any,
) -> None:  # fmt: skip
    """Have `arrived(module, name, anew=…)` called for each of these modules that is there and ready, and for each that
    comes. Those found by looking are told by the thread that looks, with `lock` held, or not at all if it is not free;
    `expected(name)` is called before that, without the lock: whoever is told may need imports, and another thread may
    be in the middle of those and want the lock. If it returns False, the next look tells of that module. `being_run()`
    says which modules' code is being run now, by the `id` of their namespaces.
    """
    global _names, _wanted, _seen, _count, _arrived, _expected, _being_run, _lock
    import importlib.util

    from threadsafe_timeout._environment.loader import attach

    unwatch()
    _names = tuple(dict.fromkeys(names))
    _wanted, _seen, _count = frozenset(_names), [_names] * len(_names), -1  # which is no module
    _arrived, _expected, _being_run, _lock = arrived, expected, being_run, lock
    for place in (importlib._bootstrap, importlib.util):
        original = getattr(place, "_find_spec", None)
        if original is not None:  # else another interpreter's, where looking has to do
            _replace(place, original, attach)
    look()


def _replace(place: ModuleType, original: Callable[..., Any], attach: Callable[..., None]) -> None:
    def _find_spec(name: str, path: Any, target: Any = None) -> Any:
        spec = original(name, path, target)
        if name in _wanted and spec is not None:
            attach(spec, _told)
        return spec

    def restore() -> None:
        if place.__dict__.get("_find_spec") is _find_spec:  # else another's, which calls this one
            place.__dict__["_find_spec"] = original

    place.__dict__["_find_spec"] = _find_spec
    _restore.append(restore)


def unwatch() -> None:
    """Tell nobody any more."""
    global _names, _wanted, _seen, _arrived, _expected, _lock
    _arrived = _expected = _lock = None
    _names, _wanted, _seen = (), frozenset(), []
    while _restore:
        _restore.pop()()


def _told(name: str, module: ModuleType, *, changed: bool, first: bool) -> None:
    """A wanted module was run."""
    arrived = _arrived
    if arrived is not None and name in _wanted:
        arrived(_modules.get(name, module), name, anew=changed, first=first)  # it may have put another in its place


def glance() -> None:
    """Look, if there are more modules than at the last look, or fewer."""
    if len(_modules) != _count and _arrived is not None:
        look()


def look() -> None:
    """Tell of wanted modules that came in unseen."""
    global _count
    seen, names, lock, expected = _seen, _names, _lock, _expected
    if _arrived is None or lock is None or expected is None or list(map(_modules.get, names)) == seen:
        return
    count = len(_modules)
    came = [(number, name, _modules.get(name)) for number, name in enumerate(names)]
    came = [each for each in came if each[2] is not seen[each[0]]]
    being_run = _being_run() if any(module is not None for _, _, module in came) else frozenset()
    came = [each for each in came if each[2] is None or _is_ready(each[2], being_run)]
    came = [each for each in came if each[2] is None or expected(each[1])]
    if not lock.acquire(blocking=False):
        return  # somebody is at it
    try:
        for number, name, module in came:
            if _modules.get(name) is not module:
                continue  # it has changed meanwhile: the next look sees that
            if module is not None and _arrived is not None:
                _arrived(module, name, anew=False)
            seen[number] = module
        _count = count
    finally:
        lock.release()


def namespace_of(module: object) -> dict[str, Any] | None:
    """The namespace of what is in `sys.modules`, if it has one. Loads no lazy module, as `module.__dict__` would."""
    try:
        namespace = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return None
    return namespace if isinstance(namespace, dict) else None


def _is_ready(module: ModuleType, being_run: Set[int]) -> bool:
    namespace = namespace_of(module)
    if namespace is None:
        return True
    lazy = getattr(_modules.get("importlib.util"), "_LazyModule", None)
    if lazy is not None and issubclass(type(module), lazy):
        return False
    return not getattr(namespace.get("__spec__"), "_initializing", False) and id(namespace) not in being_run
