"""What the first interrupt needs is there before it is needed, and an import of the library does not pay for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from threadsafe_timeout._interruption import pursuit as _pursuit

NEEDED = {"threadsafe_timeout._interruption.pursuit", "threadsafe_timeout._interruption.code_map"}


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_an_import_loads_none_of_it():
    loaded = run("import sys, threadsafe_timeout; print(*sys.modules)")
    assert not NEEDED & set(loaded)
    alone = run("import sys, logging; print(*sys.modules)")  # which loads it, from 3.14 on
    assert "dataclasses" not in set(loaded) - set(alone)


@pytest.mark.skipif(_pursuit.support().mechanism is None, reason="nothing is interrupted here")
def test_the_first_scope_has_it_loaded_though_nothing_expires():
    loaded = run("""
        import sys, time, threadsafe_timeout
        from threadsafe_timeout._timing import preload as _preload
        with threadsafe_timeout.deadline(1000):
            until = time.monotonic() + 120
            while _preload.wanted and time.monotonic() < until:
                pass
        from threadsafe_timeout._timing import timer as _timer
        _timer.settle(120)
        print(*sys.modules)
        assert sys.modules["threadsafe_timeout._interruption.pursuit"]._mechanism is not None
    """)
    assert set(loaded) >= NEEDED


def test_deadlines_are_met_while_it_loads():
    assert run("""
        import threadsafe_timeout, threading
        fired = []
        from threadsafe_timeout._timing import timer as _timer
        gate = threading.Event()
        for number in range(20):
            _timer.call_later(0.001 * number, lambda number=number: (fired.append(number), number == 19 and gate.set()))
        assert gate.wait(120)
        print(*fired)
    """) == [str(number) for number in range(20)]


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_child_that_is_forked_meanwhile_can_load_it_too():
    code = """
        import os, sys, time, warnings
        warnings.simplefilter("ignore")  # of a fork while threads run, which is what is tried here
        import threadsafe_timeout
        from threadsafe_timeout import DeadlineExceeded, deadline
        def child():
            grandchild = os.fork()
            if not grandchild:
                os._exit(0)
            os.waitpid(grandchild, 0)
            try:
                with deadline(0.05):
                    while True:
                        threadsafe_timeout.check_cancelled()
            except DeadlineExceeded:
                os._exit(0)
        statuses = []
        with deadline(1000):
            for _ in range(15):  # the first of them while modules are loaded
                pid = os.fork()
                if not pid:
                    child()
                statuses.append(pid)
        print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in statuses))
    """
    for _ in range(3):
        assert run(code) == ["0"] * 15
