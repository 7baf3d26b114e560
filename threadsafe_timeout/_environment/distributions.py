"""The patches that are installed, found by their entry points, and the versions of what they are for.

`importlib.metadata` would find them too, but its import takes longer than all the rest of `install()`: it brings the
parsers for mail, archives and URLs. What is asked here is one file of each installed distribution, or one line, so it
is read here, wherever distributions are directories. Where they may be something else (a zip file, an egg, another
tool's finder), `importlib.metadata` is asked.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "FoundPatch", "entry_points", "find_patches", "version_of"]

GROUP = "threadsafe_timeout.patches"
# The standard finder, and that of the backport, which takes its place when it is imported (by OpenTelemetry; by Dask on
# 3.11) and looks in the same places.
_USUAL = ("_frozen_importlib_external", "importlib_metadata")


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
    found: list[FoundPatch] = []
    seen: set[str] = set()
    try:
        for distribution, path in _installed():
            if distribution not in seen:
                seen.add(distribution)
                found += _read(os.path.join(path, "entry_points.txt"))
    except _UnusualError:
        return [FoundPatch(entry.name, entry.value) for entry in entry_points(GROUP)]
    return found


def version_of(name: str) -> str | None:
    """The version of the distribution of this name; None if it is not installed. (It may still be there: a copy in
    somebody's tree.)"""
    normalized = _normalized(name)
    try:
        for distribution, path in _installed():
            found = _version_in(path) if distribution == normalized else None
            if found is not None:
                return found
    except _UnusualError:
        from importlib.metadata import version

        with contextlib.suppress(Exception):  # if its metadata is incomplete, each finder raises another
            return version(name)
    return None


def entry_points(group: str) -> Iterator[EntryPoint]:
    """What `importlib.metadata` finds; of a distribution that is there twice, those of the first. One whose metadata
    cannot be read hides nobody else's."""
    from importlib.metadata import distributions

    seen: set[str] = set()
    for distribution in distributions():
        try:
            # By the name of the folder, where there is one: else all of the metadata is parsed.
            name = getattr(distribution, "_normalized_name", None) or _normalized(distribution.metadata["Name"])
            entries = distribution.entry_points.select(group=group)
        except Exception:  # each finder raises another
            continue
        if name not in seen:
            seen.add(name)
            yield from entries


class _UnusualError(Exception):
    """Only `importlib.metadata` can say what is installed here."""


def _installed() -> Iterator[tuple[str, str]]:
    """The normalized name of each distribution, and where its metadata is, in the order of `sys.path`."""
    if any(_is_unusual(finder) for finder in sys.meta_path):
        raise _UnusualError
    for folder in dict.fromkeys(sys.path):
        if not isinstance(folder, str) or folder.lower().rstrip("/\\").endswith(".egg"):
            raise _UnusualError
        try:
            names = os.listdir(folder or ".")
        except NotADirectoryError:
            raise _UnusualError from None  # a zip file, most likely
        except OSError:
            continue
        for name in names:
            if name.lower().endswith((".dist-info", ".egg-info")):
                yield _normalized(name.rpartition(".")[0].partition("-")[0]), os.path.join(folder or ".", name)


def _normalized(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _is_unusual(finder: Any) -> bool:
    """Whether it finds distributions in its own way."""
    return hasattr(finder, "find_distributions") and getattr(finder, "__module__", None) not in _USUAL


def _version_in(path: str) -> str | None:
    """The version that the metadata says, in its first lines; None if there are none."""
    for file in (os.path.join(path, "METADATA"), os.path.join(path, "PKG-INFO"), path):
        for line in (_content(file) or b"").splitlines():
            if not line:
                break  # what follows is the description
            if line[:8].lower() == b"version:":
                return line[8:].decode("utf-8", "replace").strip()
    return None


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb", 0) as file:  # without a buffer, as all of it is read: there may be hundreds
            return file.read()
    except OSError:
        return None


def _read(path: str) -> Iterator[FoundPatch]:
    content = _content(path)
    if content is None or GROUP.encode() not in content:
        return
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == GROUP and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield FoundPatch(name.strip(), value.strip())
