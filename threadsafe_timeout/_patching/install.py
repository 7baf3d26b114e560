"""`install()` and `uninstall()`: patches found by entry point, loaded and applied on import, undone exactly.

A patch is a module, named in the entry-point group `threadsafe_timeout.patches`, that has

    MODULES: tuple of module names it patches, each whenever it is imported (and at once if it was already)
    apply(module, patching): patches that module through `patching.wrap` and `patching.replace`
    SUPPORTED (optional): versions by distribution, such as {"httpcore": ">=1.0,<2"}; outside of them its modules are
        left as they are, and the log says so (a distribution is taken to be named like the modules in it, or the
        package they are in: "google-genai" has google.genai)
    CLASSES (optional): names of classes that make a program's own `__main__` one of these modules
    IMPORT_WITH (optional): environment variables for when it is `doctor` that imports its modules
    OPT_IN (optional): True for a patch that is applied only if it is named

so that anybody can ship a patch for his own runner. Undoing gives back the identical objects. A patch that cannot be
loaded or applied is undone as far as it got, and left out; the program and the other patches go on.

Locks: a thread that has imported a wanted module still holds that module's import lock. It loads the patch, as one more
import, and only then takes `_lock`; so nothing is imported with `_lock` held. And no patch, nor what it imports, is
imported by a module that it waits for (`_pool.executor` says how): two threads never wait for each other.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Set
from types import ModuleType
from typing import Any

from threadsafe_timeout import _settings
from threadsafe_timeout._environment import finder as _finder
from threadsafe_timeout._environment import surroundings as _surroundings
from threadsafe_timeout._environment.distributions import FoundPatch, find_patches
from threadsafe_timeout._environment.program import main_stem, watch_program
from threadsafe_timeout._errors import SettingError
from threadsafe_timeout._introspection.frames import modules_being_run
from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._patching.patch import Patch, Problem, distribution_of, out_of_range
from threadsafe_timeout._record import switch as _switch
from threadsafe_timeout._text import nearest

__all__ = [
    "Patching", "Problem", "distribution_of", "install", "installed", "known_patches", "patched", "rebind", "uninstall",
]  # fmt: skip

logger = logging.getLogger("threadsafe_timeout")
_lock = threading.RLock()
_active: Patching | None = None  # guarded by _lock


class Patching:
    """The patches in force, and how to undo them."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self.applied: dict[tuple[str, str], ModuleType] = {}  # by patch and module, those with problems as well
        self.problems: dict[tuple[str, str], Problem] = {}  # by patch and module; "": the patch itself
        self.patches: dict[str, Patch] = {}
        self.in_place = False  # what was imported before install() is patched
        self.replaced: list[tuple[str, Any, Any]] = []  # dotted name, what was there, what is: for `doctor`
        self._renamed: list[tuple[Any, Any]] = []  # what was there, what is: for the next `rebind`

    def wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Put `wrapper(original, *args, **kwargs)` around the method or function `owner.name`."""

        def call(wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return wrapper(wrapped, *args, **kwargs)

        self.wrap_object(owner, name, call)

    def wrap_object(self, owner: Any, name: str, wrapper: Callable[..., Any], kind: Any = None) -> None:
        """Like `wrap`, for a wrapper in wrapt's own form: `wrapper(wrapped, instance, args, kwargs)`."""
        import wrapt

        def undo() -> None:
            # Somebody may have put a wrapper of his own on top: then this one stays below it, and does nothing.
            with contextlib.suppress(wrapt.WrapperNotFoundError):
                wrapt.unwrap_object(owner, name, handle)

        handle = wrapt.wrap_object(owner, name, kind or wrapt.FunctionWrapper, (self._until_undone(wrapper),))
        self._undo.append(undo)

    def wrap_function(self, module: ModuleType, name: str, wrapper: Callable[..., Any]) -> None:
        """Like `wrap_object`, for a function that other modules may have imported by name."""
        import wrapt

        self.replace(module, name, wrapt.FunctionWrapper(getattr(module, name), self._until_undone(wrapper)))

    def _until_undone(self, wrapper: Callable[..., Any]) -> Callable[..., Any]:
        """`wrapper`, which does nothing any more once this is undone."""
        undone = False

        @transparent
        def call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return wrapped(*args, **kwargs) if undone else wrapper(wrapped, instance, args, kwargs)

        def undo() -> None:
            nonlocal undone
            undone = True

        self._undo.append(undo)
        return call

    def replace(self, module: ModuleType, name: str, new: Any) -> None:
        """Put `new` where `module.name` is, in that module and, when the patches are in place, wherever else it was
        imported to."""
        old = getattr(module, name)
        module.__dict__[name] = new
        self._renamed.append((old, new))
        self.replaced.append((f"{module.__name__}.{name}", old, new))

        def undo() -> None:
            if module.__dict__.get(name) is new:  # here, because it need not be in `sys.modules` any more
                module.__dict__[name] = old
            self._renamed.append((new, old))

        self._undo.append(undo)

    def rebind(self, since: str | None = None) -> None:
        """See to the names that modules had imported. One walk for all of them: it takes a hundredth of a second for
        each thousand modules. `since`: a module that has just been run for the first time; what was defined there is
        sought only in modules that came after it."""
        now: dict[int, tuple[Any, Any]] = {}
        for old, new in self._renamed:
            for key, (first, last) in now.items():
                if last is old:
                    now[key] = first, new
            now[id(old)] = old, new
        self._renamed.clear()
        if any(getattr(old, "__module__", None) != since for old, _ in now.values()):
            since = None  # it is from elsewhere, where others may have it from
        if now:
            rebind(now, _is_ours, since)

    def on_uninstall(self, undo: Callable[[], object]) -> None:
        self._undo.append(undo)

    def undo(self, keep: int = 0) -> None:
        """Undo what was done, the last first, but for the first `keep` steps."""
        while len(self._undo) > keep:
            try:
                self._undo.pop()()
            except Exception:
                logger.exception("threadsafe-timeout: a patch could not be undone; it stays, inert outside scopes")

    def add(self, found: FoundPatch, named: Set[str]) -> None:
        """Take in a patch; one that is opt-in only if it is one of the `named`."""
        try:
            patch = Patch(found)
        except Exception as exc:
            self._failed(found.name, "", exc)
            return
        if patch.name in named or not patch.OPT_IN:
            self.patches[patch.name] = patch

    def load(self, name: str) -> None:
        """Load every patch that wants the module `name`. Never with `_lock` held while modules are watched: another
        thread may be importing the same, and want `_lock`."""
        for patch in self.patches.values():
            if name in patch.MODULES and not patch.broken:
                try:
                    patch.load(name)
                except Exception as exc:
                    with _lock:
                        if not patch.broken:
                            patch.broken = True
                            self._failed(patch.name, "", exc)

    def is_loaded(self, name: str) -> bool:
        """Whether every patch that wants the module `name` is."""
        wanting = (patch for patch in self.patches.values() if name in patch.MODULES)
        return all(patch.broken or patch.is_loaded(name) for patch in wanting)

    def imported(self, module: ModuleType, name: str, *, anew: bool = False) -> None:
        """Apply every patch that wants the module `name` and is loaded, if it is another than before or was run anew.
        The caller holds `_lock`."""
        for patch_name, patch in self.patches.items():
            wanted = name in patch.MODULES and patch.is_loaded(name) and not patch.broken
            if wanted and (anew or self.applied.get((patch_name, name)) is not module):
                self.applied[patch_name, name] = module
                self.problems.pop((patch_name, name), None)
                self._apply(patch_name, patch, module, name)

    def _apply(self, patch_name: str, patch: Patch, module: ModuleType, name: str) -> None:
        problem = out_of_range(patch, name)
        if problem is not None:
            told = any(patch_name == other for other, _ in self.problems)
            self.problems[patch_name, name] = Problem("out of range", problem)
            if not told:
                logger.warning(
                    "threadsafe-timeout: patch %s is not applied: %s. What it covers has no deadlines; install a "
                    "version in that range, or leave the patch out with patches=-%s", patch_name, problem, patch_name,
                    extra={"event": "patch", "patch": patch_name},
                )  # fmt: skip
            return
        done, replaced = len(self._undo), len(self.replaced)
        try:
            patch.apply(module, self)
        except Exception as exc:
            self.undo(keep=done)
            del self.replaced[replaced:]
            self._failed(patch_name, name, exc)

    def _failed(self, patch_name: str, name: str, exc: Exception) -> None:
        self.problems[patch_name, name] = Problem("failed", f"{type(exc).__name__}: {exc}")
        logger.warning(
            "threadsafe-timeout: patch %s could not be %s (%s: %s); it is left as it was",
            patch_name, f"applied to {name}" if name else "loaded", type(exc).__name__, exc,
            extra={"event": "patch", "patch": patch_name},
        )  # fmt: skip


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in {"threadsafe_timeout", "threadsafe_timeout_patches"}


def rebind(now: dict[int, tuple[Any, Any]], spared: Callable[[str], bool], since: str | None = None) -> None:
    """In the namespace of every module but those `spared` put what is now (by the id of what was, with what was) where
    something else was imported by name. With `since`: only in modules whose import began when that one's did or later.
    """
    was, modules = frozenset(now), list(sys.modules.items())
    begin = next((number for number, (name, _) in enumerate(modules) if name == since), 0)
    for name, module in modules[begin:]:
        if spared(name):
            continue
        namespace = _finder.namespace_of(module)
        if namespace is None:
            continue
        if was.isdisjoint(map(id, list(namespace.values()))):  # most: all of it in C
            continue
        for key, value in list(namespace.items()):
            renamed = now.get(id(value))
            # Who defines something needs it as it is. (A module may have two names.)
            if renamed is not None and getattr(value, "__module__", None) != namespace.get("__name__", name):
                namespace[key] = renamed[1]


def known_patches() -> dict[str, FoundPatch]:
    """Every patch there is, by name."""
    return {found.name: found for found in sorted(find_patches(), key=lambda found: found.name)}


def _wanted(chosen: tuple[str, ...], origin: str) -> list[FoundPatch]:
    known = known_patches()
    unknown = sorted({name.lstrip("-+") for name in chosen} - known.keys())
    if unknown:
        names = ", ".join(sorted(known))
        problem = f"there is no patch named {unknown[0]!r}{nearest(unknown[0], known)}; the patches are {names}"
        raise SettingError("patches", origin, problem)
    only = {name for name in chosen if not name.startswith(("-", "+"))}
    added = {name.removeprefix("+") for name in chosen if name.startswith("+")}
    return [e for name, e in known.items() if f"-{name}" not in chosen and (not only or name in only | added)]


def _expected(name: str) -> bool:
    """See to it that all is loaded that wants the module `name`; whether it is."""
    patching = _active
    if patching is not None and patching.in_place:  # else this may be `install()`, with `_lock`: it looks once more
        patching.load(name)
    return patching is not None and patching.is_loaded(name)


def _arrived(module: ModuleType, name: str, *, anew: bool, first: bool = False) -> None:
    if _surroundings.copied_by_eventlet():
        return
    patching = _active
    if patching is not None:
        patching.load(name)
        if name in _switch.POOLS:
            _switch.load(_settings.settings())
    with _lock:
        if _active is None:
            return
        if name in _switch.POOLS:
            _switch.begin(_settings.settings(), _pool_is_patched)
        if name in _surroundings.MONKEYS:
            _surroundings.watch_monkey(module, _active, _make_way)
        _active.imported(module, name, anew=anew)
        if _active.in_place:
            _active.rebind(since=name if first else None)


def _make_way(other: str) -> None:
    """Another tool is about to replace what is patched."""
    with _lock:
        if _active is not None:
            uninstall()
            _tell(_surroundings.because_of(other))


def _tell(why: str) -> None:
    logger.warning(
        "threadsafe-timeout: nothing is patched, and no call has a deadline: %s", why, extra={"event": "patch"}
    )


def install(**given: Any) -> None:
    """Apply every patch, to modules that are imported already and to those imported later.

    Call it once, before or after the runner's imports. Keyword arguments are settings (see `Settings`). They have
    precedence over the environment and pyproject.toml. Calling it again changes the settings.

    Raises SettingError for an unknown setting or a bad value, and names its source; nothing is patched then. Nothing is
    patched either, and a warning says so, in a sub-interpreter and in a process that gevent or eventlet has
    monkey-patched. If one of them does that later, the patches are undone first.
    """
    global _active
    new, origin = _settings.load(given)
    _check_checkpoint(new, origin)
    # Without the lock, as every import.
    wanted = _wanted(new.patches, origin["patches"])
    _switch.load(new)
    with _lock:
        if _active is not None:
            _settings.set_settings(new, origin)
            _switch.begin(new, _pool_is_patched)
            return
        why_not = _surroundings.why_not()
        if why_not is not None:
            _tell(why_not)
            return
        patching = Patching()
        named = {name.removeprefix("+") for name in new.patches}
        for found in wanted:
            patching.add(found, named)
        names = [name for patch in patching.patches.values() for name in patch.MODULES]
        # Before anything is watched: nobody who imports waits for `_lock` yet.
        loaded: set[str] = set()
        while here := {*sys.modules, main_stem()}.intersection(names) - loaded:  # a patch may import what others want
            for name in sorted(here):
                patching.load(name)
            loaded |= here
        _switch.load(new)
        _settings.set_settings(new, origin)
        _active = patching
        _finder.watch([*names, *_surroundings.MONKEYS, *_switch.POOLS], _arrived, _expected, modules_being_run, _lock)
        watch_program(patching, _lock)
        patching.rebind()
        patching.in_place = True
        _switch.begin(new, _pool_is_patched)
    _finder.look()  # for what has come meanwhile


def _pool_is_patched() -> bool:
    applied = ("futures", "concurrent.futures.thread")
    return _active is not None and applied in _active.applied and applied not in _active.problems


def _check_checkpoint(new: _settings.Settings, origin: dict[str, str]) -> None:
    """Say now that what somebody has set cannot be written. (The default is used by few programs: those say so.)"""
    if new.checkpoint is None and new.save == "tasks":
        raise SettingError("save", origin["save"], "tasks cannot be saved, as the setting checkpoint is off")
    if new.checkpoint is None or (origin["checkpoint"] == "default" and new.save == "off"):
        return
    from threadsafe_timeout._files import why_not_creatable

    path = new.checkpoint.replace("<runner>", "runner")
    problem = why_not_creatable(path)
    if problem is not None:
        raise SettingError(
            "checkpoint", origin["checkpoint"],
            f"{new.checkpoint!r} cannot be written: {problem}; give another path, or off to save nothing",
        )  # fmt: skip


def uninstall() -> None:
    """Undo `install()`: every patched name refers to its original object again."""
    global _active
    with _lock:
        patching, _active = _active, None
        _finder.unwatch()
        if patching is not None:
            patching.undo()
            patching.rebind()
        _settings.set_settings(_settings.Settings(), {})
        _switch.end()
    saving = sys.modules.get("threadsafe_timeout.checkpoint._program_run")
    if saving is not None:
        saving.end()


def installed() -> Patching | None:
    """The patches in force, or None."""
    return _active


@contextlib.contextmanager
def patched(**given: Any) -> Iterator[None]:
    """A block with `install(**given)` in force. At its end `uninstall()` runs, also if patches were in force before."""
    install(**given)
    try:
        yield
    finally:
        uninstall()
