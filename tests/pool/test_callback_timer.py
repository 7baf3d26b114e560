"""`threadsafe_timeout.Timer`: the standard one's interface, one thread for all that wait, and deadlines that none of
their functions can hold up."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from threadsafe_timeout import CancelScope, DeadlineExceeded, Timer, deadline, sleep
from threadsafe_timeout._pool import callback_timer as _callback_timer
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout.testing import MockClock

LONG = 120.0


def run_program(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, **options)


def test_it_has_the_interface_of_the_standard_class():
    assert issubclass(Timer, threading.Timer)
    assert [*inspect.signature(Timer).parameters] == [*inspect.signature(threading.Timer).parameters]
    for mine, theirs in ((Timer(5, print), threading.Timer(5, print)), (Timer(5.0, len, "a", {}), threading.Timer(5.0, len, "a", {}))):
        names = {name for name in dir(theirs) if not name.startswith("_")}
        assert names <= set(dir(mine))
        for name in ("args", "daemon", "function", "interval", "kwargs"):
            assert getattr(mine, name) == getattr(theirs, name)
        assert (mine.ident, mine.native_id, mine.is_alive(), mine.finished.is_set()) == (None, None, False, False)


def test_it_runs_its_function_once_in_a_thread_of_its_own():
    ran = []
    timer = Timer(0.01, lambda *args, **kwargs: ran.append((args, kwargs, threading.current_thread())), (1,), {"a": 2})
    timer.name = "mine"
    with pytest.raises(RuntimeError, match="before it is started"):
        timer.join()
    timer.start()
    with pytest.raises(RuntimeError, match="once"):
        timer.start()
    timer.join(LONG)
    assert ran == [((1,), {"a": 2}, timer)]
    assert timer.name == "mine"
    assert not timer.is_alive()
    assert timer.finished.is_set()
    assert timer.ident is not None
    timer.cancel()
    timer.join()


def test_cancelled():
    ran = []
    for when in ("before its start", "while it waits", "by its event"):
        timer = Timer(0 if when == "before its start" else 1000, ran.append, [1])
        if when == "before its start":
            timer.cancel()
        timer.start()
        if when == "while it waits":
            assert timer.is_alive()
            timer.join(0.01)
            assert timer.is_alive()
        timer.cancel()
        timer.join(LONG)
        assert not timer.is_alive()
        assert "stopped" in repr(timer)
    assert ran == []
    assert not _callback_timer._waiting


def test_a_function_that_runs_may_cancel_and_not_join_its_timer(mocker):
    excepthook = mocker.patch.object(threading, "excepthook")

    def function():
        timer.cancel()
        assert timer.is_alive()
        timer.join()

    timer = Timer(0, function)
    timer.start()
    timer.join(LONG)
    assert "cannot join current thread" in str(excepthook.call_args.args[0].exc_value)


def test_what_it_raises_is_told_as_by_any_thread(mocker):
    excepthook = mocker.patch.object(threading, "excepthook")
    timer = Timer(0, int, ["x"])
    timer.start()
    timer.join(LONG)
    [told] = excepthook.call_args.args
    assert (told.exc_type, told.thread) == (ValueError, timer)
    assert not timer.is_alive()


def test_many_that_wait_are_one_thread():
    before = threading.active_count()
    timers = [Timer(1000 + number, print) for number in range(500)]
    for timer in timers:
        timer.start()
    assert threading.active_count() <= before + 1
    assert all(timer.is_alive() for timer in timers)
    for timer in timers:
        timer.cancel()
    assert not _callback_timer._waiting


@pytest.mark.parametrize("kind", ["blocked", "busy", "failed"])
def test_no_function_holds_up_a_deadline(kind: str, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    gate, inside, stop = threading.Lock(), threading.Semaphore(0), threading.Event()
    gate.acquire()

    def function():
        inside.release()
        if kind == "failed":
            raise SystemError("x")
        while kind == "busy" and not stop.is_set():
            pass
        if kind == "blocked":
            with gate:
                pass

    timers = [Timer(0.001, function) for _ in range(6 if kind == "busy" else 20)]
    for timer in timers:
        timer.start()
    try:
        for _ in timers:
            assert inside.acquire(timeout=LONG)
        noticed = threading.Event()
        with CancelScope() as scope:
            _registration.on_cancel(noticed.set)  # called by the timer thread
            scope.deadline = _scope._clock.monotonic() + 0.01
            assert noticed.wait(LONG)
        late = threading.Event()
        another = Timer(0.001, late.set)
        another.start()
        assert late.wait(LONG), "one timer holds up another"
        another.join(LONG)
    finally:
        stop.set()
        gate.release()
        for timer in timers:
            timer.join(LONG)


def test_around_a_task_as_the_incidents_first_fix():
    with pytest.raises(DeadlineExceeded, match="the timer went off"), deadline(LONG) as scope:
        timer = Timer(0.01, scope.cancel, ["the timer went off"])
        timer.start()
        try:
            sleep(LONG)
        finally:
            timer.cancel()
    timer.join(LONG)


def test_it_runs_outside_the_scopes_of_who_started_it():
    seen = []
    with deadline(LONG):
        timer = Timer(0, lambda: seen.append(_around.current_scope()))
        timer.start()
        timer.join(LONG)
    assert seen == [None]


def test_a_join_ends_with_its_scope():
    timer = Timer(1000, print)
    timer.start()
    from threadsafe_timeout import patched

    with patched(), pytest.raises(DeadlineExceeded), deadline(0.01):
        timer.join()
    timer.cancel()


def test_a_mock_clock_moves_it():
    ran = threading.Event()
    with MockClock() as clock:
        timer = Timer(3600, ran.set)
        timer.start()
        clock.jump(3599)
        assert not ran.is_set()
        clock.jump(1)
        assert ran.wait(LONG)
    timer.join(LONG)


def test_a_subclass_with_a_run_of_its_own_is_a_thread_from_its_start():
    rounds = threading.Semaphore(0)

    class Repeating(Timer):
        def run(self) -> None:
            while not self.finished.wait(self.interval):
                self.function(*self.args, **self.kwargs)

    class Telling(Timer):
        def run(self) -> None:
            super().run()
            rounds.release()

    timer = Repeating(0.001, rounds.release)
    timer.start()
    for _ in range(3):
        assert rounds.acquire(timeout=LONG)
    timer.cancel()
    timer.join(LONG)
    assert not timer.is_alive()
    ran = []
    telling = Telling(0.001, ran.append, [1])
    telling.start()
    telling.join(LONG)
    assert ran == [1]


def test_without_a_thread_it_is_told_and_tried_again(monkeypatch, caplog):
    monkeypatch.setattr(_callback_timer, "_AGAIN", 0.01)
    monkeypatch.setattr(_callback_timer, "_told", False)
    start, refused = threading.Timer.start, []

    def refuse(self: Any) -> None:
        if len(refused) < 3:
            refused.append(self)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Timer, "start", refuse)
    ran = threading.Event()
    timer = Timer(0, ran.set)
    timer.start()
    assert ran.wait(LONG)
    timer.join(LONG)
    assert len(refused) == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no thread could be started for a Timer" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("5m", print), "interval must be a number of seconds"),
        ((None, print), "interval must be a number of seconds"),
        ((float("nan"), print), "interval must be"),
        ((True, print), "interval must be a number of seconds"),
        ((5, "print"), "function must be callable"),
        ((5, print, 5), "args must be"),
        ((5, print, (), ["a"]), "kwargs must be"),
    ],
)
def test_a_bad_argument_is_an_error_at_once(arguments: Any, error: str):
    with pytest.raises((TypeError, ValueError), match=error):
        Timer(*arguments)


def test_in_the_past_it_is_due_at_once():
    ran = threading.Event()
    timer = Timer(-5, ran.set)
    timer.start()
    assert ran.wait(LONG)
    timer.join(LONG)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_none():
    others = [Timer(1000, print) for _ in range(3)]
    timer = Timer(1000, print)
    for one in (*others, timer):
        one.start()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            timer.join(LONG)
            mine = threading.Event()
            fresh = Timer(0.01, mine.set)
            fresh.start()
            fresh.join(LONG)
            alive = any(one.is_alive() for one in (*others, timer))
            status = 0 if not alive and mine.wait(LONG) and not _callback_timer._waiting else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for one in (*others, timer):
        assert one.is_alive()
        one.cancel()


@pytest.mark.parametrize("pool", ["", "from threadsafe_timeout import ThreadPoolExecutor; ThreadPoolExecutor(1).submit(int).result()\n"])
def test_the_exit_waits_for_those_that_are_no_daemons(pool: str):
    ended = run_program(
        "import os, time\nfrom threadsafe_timeout import Timer\n" + pool +
        "def late(n): time.sleep(0.05); os.write(1, b'ran %d\\n' % n)\n"
        "def fails(): raise ValueError('told')\n"
        "for n in range(3): Timer(0.1, late, [n]).start()\n"
        "Timer(0.1, fails).start()\n"
        "never = Timer(0.2, late, [7]); never.daemon = True; never.start()\n"
        "gone = Timer(1000, late, [8]); gone.start(); Timer(0.15, gone.cancel).start()\n"
        "far = Timer(1000, late, [9]); far.daemon = True; far.start()\n"
        "print('end', flush=True)\n"
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.split("\n")
    assert {"end", "ran 0", "ran 1", "ran 2"} <= set(lines)
    assert "ran 8" not in ended.stdout
    assert "ran 9" not in ended.stdout
    assert "ValueError: told" in ended.stderr


def test_ctrl_c_does_not_wait_for_them():
    # Not in one long sleep: a signal that comes as the main thread is about to begin one does not end it (with Python alone,
    # too: it is between its last look for signals and the system's call).
    program = subprocess.Popen(
        [sys.executable, "-c", "import time\nfrom threadsafe_timeout import Timer\nTimer(1000, print).start()\nprint('up', flush=True)\nwhile True: time.sleep(0.05)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=LONG)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in said


def test_starting_and_cancelling_from_many_threads_loses_none():
    """Some fire as they are cancelled: each runs once or not at all, and none is left."""
    lock, ran = threading.Lock(), []

    def note(number: int) -> None:
        with lock:
            ran.append(number)

    def work(first: int) -> None:
        for number in range(first, first + 50):
            timer = Timer(0.0005 * (number % 3), note, [number])
            timer.start()
            if number % 2:
                timer.cancel()
            timer.join(LONG)
            assert not timer.is_alive()

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LONG)
    assert len(ran) == len(set(ran))
    assert set(ran) >= {number for first in range(0, 400, 100) for number in range(first, first + 50) if not number % 2}
    assert not _callback_timer._waiting
    assert not _callback_timer._due
    with _timer.lock:
        assert all(entry[2] is None or getattr(entry[2], "__qualname__", "") != "Timer._fire" for entry in _timer._heap)
