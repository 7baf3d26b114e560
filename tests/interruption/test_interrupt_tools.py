"""The interrupt shares `sys.monitoring` and the hooks of a thread with other tools, and gives back what it took."""

import concurrent.futures.thread
import importlib
import os
import subprocess
import sys
import time

import pytest
from busy import loop, switched_off
from interrupts import MECHANISM, compute_past_the_deadline

from threadsafe_timeout import doctor, move_on_after
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._timing import timer as _timer

BOUND = 120.0
monitored = pytest.mark.skipif(MECHANISM != "monitoring", reason="sys.monitoring is not used here")
pytestmark = [pytest.mark.skipif(MECHANISM is None, reason=_pursuit.support().detail), pytest.mark.usefixtures("short_grace")]


@monitored
def test_the_tool_is_given_back_and_no_function_stays_instrumented():
    with move_on_after(0.01):
        loop()
    assert switched_off()
    for tool in (3, 4):
        sys.monitoring.use_tool_id(tool, "look")
        try:
            assert sys.monitoring.get_local_events(tool, loop.__code__) == 0
        finally:
            sys.monitoring.free_tool_id(tool)


@monitored
def test_goes_on_with_one_tool_id_taken():
    sys.monitoring.use_tool_id(4, "somebody else")
    try:
        with move_on_after(0.01) as scope:
            loop()
    finally:
        sys.monitoring.free_tool_id(4)
    assert scope.cancelled_caught


def test_no_hook_is_left_in_the_thread():
    with move_on_after(0.01):
        loop()
    deadline_ = time.perf_counter() + BOUND
    while (sys.gettrace() is not None or sys.getprofile() is not None) and time.perf_counter() < deadline_:
        pass
    assert sys.gettrace() is None
    assert sys.getprofile() is None


def test_who_traces_the_thread_later_is_left_alone():
    """A debugger, or a measurement of coverage, in the functions that an interrupt went through."""
    calls = []

    def tracer(frame, event, argument):
        calls.append(frame.f_code.co_name)

    def hold():
        until = time.perf_counter() + BOUND
        while time.perf_counter() < until:
            try:
                loop()
            except BaseException:
                if time.perf_counter() > until - BOUND + 0.15:  # insisted on
                    raise

    def run():
        with move_on_after(0.01) as scope:
            hold()
        sys.settrace(tracer)
        total = 0
        for n in range(10):
            total += n
        busy()
        kept = sys.gettrace()
        sys.settrace(None)
        return kept, scope.cancelled_caught

    def busy():
        return 1

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result(BOUND) == (tracer, True)
    assert calls[-1] == "busy"


@pytest.mark.skipif(MECHANISM != "async exception", reason="for the mechanism of 3.11")
def test_a_module_that_is_being_executed_is_not_slowed_down(tmp_path, monkeypatch):
    """It is not interrupted, others may wait for its lock, and to follow it made seconds out of one."""
    (tmp_path / "takes_its_time.py").write_text(
        "import gc, sys, threading, time\n"
        "from threadsafe_timeout._interruption import pursuit\n"
        "slowed = looks = 0\n"
        "until = time.perf_counter() + 120\n"
        "look = pursuit._look\n"
        "def count():\n"
        "    global looks\n"
        "    looks += 1\n"
        "    look()\n"
        "pursuit._look = count\n"
        "while looks < 10 and time.perf_counter() < until:\n"
        "    slowed += sys.gettrace() is not None or gc.get_threshold()[0] < 0\n"
        "    [[], {}]\n"
        "pursuit._look = look\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    after = []
    with move_on_after(0.01) as scope:
        takes_its_time = importlib.import_module("takes_its_time")
        after.append((takes_its_time.slowed, takes_its_time.looks))
        loop()
    slowed, looks = after[0]
    assert looks >= 10
    assert slowed == 0
    assert scope.cancelled_caught


def test_unproven_interpreters_are_told_apart(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert _pursuit.support().mechanism is None
    assert "3.99" in _pursuit.support().detail
    monkeypatch.undo()
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert "GIL" in _pursuit.support().detail
    with move_on_after(0.01) as scope:
        compute_past_the_deadline(scope)
    assert not scope.cancelled_caught


def test_without_interruption_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    monkeypatch.setattr(_pursuit, "_told", False)
    for _ in range(3):
        with move_on_after(0) as scope:
            while not scope.cancel_called:
                pass
            _timer.settle(BOUND)  # the callback that cancels it has ended
    said = [record.getMessage() for record in caplog.records if "not interrupted here" in record.getMessage()]
    assert len(said) == 1
    assert "3.99" in said[0]


def test_doctor_says_that_a_version_is_not_proven(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    found = doctor.examine()["interrupt"]
    assert found == {"mechanism": None, "detail": "not proven on CPython 3.99"}
    assert found["detail"] in doctor.report()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="there is no JIT, or none that matters")
def test_with_the_jit_on_what_is_not_interrupted_is_abandoned():
    """And `doctor` says so, where it happens."""
    program = """if True:
        import sys
        from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor
        from threadsafe_timeout._interruption import pursuit
        if not sys._jit.is_enabled():
            print("no JIT"); raise SystemExit
        def one_line():
            while True: pass
        def lines():
            counted = 0
            while True:
                counted += 1
        with ThreadPoolExecutor(1, task_timeout=0.1, grace=1) as pool:
            for function in (lines, one_line, lines):
                assert isinstance(pool.submit(function).exception(), DeadlineExceeded)
            assert pool.submit(len, "abc").result() == 3
            abandoned = pool.stats()["abandoned"]
        assert abandoned <= ("the JIT is on" in pursuit.support().detail), abandoned
        print("abandoned")
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHON_JIT": "1"}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    if ran.stdout == "no JIT\n":
        pytest.skip("this build has no JIT")
    assert ran.stdout == "abandoned\n", ran.stderr
