"""Looking at another thread's frames leaves nothing of its to the thread that looks."""

import ast
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import imports
import pytest

from threadsafe_timeout import CancelScope, deadline, move_on_after
from threadsafe_timeout._interruption import alarm as _alarm
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._introspection import frames as _frames
from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._pool import telling as _telling
from threadsafe_timeout._timing import timer as _timer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import stress_interrupt_shapes as shapes

BOUND = 120.0
LONG = 270.0
needs_interrupt = pytest.mark.skipif(_pursuit.support().mechanism is None, reason=_pursuit.support().detail)


class Watched:
    """Says in which thread it is finalised, and may take its time there."""

    def __init__(self, blocks=False):
        self.died, self.free, self.where = threading.Event(), threading.Event(), []
        self.token = _Token(self, blocks)

    def hand_out(self):
        token, self.token = self.token, None
        return token


class _Token:
    def __init__(self, watched, blocks):
        self.watched, self.blocks = watched, blocks

    def __del__(self):
        self.watched.where.append(threading.get_ident())
        self.watched.died.set()
        if self.blocks:
            self.watched.free.wait(BOUND)


def holds(watched, go_on, ready=lambda: None):
    """Has the token in a local variable, and returns when it is told to."""
    token = watched.hand_out()
    ready()
    while not go_on._flag:  # calls nothing: this frame is the top one
        pass
    return bool(token)


@pytest.fixture
def thread():
    """Starts threads that end with the test."""
    threads = []

    def start(function):
        threads.append(threading.Thread(target=function, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield start
    for one in threads:
        one.join(BOUND)
        assert not one.is_alive()


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_what_returns_while_it_is_looked_at_is_finalised_elsewhere(depth, thread):
    watched, ready, go_on = Watched(), threading.Event(), threading.Event()

    def nested(levels):
        if levels:
            nested(levels - 1)
        else:
            ready.set()
            while not go_on.is_set():
                pass

    def run():
        token = watched.hand_out()
        nested(depth)
        del token

    def outermost():
        call_and_return(run)

    def call_and_return(function):
        function()

    def look(frame):
        walked = []
        while frame is not None:
            walked.append(frame)
            frame = frame.f_back
        go_on.set()
        looked_at.join(BOUND)  # all of it has returned
        return len(walked)

    looked_at = thread(outermost)
    assert ready.wait(BOUND)
    with frames_of_others(looked_at.ident) as frames:
        assert look(frames[looked_at.ident]) > depth
    assert watched.died.wait(BOUND)
    assert threading.get_ident() not in watched.where


def test_what_still_runs_is_finalised_in_its_own_thread(thread):
    watched, ready, go_on = Watched(), threading.Event(), threading.Event()
    looked_at = thread(lambda: holds(watched, go_on, ready.set))
    assert ready.wait(BOUND)
    with frames_of_others(looked_at.ident) as frames:
        assert looked_at.ident in frames
    assert not _frames._orphans
    ident = looked_at.ident
    go_on.set()
    assert watched.died.wait(BOUND)
    assert watched.where == [ident]


def test_looking_leaves_no_references():
    import _thread

    ready, go_on = _thread.allocate_lock(), _thread.allocate_lock()
    ready.acquire(), go_on.acquire()
    tops = []

    def run():
        tops.append(sys._getframe())
        ready.release()
        go_on.acquire()

    thread = threading.Thread(target=run)
    thread.start()
    ready.acquire()
    before = sys.getrefcount(tops[0])
    for _ in range(3):
        with frames_of_others(thread.ident) as frames:
            assert frames
    after = sys.getrefcount(tops[0])
    go_on.release()
    thread.join()
    assert after == before


@needs_interrupt
@pytest.mark.parametrize("blocks", [False, True])
def test_the_timer_thread_runs_no_finaliser_of_what_it_interrupts(blocks, monkeypatch, thread):
    """The function returns while the timer thread has its frame; the finaliser of a local variable may even block."""
    watched, looked, returned = Watched(blocks), threading.Event(), threading.Event()
    wants = _pursuit.Target.wants
    mine = []

    def slow(target, frame, now):
        if target.ident in mine and not looked.is_set():
            if frame.f_code is not holds.__code__:
                return False
            looked.set()
            returned.wait(BOUND)
        return wants(target, frame, now)

    monkeypatch.setattr(_pursuit.Target, "wants", slow)

    def run():
        mine.append(threading.get_ident())
        with move_on_after(0.005):
            holds(watched, looked)
            returned.set()
            while True:
                pass

    thread(run)
    assert watched.died.wait(BOUND)
    assert threading.get_ident() not in watched.where
    assert _timer._thread.ident not in watched.where
    with pytest.raises(TimeoutError), deadline(0.005):  # other deadlines are kept, whatever the finaliser does
        while True:
            pass
    watched.free.set()


@needs_interrupt
def test_the_stress_waits_for_a_finaliser_that_has_the_lock(monkeypatch, thread):
    """The timer thread has the body's frame as the body returns; so the finaliser of a local variable, which takes the
    record's lock, runs in a thread of its own, beside the one that looks whether a lock was left held."""
    record, looked, returned, scopes = shapes.Record(), [], threading.Event(), []
    begun, holding, go_on, where = threading.Event(), threading.Event(), threading.Event(), []
    wants, finalisers = _pursuit.Target.wants, shapes.finalisers

    class Slow(shapes.Prop):
        def __del__(self):
            where.append(threading.current_thread())
            with self.c.lock:
                holding.set()
                go_on.wait(BOUND)

    def body():
        local = Slow(record)
        begun.set()
        while not looked:  # calls nothing: this frame is the top one
            pass
        return local.c

    def slow(target, frame, now):
        if not looked:
            if frame.f_code is not body.__code__:
                return False
            looked.append(True)
            returned.wait(BOUND)
        return wants(target, frame, now)

    def seen():
        found = finalisers()
        go_on.set()
        return found

    def run():
        with CancelScope() as scope:
            scopes.append(scope)
            body()
            returned.set()
            while True:
                pass

    monkeypatch.setattr(_pursuit.Target, "wants", slow)
    monkeypatch.setattr(shapes, "finalisers", seen)
    thread(run)
    assert begun.wait(BOUND)
    scopes[0].cancel()
    assert holding.wait(BOUND)
    assert where == finalisers()
    assert record.lock.locked()  # what a look without waiting took for a lock left held
    assert shapes.violations(record) == []
    assert go_on.is_set()


def test_the_stress_does_not_wait_for_a_lock_that_was_left_held():
    record = shapes.Record()
    record.lock.acquire()
    assert shapes.violations(record) == ["lock held"]


def test_nor_does_who_looks_where_a_thread_is_stuck(monkeypatch, thread):
    watched, ready, go_on = Watched(), threading.Event(), threading.Event()
    looked_at = thread(lambda: holds(watched, go_on, ready.set))
    assert ready.wait(BOUND)
    users_frame = _telling.users_frame

    def slow(frame):
        found = users_frame(frame)
        go_on.set()
        looked_at.join(BOUND)
        return found

    monkeypatch.setattr(_telling, "users_frame", slow)
    where, stack = _telling.thread_position(looked_at.ident)
    assert where[0] == __file__
    assert "holds" in stack
    assert watched.died.wait(BOUND)
    assert threading.get_ident() not in watched.where


def test_nor_does_an_alarm_that_asks_whether_it_has_outlived_its_thread(monkeypatch, thread):
    watched, ready, go_on = Watched(), threading.Event(), threading.Event()
    looked_at = thread(lambda: holds(watched, go_on, ready.set))
    assert ready.wait(BOUND)

    class Alarm(_alarm.Alarm):
        def __init__(self):
            self._thread, self._armed_in = looked_at.ident, ()

        def _reaches(self, frame):
            go_on.set()
            looked_at.join(BOUND)
            return super()._reaches(frame)

    assert not Alarm()._has_outlived()  # the thread has moved on
    assert watched.died.wait(BOUND)
    assert threading.get_ident() not in watched.where


def test_without_a_thread_for_it_the_next_look_finishes(monkeypatch, thread):
    watched, ready, go_on = Watched(), threading.Event(), threading.Event()
    looked_at = thread(lambda: holds(watched, go_on, ready.set))
    assert ready.wait(BOUND)

    def none_to_be_had(self):
        raise RuntimeError("can't start new thread")

    def look(frame):
        go_on.set()
        looked_at.join(BOUND)
        return frame.f_lasti

    with monkeypatch.context() as patch:
        patch.setattr(_frames.DaemonThread, "start", none_to_be_had)
        with frames_of_others(looked_at.ident) as frames:
            look(frames[looked_at.ident])
    assert not watched.died.is_set()
    with frames_of_others():
        pass
    assert watched.died.wait(BOUND)
    assert threading.get_ident() not in watched.where
    assert gc.isenabled()


def test_without_the_gil_no_frame_is_looked_at(monkeypatch, thread):
    """A thread that runs on meanwhile may free what is looked at."""
    watched, ready, go_on = Watched(), threading.Event(), threading.Event()
    looked_at = thread(lambda: holds(watched, go_on, ready.set))
    assert ready.wait(BOUND)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with frames_of_others(looked_at.ident) as frames:
        assert not frames
    assert _telling.thread_position(looked_at.ident) == (None, "")
    go_on.set()
    assert watched.died.wait(BOUND)
    assert watched.where == [looked_at.ident]


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_no_look(thread):
    """Whose block takes the timer's lock, for which a fork waits."""
    inside, go_on, told = threading.Event(), threading.Event(), []

    def look():
        with frames_of_others():
            inside.set()
            told.append(go_on.wait(BOUND))
            with _timer.lock:
                pass

    looks = thread(look)
    assert inside.wait(BOUND)
    child = os.fork()
    if child == 0:
        os._exit(not (gc.isenabled() and _frames.current_frames()))
    go_on.set()
    looks.join(BOUND)
    assert os.waitpid(child, 0)[1] == 0
    assert told == [True]


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("threadsafe_timeout._introspection.frames", "current_frames"),
        ("threadsafe_timeout._introspection.frames", "modules_being_run"),
        ("threadsafe_timeout._environment.finder", "look"),  # as install() does
        ("threadsafe_timeout._startup.heartbeat", "_places"),
        ("sys", "_current_frames"),  # a profiler's, while a thread is hunted
    ],
)
def test_a_collection_that_falls_into_a_look_does_not_freeze_the_process(module, function):
    program = Path(__file__).with_name("collected_while_looking.py")
    done = subprocess.run(
        [sys.executable, program, module, function], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


def test_nobody_else_looks():
    places = [
        (name, node.lineno) for name, path in imports.modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("_current_frames", "_current_exceptions")
    ]  # fmt: skip
    assert {name for name, _ in places} == {"threadsafe_timeout._introspection.frames"}, places


def test_a_module_that_any_thread_is_running_is_known(thread):
    begun, go_on = threading.Event(), threading.Event()
    namespaces = [{"begun": begun, "go_on": go_on}, {"look": _frames.modules_being_run}]
    runs = thread(lambda: exec("begun.set(); go_on.wait()", namespaces[0]))
    assert begun.wait(BOUND)
    exec("found = look()", namespaces[1])
    go_on.set()
    runs.join(BOUND)
    assert {*map(id, namespaces)} <= namespaces[1]["found"]
    assert not _frames.modules_being_run() & {*map(id, namespaces)}
