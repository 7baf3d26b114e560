"""No module and no function is too long to be read in one sitting."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ["threadsafe_timeout", "patches", "legacy_compat"]
# Programs of somebody else, kept as they were written.
KEPT = ROOT / "legacy_compat" / "threadsafe_timeout_legacy" / "replica"
MODULE, TESTS, FUNCTION = 400, 500, 40  # lines; of a function, those of its docstring apart


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if not path.is_relative_to(KEPT)]
    assert found or not (ROOT / folders[0]).exists()
    return found


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def span(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.skipif(not (ROOT / "threadsafe_timeout").exists(), reason="the sources are not here: an installed package")
@pytest.mark.parametrize(("folders", "most"), [(LIBRARY, MODULE), (["tests"], TESTS)], ids=["library", "tests"])
def test_no_module_is_too_long(folders, most):
    assert not [(str(path), lines(path)) for path in sources(*folders) if lines(path) > most]


@pytest.mark.skipif(not (ROOT / "threadsafe_timeout").exists(), reason="the sources are not here: an installed package")
def test_no_function_of_the_library_is_too_long():
    long = []
    for path in sources(*LIBRARY):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = span(node) - (0 if ast.get_docstring(node) is None else span(node.body[0]))
                if length > FUNCTION:
                    long.append((f"{path}:{node.lineno}", node.name, length))
    assert not long
