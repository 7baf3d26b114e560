"""One patch: what it is for, and its module, which is imported when it is first needed.

A patch says what it is for in its own module. If the package that the module is in has a dict `DECLARED` with the same
by the module's last name, the module itself is imported when the first of those that it patches is: a program then
pays for the patches of what it uses.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.found import FoundPatch

__all__ = ["Patch"]


class Patch:
    """What a patch declares, under the names that it has in the patch's module."""

    def __init__(self, found: FoundPatch) -> None:
        """Raises what the import of its package raises, or, for a patch that is not declared, of its module."""
        self.name = found.name
        self.broken = False  # its module could not be imported: that is said once, and not tried again
        self._found = found
        self._module: Any = None
        package, _, last = found.value.rpartition(".")
        declared = getattr(import_module(package), "DECLARED", {}).get(last) if package else None
        says = declared.get if declared is not None else self._of_module(found)
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
        if self._module is None:
            self._module = self._found.load()
        if name.partition(".")[0] not in sys.stdlib_module_names:
            # What is said of versions, and `Patching.wrap`, need these. (No patch of the standard library uses them.)
            import importlib.metadata

            import wrapt  # noqa: F401

    def apply(self, module: ModuleType, patching: Any) -> None:
        """Apply it to `module`. It must have been loaded."""
        self._module.apply(module, patching)
