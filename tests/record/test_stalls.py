"""The watch over an interpreter that stands still, on real programs whose calls of C hold the GIL."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import runs

from threadsafe_timeout import ThreadPoolExecutor
from threadsafe_timeout._record import holder

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="timers and times of threads as Linux has")

BEGIN = """
import ctypes, faulthandler, os, re, sys, threading, time
import threadsafe_timeout
threadsafe_timeout.install(stall_after=1, checkpoint=None, summary="off", **settings)
from threadsafe_timeout import ThreadPoolExecutor
from threadsafe_timeout._record import stalls

c = ctypes.PyDLL(None)  # its functions hold the GIL
told = threading.Event()

def until(found):
    while not found():
        time.sleep(0.01)

def tell(event):
    if event.kind == "stalled":
        print(event.kind, event.task, flush=True)
        told.set()

def hold(seconds):
    c.usleep(seconds * 1_000_000)
    told.wait()

looks = {}

def prepared():  # whether its timer is there, and was set since
    from threadsafe_timeout._introspection import dump_signal
    one = stalls._attached.one
    if not one.stacks:
        return one._prepared
    seen = looks.setdefault(one, set())
    if one._timer is not None:
        seen.add(one._mark.moment)
    return len(seen) > 2 and (settings["status_dir"] == "off" or dump_signal.destination() == "run")
"""
# A thread that waits for the GIL asks for it each switch interval, and whether it has done so often enough tells a held
# GIL from a machine that stands still. With a longer one it has, on a busy machine too, on which each time takes longer.
HOLDS = """
sys.setswitchinterval(0.1)
with ThreadPoolExecutor(4) as pool:
    pool.on_event(tell)
    waiting = [pool.submit(told.wait) for _ in range(2)]
    until(prepared)
    pool.submit(hold, 4)
"""


def command(folder, program, **settings):
    settings = {"stall_stacks": "on", "status_dir": "off"} | settings
    (folder / "program.py").write_text(f"settings = {settings!r}\n" + BEGIN + textwrap.dedent(program))
    return [sys.executable, "program.py"]


def run(folder, program, **settings):
    done = subprocess.run(
        command(folder, program, **settings), cwd=folder, capture_output=True, text=True, timeout=110, check=False,
        env=runs.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def warnings(errors):
    return [line for line in errors.splitlines() if "the interpreter stood still" in line]


# Which task is named is told from processor times, which a busy machine changes: given here.


@pytest.mark.parametrize(("held", "waited", "here"), [
    (28.0, 0.06, 0.05),  # it computed
    (2.0, 0.06, 0.05),  # the same where others use the machine
    (0.001, 0.06, 0.05),  # it waited in C with the GIL, which costs nothing
])  # fmt: skip
def test_who_held_it_is_told_from_processor_times(held, waited, here, monkeypatch):
    begun, go = threading.Barrier(3), threading.Event()

    def wait():
        begun.wait()
        go.wait()

    with ThreadPoolExecutor(2, "pool") as pool:
        tasks = [pool.submit(wait) for _ in range(2)]
        begun.wait()
        holding, waiting = sorted((one for one in threading.enumerate() if one.name.startswith("pool_")), key=str)
        times = {holding: held, waiting: waited, threading.current_thread(): here}
        monkeypatch.setattr(holder, "look", lambda: times)
        suspects = holder._suspects({}, 30.0)
        go.set()
    assert [one.thread for one in suspects] == [holding]
    assert suspects[0].task in tasks


def test_a_call_that_waits_with_the_gil_is_told_and_its_stack_written(tmp_path):
    done = run(tmp_path, HOLDS)
    assert "stalled" in done.stdout
    stacks, warning = done.stderr.split("threadsafe-timeout: the interpreter stood still", 1)
    assert " in hold\n" in stacks  # faulthandler's, while it was held
    assert 'isolate="process"' in warning
    assert "run --supervise" in warning
    assert "written to standard error" in warning


def test_a_regular_expression_that_backtracks_is_told(tmp_path):
    program = """
        sys.setswitchinterval(0.1)  # see HOLDS

        def match():
            length = 20
            while not told.wait(0.2):  # each takes twice as long as the one before
                re.match('(a+)+$', 'a' * length + 'b')
                length += 1

        with ThreadPoolExecutor(4) as pool:
            pool.on_event(tell)
            pool.submit(match)  # the first of all
    """
    done = run(tmp_path, program)
    assert warnings(done.stderr)


def test_with_a_status_dir_the_stacks_are_in_its_files(tmp_path):
    done = run(tmp_path, HOLDS, status_dir="runs_here")
    (folder,) = runs.folders(tmp_path)
    assert " in hold\n" in (folder / "faulthandler.txt").read_text()
    assert "most recent call first" not in done.stderr
    assert str(folder / "faulthandler.txt") in warnings(done.stderr)[0]
    assert runs.of_kind(folder, "stalled")


def test_the_programs_own_timer_of_faulthandler_is_left_alone(tmp_path):
    program = "mine = open('mine', 'w')\nfaulthandler.dump_traceback_later(2, file=mine)\n" + HOLDS
    done = run(tmp_path, program)
    assert "Timeout (0:00:02)!" in (tmp_path / "mine").read_text()
    assert warnings(done.stderr)


def test_one_that_handles_the_signal_keeps_it(tmp_path):
    program = "import signal\nseen = []\nsignal.signal(signal.SIGURG, lambda *_: seen.append(1))\n" + HOLDS
    done = run(tmp_path, program + "print(seen)")
    assert done.stdout.endswith("[]\n")
    assert "most recent call first" not in done.stderr
    assert warnings(done.stderr)
    assert "written to" not in warnings(done.stderr)[0]


def test_a_process_that_was_stopped_has_not_stood_still(tmp_path):
    program = """
        from threadsafe_timeout._record import late
        found, awake = [], late.was_awake

        def look(*args):
            found.append(awake(*args))
            print(*found, flush=True)
            return found[-1]

        late.was_awake = look
        with ThreadPoolExecutor(1) as pool:
            pool.submit(sys.stdin.read)
            until(prepared)
            print("ready", flush=True)
    """
    with subprocess.Popen(
        command(tmp_path, program, stall_stacks="off"), cwd=tmp_path, text=True, env=runs.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert "ready\n" in iter(process.stdout.readline, "")
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            time.sleep(3)  # how long it is stopped
            process.send_signal(signal.SIGCONT)
            line = process.stdout.readline()
            _, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    assert (process.returncode, line.split()[-1:]) == (0, ["False"]), errors
    assert not warnings(errors)


def test_nothing_wakes_up_while_no_pool_has_a_task(tmp_path):
    program = """
        with ThreadPoolExecutor(1) as pool:
            pool.submit(until, prepared).result()
            watchdog = stalls._attached.one
            until(lambda: watchdog._asleep)
            pool.submit(until, lambda: not watchdog._asleep).result()
            until(lambda: watchdog._asleep)
    """
    run(tmp_path, program)


def test_a_forked_child_is_watched_too(tmp_path):
    program = """
        with ThreadPoolExecutor(1) as pool:
            pool.submit(until, prepared).result()
        process = os.fork()
        if not process:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(until, prepared).result()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
    """
    run(tmp_path, program)


def test_the_stacks_are_written_only_if_that_is_wanted(tmp_path):
    done = run(tmp_path, HOLDS, stall_stacks="off")
    assert "most recent call first" not in done.stderr
    assert "written to" not in warnings(done.stderr)[0]


def test_it_can_be_off(tmp_path):
    program = """
        threadsafe_timeout.uninstall()
        threadsafe_timeout.install(stall_after="off", checkpoint=None)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
            assert stalls._attached.one is None
            assert not [one for one in threading.enumerate() if one.name == "threadsafe-timeout-stalls"]
    """
    run(tmp_path, program)
