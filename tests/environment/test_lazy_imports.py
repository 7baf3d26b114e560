"""Lazy imports (PEP 810, since 3.15): what is imported when it is first used is patched then."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 15), reason="lazy imports came with 3.15")

SLOW = """
import time
until = time.perf_counter() + 0.2
while time.perf_counter() < until:
    pass
done = True
"""
PROGRAM = """
lazy import colorsys
lazy from time import sleep
lazy import urllib3
lazy import slow_to_import
import threadsafe_timeout.auto
import sys
from threadsafe_timeout import move_on_after
from threadsafe_timeout._patching import install as _install
from threadsafe_timeout.doctor import report

for name in ("colorsys", "urllib3", "slow_to_import"):
    assert name not in sys.modules, name
with move_on_after(0.02) as scope:
    sleep(60)
assert scope.cancelled_caught
urllib3.PoolManager
assert ("urllib3", "urllib3.connectionpool") in _install.installed().applied
with move_on_after(0.02) as scope:
    assert slow_to_import.done  # a module that is executed is left alone
    while True:
        pass
assert scope.cancelled_caught
report()
assert "colorsys" not in sys.modules  # nothing of ours made it load
print("ok")
"""
ALL_LAZY = """
import threadsafe_timeout
threadsafe_timeout.install(checkpoint=None)
import time
with threadsafe_timeout.move_on_after(0.02) as scope:
    time.sleep(60)
assert scope.cancelled_caught
with threadsafe_timeout.move_on_after(0.02) as scope:
    while True:
        pass
assert scope.cancelled_caught
with threadsafe_timeout.ThreadPoolExecutor(2, task_timeout=0.1) as pool:
    assert isinstance(pool.submit(time.sleep, 60).exception(), TimeoutError)
print("ok")
"""


def run(folder, program, *options):
    (folder / "slow_to_import.py").write_text(SLOW)
    (folder / "program.py").write_text(program)
    ran = subprocess.run(
        [sys.executable, *options, "program.py"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stdout == "ok\n", ran.stderr


def test_what_is_imported_lazily_is_patched_when_it_is_used(tmp_path):
    run(tmp_path, PROGRAM)


def test_install_works_where_all_imports_are_lazy(tmp_path):
    """(There, `import threadsafe_timeout.auto` by itself is never executed: nobody uses the name.)"""
    run(tmp_path, ALL_LAZY, "-X", "lazy_imports=all")
