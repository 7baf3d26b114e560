"""The one timer thread: order, sweeping, waking, forking; and the stand-in for threading.Timer."""

import gc
import heapq
import os
import random
import signal
import sys
import threading
import weakref

import pytest
from asleep import wait_until_asleep

from threadsafe_timeout import CancelScope, DeadlineExceeded, check_cancelled, deadline, move_on_after, sleep
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import preload as _preload
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout.testing import MockClock
from threadsafe_timeout.testing.race import widened_races


def timer_threads():
    return [thread for thread in threading.enumerate() if thread.name == _timer.THREAD_NAME]


def test_many_deadlines_one_thread():
    scopes = [move_on_after(1000) for _ in range(1000)]
    for scope in scopes:
        scope.__enter__()
    assert len(timer_threads()) <= 1
    for scope in reversed(scopes):
        scope.__exit__(None, None, None)
    assert not any(scope.cancel_called for scope in scopes)


def test_callbacks_run_in_order_of_time_then_of_arming():
    with MockClock() as clock:
        order, now = [], _clock.monotonic()
        with _timer.lock:
            for when, name in ((3, "c"), (1, "a"), (2, "b1"), (2, "b2")):
                _timer.arm(now + when, lambda name=name: order.append(name))
        clock.jump(2)
        assert order == ["a", "b1", "b2"]
        clock.jump(1)
        assert order == ["a", "b1", "b2", "c"]


def test_a_disarmed_entry_never_runs_and_is_swept():
    with MockClock() as clock:
        ran = []
        with _timer.lock:
            entries = [_timer.arm(_clock.monotonic() + 120, lambda: ran.append(1)) for _ in range(1000)]
            before = len(_timer._heap)
            for entry in entries:
                _timer.disarm(entry)
                _timer.disarm(entry)
            assert len(_timer._heap) < before / 2
        clock.jump(10)
        assert ran == []


def test_a_failing_callback_does_not_stop_the_others(caplog):
    with MockClock() as clock:
        ran = []
        with _timer.lock:
            _timer.arm(_clock.monotonic() + 1, lambda: 1 / 0)
            _timer.arm(_clock.monotonic() + 1, lambda: ran.append(1))
        clock.jump(1)
        assert ran == [1]
    assert "callback failed" in caplog.text


def test_scopes_left_in_time_leave_nothing_behind():
    gone = []
    for _ in range(1000):
        with deadline(1000) as scope:
            pass
        gone.append(weakref.ref(scope))
    del scope
    gc.collect()
    assert sum(reference() is not None for reference in gone) <= 2 * _timer.INCOMING_LIMIT
    assert len(_timer.incoming) <= _timer.INCOMING_LIMIT + 1


def test_scopes_that_are_left_while_others_are_taken_note_of():
    """Leaving takes no lock: the list may be shorter than it was when its sorting in began."""
    errors = []

    def enter_and_leave(chance):
        try:
            for _ in range(2000):
                with move_on_after(chance.random() * 0.01):
                    pass
            assert _around.current_scope() is None
        except BaseException as exc:
            errors.append(exc)

    with widened_races(noise_threads=0):
        threads = [threading.Thread(target=enter_and_leave, args=(random.Random(n),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


def test_sorting_in_a_list_that_gets_shorter_meanwhile():
    class Leaving:
        _deadline = 1e9

        def _arm(self):
            _timer.incoming.pop()  # the other one: what leaving its scope does

    with _timer.lock:
        _timer._sort_in()
        _timer.incoming.extend([Leaving(), Leaving()])
        _timer._sort_in()
        assert not _timer.incoming


@pytest.fixture
def at_rest():
    """The thread looks after each module that it loads, once it is awake; and for what is on the heap: there is nothing
    of others."""
    pause = threading.Event()
    _timer.start()
    while _preload.wanted:
        _timer.poke()
        pause.wait(0.001)
    with _timer.lock:
        _timer._sort_in()
        others, _timer._heap, _timer._dead = _timer._heap, [], 0
    yield
    with _timer.lock:
        _timer._heap.extend(others)
        heapq.heapify(_timer._heap)
        _timer._dead = sum(entry[2] is None for entry in _timer._heap)
    _timer.poke()


@pytest.mark.usefixtures("at_rest")
def test_no_wake_up_while_nothing_is_due(mocker):
    _timer.shutdown()  # nothing is promised
    with move_on_after(1000):
        assert _timer.settle(120)
        wait_until_asleep(timer_threads)
        take_due = mocker.spy(_timer, "_take_due")
        for _ in range(500):
            with deadline(2000):
                pass
        assert threading.Event().wait(0.05) is False
        take_due.assert_not_called()


@pytest.mark.usefixtures("at_rest")
def test_scopes_one_after_the_other_do_not_wake_the_thread_each(monkeypatch):
    looks, take_due = [], _timer._take_due

    def counted(due):
        looks.append(1)
        return take_due(due)

    pause = threading.Event()
    monkeypatch.setattr(_timer, "_take_due", counted)
    _timer.shutdown()  # nothing is promised
    for _ in range(20):
        with deadline(3600):
            pass
        pause.wait(0.002)  # for it to look, if it was woken
    assert 1 <= len(looks) <= 5


def test_an_earlier_deadline_wakes_the_thread():
    with move_on_after(1000):
        _timer.settle(120)
        with CancelScope() as outer:
            heard = threading.Event()
            outer.deadline = _clock.monotonic() + 0.01
            _timer.call_later(0.02, heard.set)
            assert heard.wait(120)
            assert outer.cancel_called


def test_shutdown_and_restart():
    _timer.call_later(1000, lambda: None)
    assert timer_threads()
    _timer.shutdown()
    assert not timer_threads()
    ran = threading.Event()
    _timer.call_later(0, ran.set)
    assert ran.wait(120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking with threads: the point of the test
def test_deadlines_work_in_a_forked_child():
    with move_on_after(1000):
        _timer.settle(120)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(120)
                with move_on_after(0.01) as scope:
                    while not scope.cancel_called:
                        pass
                status = 0 if scope.cancel_called else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_timer_uses_no_thread_per_deadline_and_little_memory():
    count = 2000
    before = threading.active_count()
    entries = []
    with _timer.lock:
        size = sys.getsizeof(_timer._heap)
        entries = [_timer.arm(_clock.monotonic() + 1000 + n, print) for n in range(count)]
        assert (sys.getsizeof(_timer._heap) - size) / count < 40
        for entry in entries:
            _timer.disarm(entry)
    assert threading.active_count() - before <= 1


def test_the_thread_survives_whatever_a_callback_raises_and_whatever_is_thrown_at_it(caplog):
    import ctypes

    def leave():
        raise SystemExit("not from here")

    for disturb in (leave, KeyboardInterrupt):
        ran = threading.Event()
        if disturb is leave:
            _timer.call_later(0, leave)
        else:
            _timer.call_later(3600, ran.set)  # it runs, and waits
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(_timer._thread.ident), ctypes.py_object(KeyboardInterrupt)
            )
        for _ in range(3):  # the second wakes it in spite of a wake-up that was lost with the exception
            ran = threading.Event()
            _timer.call_later(0.01, ran.set)
            assert ran.wait(120)
    assert "the other deadlines go on" in caplog.text


def test_a_block_does_not_fail_because_no_thread_can_be_started(monkeypatch, caplog):
    _timer.shutdown()
    starting, tries = _timer.DaemonThread, []

    def start(*args):
        tries.append(1)
        return starting(*args)

    monkeypatch.setattr(_timer, "DaemonThread", start)

    def refuse(*args, **kwargs):
        del args, kwargs  # as what is written in C, it does not keep them for the traceback
        raise RuntimeError("can't start new thread")

    # (One that really fails leaves a thread state with this thread's number behind, in CPython 3.11.)
    for name in ("_start_new_thread", "_start_joinable_thread"):
        if hasattr(threading, name):
            monkeypatch.setattr(threading, name, refuse)
    with pytest.raises(DeadlineExceeded), deadline(0.01):
        for _ in range(2):
            with move_on_after(60):
                pass
        while True:
            check_cancelled()
    monkeypatch.undo()
    assert caplog.text.count("could not be started") == 1
    assert len(tries) < 10  # one for each deadline, and one to interrupt
    with move_on_after(0.01) as scope:
        sleep(60)
    assert scope.cancelled_caught


def test_a_timer_thread_that_ended_is_replaced():
    _timer.shutdown()
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    _timer._thread = ended  # the next deadline puts another in its place
    fired = threading.Event()
    _timer.call_later(0, fired.set)
    assert fired.wait(120)


def test_a_thread_that_looks_while_it_is_shut_down_promises_nothing(monkeypatch):
    """The next deadline would rely on a thread that is about to end."""
    looking, take = threading.Event(), _timer._take_due

    def take_late(due):
        if threading.current_thread() is old:
            looking.set()
            while _timer._thread is old:
                os.sched_yield()
        return take(due)

    _timer.shutdown()
    with deadline(3600) as far:
        _timer.call_later(3600, far.cancel)
        old = _timer._thread
        monkeypatch.setattr(_timer, "_take_due", take_late)
        _timer.poke()
        assert looking.wait(120)
        _timer.shutdown()
        assert not old.is_alive()
        monkeypatch.undo()
        far.cancel()
        with deadline(7200):
            assert _timer._thread.is_alive()
