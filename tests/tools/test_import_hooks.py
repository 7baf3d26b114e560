"""Tools that put finders and loaders of their own in front of everybody's: typeguard, jaxtyping; and coverage."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import run

pytestmark = pytest.mark.timeout(330)  # three processes at most; see `programs.SECONDS`

# Those that are patched, and not all of these packages: what a hook compiles, it compiles each time.
MODULES = ["httpcore._sync", "httpx._client", "openai._base_client"]
HOOKS = {
    "typeguard": f"from typeguard import install_import_hook; install_import_hook({MODULES})",
    "jaxtyping": f"from jaxtyping import install_import_hook; install_import_hook({MODULES}, None)",
    "both": f"from typeguard import install_import_hook; install_import_hook({MODULES[:2]})\n"
    f"from jaxtyping import install_import_hook; install_import_hook({MODULES[2:]}, None)",
}
CHECK = """
import sys, threadsafe_timeout
import httpx, httpcore, openai
import importlib.machinery, inspect, wrapt
wanted = [
    ("openai._base_client", "SyncAPIClient", "request"), ("httpx._client", "Client", "send"),
    ("httpcore._sync.http_proxy", "TunnelHTTPConnection", "handle_request"),
]
def functions():
    return [vars(getattr(sys.modules[module], owner))[name] for module, owner, name in wanted]
assert [type(function) for function in functions()] == [wrapt.FunctionWrapper] * 3, functions()
originals = [inspect.unwrap(function, stop=lambda one: type(one) is not wrapt.FunctionWrapper) for function in functions()]
for module, _, _ in wanted:
    assert type(sys.modules[module].__spec__.loader) is not importlib.machinery.SourceFileLoader, "its hook did not find it"
threadsafe_timeout.uninstall()
assert all(now is original for now, original in zip(functions(), originals))
print("ended")
"""


@pytest.mark.parametrize("first", ["the line", "the hook"])
@pytest.mark.parametrize("hook", HOOKS)
def test_what_their_finders_find_is_patched(hook: str, first: str, tmp_path: Path) -> None:
    lines = ["import threadsafe_timeout.auto", HOOKS[hook]]
    done = run("\n".join([*(lines if first == "the line" else reversed(lines)), CHECK]), tmp_path)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


PROGRAM = """
import threadsafe_timeout.auto, threadsafe_timeout as t
import concurrent.futures, threading
def work(x):
    y = x + 1
    return y
def busy():
    with t.move_on_after(0.2) as scope:
        while True:
            pass
    return scope.cancelled_caught
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    assert list(pool.map(work, range(4))) == [1, 2, 3, 4]
    assert pool.submit(busy).result()
print("ended")
"""


@pytest.mark.parametrize("core", ["ctrace", "sysmon"])
def test_coverage_sees_the_lines_of_tasks_and_a_busy_one_is_interrupted_all_the_same(core: str, tmp_path: Path) -> None:
    measured = f"""
        import os, sys
        os.environ["COVERAGE_CORE"] = {core!r}
        import coverage
        measuring = coverage.Coverage(data_file=None, include=["measured.py"])
        measuring.start()
        import measured
        measuring.stop()
        _, lines, _, missing, _ = measuring.analysis2("measured.py")
        print(sorted(set(lines) & {{4, 5, 6, 7, 8, 9, 10, 11}} - set(missing)))
        """
    (tmp_path / "measured.py").write_text(PROGRAM.lstrip("\n"))
    done = run(measured, tmp_path)
    assert done.returncode == 0, done.stderr
    ended, seen = done.stdout.splitlines()
    assert ended == "ended"
    # The last line of the block that was interrupted is in one way of counting run, in the other not.
    assert {4, 5, 7, 8} <= set(eval(seen)), seen
