"""The rooms of the library: which may import which, and the front door of each."""

from __future__ import annotations

import ast
import subprocess
import sys

import imports
import pytest

# From the ground up. A room imports rooms that stand before it.
ROOMS = [
    "_typing", "_log", "_text", "_errors", "_checks", "_files", "_settings", "_environment", "_timing", "_introspection",
    "_scopes",
    "_interruption", "_processes", "_pool", "_record", "checkpoint", "_view", "_guard", "guard", "_patching", "_install",
    "engines", "auto", "doctor", "testing", "_startup", "_supervision", "_commands", "cli", "threadsafe_timeout", "__main__",
]  # fmt: skip
# The arrows upwards, all inside functions, and why each is there.
UPWARDS = {
    ("_scopes", "_interruption"),  # a program that cancels nothing does not load the interrupt
    ("_settings", "_guard"),  # the guard's limits are settings, which it checks itself
    ("_pool", "engines"),  # nor one whose tasks are threads the processes
    ("_pool", "checkpoint"),  # a pool that saves nothing does not load the journal
}
PACKAGES = [name for name in ROOMS if (imports.FOLDER / name / "__init__.py").exists()]


def test_rooms_import_only_rooms_below_them():
    rooms_of = {imports.room(name) for name in imports.modules()}
    assert rooms_of <= {*ROOMS}
    floor = {name: number for number, name in enumerate(ROOMS)}
    wrong = [
        arrow for arrow in imports.arrows()
        if arrow.when != "for types"
        and floor[imports.room(arrow.imported)] > floor[imports.room(arrow.importer)]
        and (arrow.when == "at once" or (imports.room(arrow.importer), imports.room(arrow.imported)) not in UPWARDS)
    ]  # fmt: skip
    assert not wrong


def test_each_arrow_upwards_that_is_allowed_is_there():
    there = {(imports.room(arrow.importer), imports.room(arrow.imported)) for arrow in imports.arrows()}
    assert there >= UPWARDS


def test_modules_do_not_import_each_other_in_a_circle():
    """Not when they are loaded: a circle inside a function is one that a reader has to know of."""
    below: dict[str, set[str]] = {name: set() for name in imports.modules()}
    for arrow in imports.arrows():
        if arrow.when == "at once":
            below[arrow.importer].add(arrow.imported)
    while leaves := {name for name, others in below.items() if not others & below.keys()}:
        for name in leaves:
            del below[name]
    assert not below


@pytest.mark.parametrize("name", PACKAGES)
def test_each_room_has_a_front_door(name):
    """It says what the room is for, in ten lines at most, and where to start."""
    door = ast.get_docstring(ast.parse((imports.FOLDER / name / "__init__.py").read_text(encoding="utf-8")))
    assert door is not None
    assert len(door.splitlines()) <= 10


def test_the_picture_of_the_imports_can_be_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["imports.py"])
    imports.main()
    assert "_scopes\n" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, imports.__file__, "--modules"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "threadsafe_timeout._scopes.scope\n" in done.stdout
