"""The library's imports, as the rooms (packages) see them: who imports whom, and when.

    python tests/imports.py            # each room, with the rooms that it imports
    python tests/imports.py --modules  # each module, with the modules that it imports
"""

from __future__ import annotations

import argparse
import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "threadsafe_timeout"
FOLDER = Path(__file__).parent.parent / PACKAGE


class Arrow(NamedTuple):
    """An import: `when` is "at once", "later" (in a function) or "for types"."""

    importer: str
    imported: str
    when: str


def modules() -> dict[str, Path]:
    """Each module of the library, by its name."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(FOLDER).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def arrows() -> tuple[Arrow, ...]:
    """All imports of one module of the library by another, once each."""
    known = modules()
    found = set()
    for name, path in known.items():
        for imported, when in _imports(ast.parse(path.read_text(encoding="utf-8")), "at once", known):
            found.add(Arrow(name, imported, when))
    return tuple(sorted(found))


def _imports(node: ast.AST, when: str, known: dict[str, Path]) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        inner = when
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = "later"
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            inner = "for types"
        elif isinstance(child, ast.Import):
            yield from ((alias.name, when) for alias in child.names if alias.name in known)
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                name = whole if whole in known else child.module
                if name in known:
                    yield name, when
        yield from _imports(child, inner, known)


def room(module: str) -> str:
    """The room that a module is in; a module on the ground is its own."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", action="store_true")
    by_module = parser.parse_args().modules
    shown: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for importer, imported, when in arrows():
        one, other = (importer, imported) if by_module else (room(importer), room(imported))
        if one != other:
            shown[one][when].add(other)
    for one, others in sorted(shown.items()):
        print(one)  # noqa: T201
        for when, names in sorted(others.items()):
            print(f"    {when}: {', '.join(sorted(names))}")  # noqa: T201


if __name__ == "__main__":
    main()
