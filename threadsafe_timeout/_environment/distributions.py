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
from typing import Any, NamedTuple

__all__ = ["GROUP", "FoundPatch", "find_patches", "version_of"]

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
    found: list[FoundPatch] = []
    seen: set[str] = set()
    try:
        for distribution, path in _installed():
            if distribution not in seen:
                seen.add(distribution)
                found += _read(os.path.join(path, "entry_points.txt"))
    except _UnusualError:
        from importlib.metadata import entry_points

        return [FoundPatch(entry.name, entry.value) for entry in entry_points(group=GROUP)]
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
        from importlib.metadata import PackageNotFoundError, version

        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None


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
    if not hasattr(finder, "find_distributions"):
        return False
    return getattr(finder, "__module__", None) != "_frozen_importlib_external"


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
