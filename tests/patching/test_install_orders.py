"""Every patch there is, in every order of import, install and uninstall, each order in a process of its own.

What is compared is identity, name by name, in every module that is patched and every class in it: wrappers are equal
to what they wrap, and would pass for it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = '''
import gc, importlib, sys
from importlib.metadata import entry_points
import threadsafe_timeout as t
from threadsafe_timeout._patching import install as _install

PATCHES = {entry.name: entry.load() for entry in entry_points(group="threadsafe_timeout.patches")}
problems = []


def load():
    """Import all that is patched and is here."""
    found = []
    for patch in PATCHES.values():
        for name in patch.MODULES:
            try:
                found.append(importlib.import_module(name))
            except ImportError:
                pass
    return found


def owners(modules):
    """The modules, and the classes that are theirs (the originals, should one be replaced just now)."""
    seen = set()
    for module in modules:
        yield module.__name__, module
        for name, value in list(vars(module).items()):
            if not isinstance(value, type) or value.__module__.partition(".")[0] != module.__name__.partition(".")[0]:
                continue
            if value not in seen:  # a class may have two names
                seen.add(value)
                yield f"{module.__name__}.{name}", value


def snapshot(modules):
    return {label: (owner, dict(vars(owner))) for label, owner in owners(modules)}


def changed(before, say=None):
    """The names that are not what they were."""
    found = set()
    for label, (owner, names) in before.items():
        now = vars(owner)
        for name in names.keys() | now.keys():
            if name in ("__dict__", "__weakref__", "__doc__", "__warningregistry__", "__abstractmethods__", "_abc_impl"):
                continue
            if now.get(name) is not names.get(name) or (name in now) is not (name in names):
                if isinstance(names.get(name), (int, float, str)) and now.get(name) == names.get(name):
                    continue
                found.add(f"{label}.{name}")
    if say is not None and found:
        problems.append(f"{say}: {sorted(found)}")
    return found


def check(patching):
    for (patch, module), problem in patching.problems.items():
        problems.append(f"{patch}: {module}: {problem}")


def end():
    print("\\n".join(problems) or "ok")
'''

ORDERS = {
    "import, install, install, uninstall, install, uninstall": """
modules = load()
before = snapshot(modules)
t.install()
check(_install.installed())
patched = changed(before)
missing = {name for name, patch in PATCHES.items() if any(m in sys.modules for m in patch.MODULES)} - {
    name for name, patch in PATCHES.items() for m in patch.MODULES if any(label.startswith(m + ".") for label in patched)}
if missing - {"opentelemetry"}:  # that one listens, and changes nothing
    problems.append(f"nothing was patched by {sorted(missing)}")
now = snapshot(modules)
t.install()
changed(now, "a second install() patched again")
t.uninstall()
changed(before, "left after uninstall()")
t.uninstall()
changed(before, "left after a second uninstall()")
t.install()
again = changed(before)
if again != patched:
    problems.append(f"the second time differs: {sorted(again ^ patched)}")
t.uninstall()
changed(before, "left after install() and uninstall() again")
""",
    "install, import, uninstall, install, uninstall": """
t.install()
modules = load()
check(_install.installed())
now = snapshot(modules)
t.uninstall()
patched = changed(now)
before = snapshot(modules)
for label, (owner, names) in before.items():
    for name, value in names.items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        where = function.__globals__.get("__name__", "") if isinstance(function, type(load)) else ""
        if type(value).__module__.startswith("wrapt") or where.startswith("threadsafe_timeout"):
            problems.append(f"left after uninstall(): {label}.{name} is {value!r}")
t.install()
again = changed(before)
if not again:
    problems.append("nothing is patched the second time")
t.uninstall()
changed(before, "left after the second uninstall()")
""",
    "import, install and uninstall of each patch alone": """
modules = load()
before = snapshot(modules)
for name in PATCHES:
    t.install(patches=[name])
    check(_install.installed())
    t.uninstall()
    changed(before, f"left by {name} alone")
""",
    "install, import, somebody else's wrapper on top, uninstall, install, uninstall": """
modules = load()
before = snapshot(modules)
t.install()
patched = sorted(changed(before))
def foreign(inner):
    def wrapper(*args, **kwargs):
        return inner(*args, **kwargs)
    return wrapper
mine = {}
for label, (owner, names) in before.items():
    for name in names:
        if f"{label}.{name}" in patched:
            inner = vars(owner)[name]
            if isinstance(inner, type) or not callable(inner):
                continue
            mine[label, name] = foreign(inner)
            setattr(owner, name, mine[label, name])
if not mine:
    problems.append("there was nothing to put a wrapper on")
for _ in range(2):
    t.uninstall()
    for (label, name), wrapper in mine.items():
        if vars(before[label][0]).get(name) is not wrapper:
            problems.append(f"{label}.{name}: the wrapper on top is gone")
    t.install()
t.uninstall()
import time, threading, queue
time.sleep(0)
threading.Event().wait(0)
threading.Thread(target=time.sleep, args=(0,)).start()
""",
}


@pytest.mark.parametrize(
    "order", [pytest.param(order, marks=pytest.mark.stress if number else ()) for number, order in enumerate(ORDERS)]
)
def test_whatever_the_order_the_originals_come_back(order, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM + ORDERS[order] + "\nend()\n")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("THREADSAFE_TIMEOUT_")}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok\n", done.stdout + done.stderr


def test_each_patch_names_what_it_is_for():
    from importlib.metadata import entry_points

    from threadsafe_timeout._patching.install import distribution_of
    from threadsafe_timeout._patching.versions import in_range

    for entry in entry_points(group="threadsafe_timeout.patches"):
        patch = entry.load()
        assert isinstance(patch.MODULES, tuple)
        assert callable(patch.apply)
        for versions in getattr(patch, "SUPPORTED", {}).values():
            in_range("1", versions)  # raises for what it does not understand
        spared = {*sys.stdlib_module_names, "batch_test_runner", "interactive_executor"}
        others = [name for name in patch.MODULES if name.partition(".")[0] not in spared]
        belongs_to = {name: distribution_of(patch, name) for name in others}
        assert None not in belongs_to.values(), f"{entry.name}: a patch for a library says for which versions: {belongs_to}"
        assert set(belongs_to.values()) == set(getattr(patch, "SUPPORTED", {})), entry.name
        assert Path(patch.__file__).read_text(encoding="utf-8").startswith('"""')
