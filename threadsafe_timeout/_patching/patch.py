"""One patch: what it is for, and its module, which is imported when it is first needed.

A patch says what it is for in its own module. If the package that the module is in has a dict `DECLARED` with the same
by the module's last name, the module itself is imported when the first of those that it patches is: a program then
pays for the patches of what it uses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from threadsafe_timeout._environment.distributions import FoundPatch, version_of

__all__ = ["Patch", "Problem", "distribution_of", "out_of_range"]

# What `out_of_range` and `Patching.wrap` need. (No patch of the standard library uses them.)
_NEEDED = ("wrapt", "threadsafe_timeout._patching.versions")


class Problem(NamedTuple):
    """Why a patch was not applied: `out of range` or `failed`, and what is to be known about it."""

    kind: str
    detail: str


class Patch:
    """What a patch declares, under the names that it has in the patch's module."""

    def __init__(self, found: FoundPatch) -> None:
        """Raises what the import of its package raises, or, for a patch that is not declared, of its module."""
        self.name = found.name
        self.versions: dict[str, str | None] = {}  # of what is installed, by distribution, once they were looked up
        self.broken = False  # its module could not be imported: that is said once, and not tried again
        self._found = found
        self._module: Any = None
        self._ready: set[str] = set()  # names of modules; `add` is one step
        package, _, last = found.value.rpartition(".")
        table = getattr(import_module(package), "DECLARED", None) if package else None
        declared = table.get(last) if isinstance(table, dict) else None
        says: Callable[[str], Any] = declared.get if isinstance(declared, dict) else self._of_module(found)
        self.MODULES: tuple[str, ...] = says("MODULES")
        self.SUPPORTED: dict[str, str] = says("SUPPORTED") or {}
        self.CLASSES: tuple[str, ...] = says("CLASSES") or ()
        self.IMPORT_WITH: dict[str, str] = says("IMPORT_WITH") or {}
        self.OPT_IN = bool(says("OPT_IN"))

    def _of_module(self, found: FoundPatch) -> Any:
        self._module = found.load()
        self._module.MODULES  # noqa: B018  # every patch has it
        return lambda name: getattr(self._module, name, None)

    def load(self, name: str) -> None:
        """Import all that is needed to apply this to the module `name`. Raises what the imports raise.

        To be called without a lock: another thread may import the same, and want that lock.
        """
        if name in self._ready:
            return
        if self._module is None:
            self._module = self._found.load()
        if name.partition(".")[0] not in sys.stdlib_module_names:
            for needed in _NEEDED:
                import_module(needed)
            distribution = distribution_of(self, name)
            if distribution is not None and distribution not in self.versions:
                self.versions[distribution] = version_of(distribution)
        self._ready.add(name)

    def is_loaded(self, name: str) -> bool:
        """Whether it can be applied to the module `name` without an import."""
        return name in self._ready

    def apply(self, module: ModuleType, patching: Any) -> None:
        """Apply it to `module`. It must have been loaded."""
        self._module.apply(module, patching)


def distribution_of(patch: Patch, name: str) -> str | None:
    """The distribution that the module `name` belongs to, if the patch says which versions it is made for."""
    for distribution in patch.SUPPORTED:
        if f"{name}.".replace(".", "_").startswith(f"{distribution}_".replace("-", "_")):
            return distribution
    # `opentelemetry-api` has `opentelemetry.trace`: others have the rest of that package.
    return next((one for one in patch.SUPPORTED if one.partition("-")[0] == name.partition(".")[0]), None)


def out_of_range(patch: Patch, name: str) -> str | None:
    """What is wrong with the installed version of what the module `name` belongs to, if the patch says so."""
    distribution = distribution_of(patch, name)
    if distribution is None:
        return None
    found, versions = patch.versions.get(distribution), patch.SUPPORTED[distribution]
    if found is None:
        return None  # a copy in somebody's tree: nobody says which one
    from threadsafe_timeout._patching.versions import in_range

    return None if in_range(found, versions) else f"{distribution} {found} is installed, and it is made for {versions}"
