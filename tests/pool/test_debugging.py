"""What programs use to look into threads works in a pool's as in standard ones: traces, profiles, pdb, their names."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent.futures.thread import ThreadPoolExecutor as StandardThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from threadsafe_timeout import ThreadPoolExecutor, deadline
from threadsafe_timeout._introspection.transparent import is_protected

POOLS = {"standard": StandardThreadPoolExecutor, "ours": ThreadPoolExecutor}


def traced(x: int) -> int:
    y = x + 1
    return y * 2


@pytest.mark.parametrize("setter", ["settrace", "setprofile"])
def test_what_is_set_for_threads_is_called_in_the_pools_as_in_standard_ones(setter: str) -> None:
    found = {}
    for kind, pool_class in POOLS.items():
        events: list[tuple[str, str, int]] = []

        def note(frame: Any, event: str, argument: Any, events: Any = events) -> Any:
            if frame.f_code is traced.__code__ and event != "opcode":
                events.append((threading.current_thread().name, event, frame.f_lineno))
            return note

        getattr(threading, setter)(note)
        try:
            with pool_class(1, thread_name_prefix="looked-at") as pool:
                assert pool.submit(traced, 1).result() == 4
                with deadline(60):
                    assert pool.submit(traced, 1).result() == 4
        finally:
            getattr(threading, setter)(None)
        found[kind] = events
    assert found["ours"] == found["standard"]
    assert {name for name, _, _ in found["ours"]} == {"looked-at_0"}
    assert [event for _, event, _ in found["ours"]].count("return") == 2


def run_pdb(program: str, commands: str, cwd: Path) -> str:
    (cwd / "program.py").write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=cwd, input=commands, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pdb_in_a_task(tmp_path: Path) -> None:
    out = run_pdb(
        """
        import threadsafe_timeout.auto
        from concurrent.futures import ThreadPoolExecutor
        def work(x):
            breakpoint()
            y = x + 1
            return y
        with ThreadPoolExecutor(1) as pool:
            print("returned", pool.submit(work, 1).result())
        """,
        "p x + 40\nn\nn\np y + 60\nc\n",
        tmp_path,
    )
    assert "41" in out
    assert "62" in out
    assert out.endswith("returned 2\n")


def test_a_deadline_does_not_strike_while_somebody_is_at_pdbs_prompt(tmp_path: Path) -> None:
    """What he asks for takes longer than the scope has left; it is the scope's code that is cancelled afterwards."""
    out = run_pdb(
        """
        import threadsafe_timeout.auto, threading
        from concurrent.futures import ThreadPoolExecutor
        import threadsafe_timeout as t, select, time
        def until_it_is_over(scope):
            scope.deadline = time.monotonic() + 0.1  # not before he is there
            while t.time_remaining() > 0:
                select.poll().poll(10)
            for _ in range(20000): pass
            return "over"
        def work(x):
            with t.move_on_after(600) as scope:
                breakpoint()
                while True: x += 1
            return scope.cancelled_caught
        with ThreadPoolExecutor(1) as pool:
            print("returned", pool.submit(work, 1).result())
        """,
        "p until_it_is_over(scope)\np 1 + 40\nc\n",
        tmp_path,
    )
    assert "'over'" in out, out
    assert "41" in out
    assert out.endswith("returned True\n")


@pytest.mark.parametrize("module", ["pdb", "bdb", "_pydevd_bundle.pydevd_frame", "debugpy.server"])
def test_what_a_debugger_runs_is_not_interrupted(module: str) -> None:
    names: dict[str, Any] = {"__name__": module, "sys": sys}
    exec("def look(): return sys._getframe()", names)
    assert is_protected(names["look"]())
