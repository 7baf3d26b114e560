"""docs/architecture.md names modules and functions that are there, and the kernel has the size that it says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from doc_links import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# Places: `room/module`, with or without `.py`, and a name in it, maybe of a class.
PLACES = sorted(set(re.findall(r"(?<![\w/])((?:_[a-z]\w*|checkpoint|threadsafe_timeout_patches)/\w+)((?:\.\w+)*)", PAGE)))
CODE = " ".join(re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) + re.findall(r"`([^`\n]+)`", PAGE))
# What an object of a module has: `crew.lock`, `task.claim`.
MEMBERS = sorted(set(re.findall(r"(?<![\w/.])([a-z]\w*)\.(\w+)", CODE)))
SEVERAL = {"token": "tokens", "writer": "_writer"}  # objects, by the module of their class
NOT_OURS = {"os", "pool"}
KERNEL = re.findall(r"^\d+\. `([\w/]+\.py)`(.*)$", PAGE, re.MULTILINE)


def file_of(place: str) -> Path:
    folder = ROOT / "patches" if place.startswith("threadsafe_timeout_patches/") else ROOT / "threadsafe_timeout"
    return folder / f"{place.removesuffix('.py')}.py"


@cache
def defined(file: Path) -> frozenset[str]:
    """The functions, methods, classes and variables of a module, and what its objects are given."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return frozenset(names)


@cache
def named(file: Path) -> frozenset[str]:
    """All names that occur in a module: an object may have some of them from its base class."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    return defined(file) | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def modules_called(name: str) -> list[Path]:
    return [*(ROOT / "threadsafe_timeout").rglob(f"{SEVERAL.get(name, name)}.py")]


def test_the_page_names_many_places():
    assert len(PLACES) > 25
    assert len(MEMBERS) > 15
    assert len(KERNEL) == 3


@pytest.mark.parametrize(("module", "names"), PLACES, ids="".join)
def test_a_place_is_there(module: str, names: str):
    file = file_of(module)
    assert file.is_file()
    assert {name for name in names.split(".") if name not in ("", "py")} <= defined(file)


@pytest.mark.parametrize(("name", "member"), [pair for pair in MEMBERS if pair[0] not in NOT_OURS], ids=str)
def test_a_member_is_there(name: str, member: str):
    files = modules_called(name)
    assert files
    assert member == "py" or any(member in named(file) for file in files)


@pytest.mark.parametrize(("module", "rest"), KERNEL, ids=lambda text: text.split(".")[0])
def test_what_is_to_be_read_is_there(module: str, rest: str):
    names = re.findall(r"`(\w+)`", rest)
    assert names
    assert set(names) <= defined(file_of(module))


def test_the_kernel_is_as_small_as_it_says():
    limit = int(re.search(r"under (\d+) lines", PAGE)[1])
    assert sum(len(file_of(module).read_text(encoding="utf-8").splitlines()) for module, _ in KERNEL) < limit
