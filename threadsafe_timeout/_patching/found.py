"""The patches that are installed, found by their entry points.

`importlib.metadata` would find them too, but its import takes longer than all the rest of `install()`: it brings the
parsers for mail, archives and URLs. What is asked here is one file of each installed distribution, so it is read here,
wherever distributions are directories. Where they may be something else (a zip file, an egg, another tool's finder),
`importlib.metadata` is asked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["GROUP", "FoundPatch", "find_patches"]

GROUP = "threadsafe_timeout.patches"


class FoundPatch(NamedTuple):
    """An entry point: the patch's name, and where it is (`module`, or `module:attribute`)."""

    name: str
    value: str

    def load(self) -> Any:
        """The patch. Raises what its import raises."""
        module, _, attribute = self.value.partition("[")[0].strip().partition(":")
        patch = import_module(module.strip())
        for name in filter(None, attribute.strip().split(".")):
            patch = getattr(patch, name)
        return patch


def find_patches() -> list[FoundPatch]:
    """Every patch there is, in the order of `sys.path`; of a distribution that is there twice, those of the first."""
    if any(_is_unusual(finder) for finder in sys.meta_path):
        return _ask_importlib()
    found: list[FoundPatch] = []
    seen: set[str] = set()
    for folder in dict.fromkeys(sys.path):
        if not isinstance(folder, str) or folder.lower().rstrip("/\\").endswith(".egg"):
            return _ask_importlib()
        try:
            names = os.listdir(folder or ".")
        except NotADirectoryError:
            return _ask_importlib()  # a zip file, most likely
        except OSError:
            continue
        for name in names:
            if name.lower().endswith((".dist-info", ".egg-info")):
                distribution = name.lower().rpartition(".")[0].partition("-")[0].replace(".", "_")
                if distribution not in seen:
                    seen.add(distribution)
                    found += _read(os.path.join(folder or ".", name, "entry_points.txt"))
    return found


def _is_unusual(finder: Any) -> bool:
    """Whether it finds distributions in its own way."""
    if not hasattr(finder, "find_distributions"):
        return False
    return getattr(finder, "__module__", None) != "_frozen_importlib_external"


def _ask_importlib() -> list[FoundPatch]:
    from importlib.metadata import entry_points

    return [FoundPatch(entry.name, entry.value) for entry in entry_points(group=GROUP)]


def _read(path: str) -> Iterator[FoundPatch]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError):
        return
    if GROUP not in text:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == GROUP and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield FoundPatch(name.strip(), value.strip())
