"""SIGALRM off the main thread: the real values and errors, and real signals where there are no patches."""

import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from alarms import SOON, WAIT, Slow, in_thread, raising

from threadsafe_timeout import (
    ThreadPoolExecutor,
    install,
    uninstall,
)
from threadsafe_timeout._interruption import alarm as _alarm

pytestmark = [pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here"), pytest.mark.usefixtures("alarms")]


@pytest.fixture
def main_threads_own(alarms):
    """The main thread's handler and timer, which pytest-timeout uses, kept for a test that wants them."""
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, left, interval)


# The values and the errors


CALLS = [
    ("signal", (signal.SIGALRM, "x")), ("signal", (signal.SIGALRM, 2)), ("signal", (signal.SIGALRM, None)), ("signal", (signal.SIGALRM,)),
    ("signal", (signal.SIGALRM, signal.SIG_IGN)), ("getsignal", (signal.SIGALRM,)), ("signal", (14, 0)), ("signal", ("14", raising)),
    ("signal", (14, raising)), ("getsignal", (14,)), ("getsignal", (99,)), ("getsignal", ("14",)), ("getsignal", (14.5,)), ("getsignal", (signal.SIGINT,)),
    ("alarm", (2.5,)), ("alarm", ("x",)), ("alarm", ()), ("alarm", (2**40,)), ("alarm", (-1,)), ("alarm", (True,)), ("alarm", (0,)), ("alarm", (0,)),
    ("setitimer", (0, "x")), ("setitimer", (0, -1)), ("setitimer", (0, -0.5)), ("setitimer", (0, 1, -1)), ("setitimer", (0, float("nan"))),
    ("setitimer", (0, float("inf"))), ("setitimer", (0, 1e30)), ("setitimer", (0, 1, 1e30)), ("setitimer", (9, 1)), ("setitimer", ("0", 1)),
    ("setitimer", (0,)), ("setitimer", (0, 0, 2)), ("getitimer", (0,)), ("setitimer", (0, -1e-9)), ("setitimer", (0, 1000, 2)), ("getitimer", (0,)),
    ("alarm", (0,)), ("getitimer", (0,)), ("setitimer", (0, 1.4)), ("alarm", (0,)), ("setitimer", (0, 1.6)), ("alarm", (0,)), ("setitimer", (0, 0.4)),
    ("alarm", (0,)), ("getitimer", (9,)), ("getitimer", ("x",)), ("getitimer", (signal.ITIMER_VIRTUAL,)), ("setitimer", (signal.ITIMER_VIRTUAL, 0)),
    ("siginterrupt", (14, True)), ("siginterrupt", (14, "x")), ("siginterrupt", (99, True)), ("siginterrupt", (9, True)), ("siginterrupt", (14,)),
]  # fmt: skip


def conversation():
    """What each call returns or raises, in a form that can be compared. The numbers are of one that was not held up: in
    a longer one there is less time left."""
    while True:
        began = time.monotonic()
        try:
            said = converse()
        except Slow:
            continue
        if time.monotonic() - began < 0.04:
            return said


def converse():
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    said = []
    for name, args in CALLS:
        try:
            value = getattr(signal, name)(*args)
        except Exception as exc:
            said.append((name, args, type(exc), str(exc)))
        else:
            if isinstance(value, tuple):
                value = tuple(round(number, 1) for number in value)
            said.append((name, args, type(value), value))
    return said


@pytest.mark.usefixtures("main_threads_own")
def test_every_value_and_error_is_what_the_main_thread_gets():
    ours = in_thread(conversation)
    real = conversation()
    for mine, theirs in zip(ours, real, strict=True):
        if theirs[2] is OverflowError or theirs[2] is TypeError:
            assert mine[:3] == theirs[:3]  # the text names the C function, or changes with the version
        else:
            assert mine == theirs


def test_other_signals_are_refused_as_ever():
    for signum, handler in ((signal.SIGUSR1, raising), (99, raising)):
        with pytest.raises(ValueError, match="signal only works in main thread of the main interpreter"):
            in_thread(signal.signal, signum, handler)


@pytest.mark.usefixtures("main_threads_own")
def test_the_main_threads_handler_is_the_default_and_is_left_alone():
    def mains(signum, frame):
        pass

    def other():
        assert signal.getsignal(signal.SIGALRM) is mains
        assert signal.signal(signal.SIGALRM, raising) is mains
        assert signal.getsignal(signal.SIGALRM) is raising
        return in_thread(signal.getsignal, signal.SIGALRM)

    signal.signal(signal.SIGALRM, mains)
    assert in_thread(other) is mains
    assert signal.getsignal(signal.SIGALRM) is mains


@pytest.mark.usefixtures("main_threads_own")
def test_the_main_threads_alarm_is_the_real_one():
    seen = []
    signal.signal(signal.SIGALRM, lambda signum, frame: seen.append(threading.current_thread()))
    signal.setitimer(signal.ITIMER_REAL, SOON)
    until = time.monotonic() + WAIT
    while not seen and time.monotonic() < until:
        time.sleep(0.01)
    assert seen == [threading.main_thread()]
    assert not _alarm._set


def test_uninstall_unsets_the_alarms():
    proceed, uninstalled = threading.Event(), threading.Event()

    def work():
        signal.signal(signal.SIGALRM, raising)
        signal.setitimer(signal.ITIMER_REAL, 1000)
        proceed.set()
        assert uninstalled.wait(WAIT)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        assert proceed.wait(WAIT)
        uninstall()
        assert not _alarm._set
        uninstalled.set()
        future.result(WAIT)
        install(checkpoint="off")


def test_a_forked_child_has_no_alarm_and_real_signals():
    code = """
        import os, signal, threading, time
        import threadsafe_timeout as t
        t.install()
        from threadsafe_timeout._interruption import alarm as _alarm
        def work():
            signal.signal(signal.SIGALRM, lambda signum, frame: os._exit(3))
            signal.setitimer(signal.ITIMER_REAL, 1000)
            child = os.fork()
            if not child:
                ok = not _alarm._set and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
                seen = []
                signal.signal(signal.SIGALRM, lambda signum, frame: seen.append(1))
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                time.sleep(0.1)
                os._exit(0 if ok and seen == [1] else 1)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), 0 < signal.alarm(0) <= 1000)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    # 3.12 and later warn about a fork while threads run, which is what is tried here.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "0 True\n"), done.stderr


# Other people's


def test_names_that_were_imported_are_replaced_and_given_back():
    code = """
        from signal import alarm, getitimer, setitimer, signal, getsignal, siginterrupt
        import signal as module, threadsafe_timeout as t
        names = ("alarm", "getitimer", "setitimer", "signal", "getsignal", "siginterrupt")
        before = [getattr(module, name) for name in names]
        t.install()
        assert not any(getattr(module, name) is old for name, old in zip(names, before))
        assert all(globals()[name] is getattr(module, name) for name in names)
        t.uninstall()
        assert all(getattr(module, name) is old and globals()[name] is old for name, old in zip(names, before))
        print("ok")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "ok\n", done.stderr
