"""The order in which a program imports, with the line in force, changes nothing: no patch is left out."""

import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from threadsafe_timeout_patches import DECLARED

# What a patch wants, its patch, and what that imports, where that imports the first. Nobody waits for somebody else in
# those: whoever imports one of the others from outside has imported the first before.
CIRCLES = {
    "concurrent.futures.thread": {"threadsafe_timeout._pool.thread_pool", "threadsafe_timeout_patches.futures"},
    "multiprocessing.pool": {
        "threadsafe_timeout._pool.dummy_pool", "threadsafe_timeout_patches.multiprocessing_pool",
    },
    "queue": {"threadsafe_timeout_patches.queue"},
    "socket": {"threadsafe_timeout_patches.socket"},
    "subprocess": {"threadsafe_timeout_patches.subprocess"},
}  # fmt: skip
SAID = ("MODULES", "SUPPORTED", "CLASSES", "IMPORT_WITH", "OPT_IN")


def run(*options):
    program = Path(__file__).with_name("import_orders.py")
    ran = subprocess.run([sys.executable, program, *options], capture_output=True, text=True, check=True)
    assert ran.stderr == ""  # nothing could not be patched, or recorded
    return json.loads(ran.stdout)


def circles(found):
    named = [set(each) for each in found["circles"]]
    return [each for each in named if not all(name.startswith("threadsafe_timeout.checkpoint") for name in each)]


@pytest.mark.stress
def test_each_module_first():
    found = run()
    assert found["problems"] == []
    allowed = [{name, *others} for name, others in CIRCLES.items()]
    assert [each for each in circles(found) if each not in allowed] == []


@pytest.mark.stress
def test_each_module_first_those_of_clients_too():
    assert run("--all")["problems"] == []


def test_eight_threads_import_everything_at_once():
    found = run("--threads", "1")
    assert found["problems"] == []
    assert found["orders"] == 1


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("orders", "with_clients"), [(range(12), range(2)), pytest.param(range(12, 40), range(2, 6), marks=pytest.mark.long)])
def test_eight_threads_import_everything_at_once_in_many_orders(orders, with_clients):
    assert run("--threads", *map(str, orders))["problems"] == []
    assert run("--all", "--threads", *map(str, with_clients))["problems"] == []


def test_what_is_declared_is_what_the_patches_say():
    for entry in entry_points(group="threadsafe_timeout.patches"):
        if entry.module.partition(".")[0] == "threadsafe_timeout_patches" and entry.name != "selectors":
            patch = import_module(entry.module)
            said = {name: getattr(patch, name) for name in SAID if hasattr(patch, name)}
            assert DECLARED[entry.module.rpartition(".")[2]] == said, entry.name


# What a scope cannot do without, and the patches. What these import in their turn is another thing on each version.
BASIS = "import collections, contextlib, contextvars, functools, heapq, importlib, threading, weakref"
BASIS_OF_LINE = BASIS + ", dataclasses, importlib.util, inspect, logging, selectors, signal, typing"
TAKES_LONG = {"asyncio", "concurrent", "dataclasses", "email", "enum", "filelock", "inspect", "json", "logging", "pathlib", "re", "signal", "typing"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What a program loads beside what a basis does."""
    folder = tmp_path_factory.mktemp("empty")  # no pyproject.toml

    def modules(program):
        program += "; import sys; print(*sys.modules)"
        ran = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
        return set(ran.stdout.split())

    return lambda program, basis: modules(program) - modules(basis)


def ours(modules, *starts):
    return sorted(name for name in modules if name.startswith(tuple(f"threadsafe_timeout.{start}" for start in starts)))


def test_the_package_loads_what_a_scope_needs(loaded):
    found = loaded("import threadsafe_timeout", BASIS)
    assert found & TAKES_LONG == set()
    assert ours(found, "_settings", "_patching", "_pool", "_interruption", "_guard", "checkpoint", "engines") == []


def test_the_line_loads_little(loaded):
    found = loaded("import threadsafe_timeout.auto", BASIS_OF_LINE)
    heavy = {"asyncio", "concurrent", "email", "filelock", "http", "importlib.metadata", "multiprocessing", "openai", "pathlib"}
    heavy |= {"queue", "socket", "ssl", "subprocess", "tomllib", "urllib", "wrapt", "zipfile"}
    assert found & heavy == set()
    assert ours(found, "_pool", "_interruption.", "_guard", "_record.", "checkpoint", "engines") == [
        "threadsafe_timeout._interruption.main_thread", "threadsafe_timeout._pool", "threadsafe_timeout._pool.observer",
        "threadsafe_timeout._record.late", "threadsafe_timeout._record.switch",
    ]


def test_a_client_loads_neither_the_pool_nor_the_guard(loaded):
    found = loaded("import threadsafe_timeout.auto, openai", BASIS)
    assert {"threadsafe_timeout_patches.openai", "threadsafe_timeout_patches.socket"} <= found
    assert {"threadsafe_timeout._pool.crew", "threadsafe_timeout._pool.thread_pool", "filelock"} & found == set()
    assert ours(found, "_guard", "_record.s", "_record.r", "_record.p", "checkpoint", "engines") == ["threadsafe_timeout._record.switch"]
