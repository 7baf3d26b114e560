"""A stray exception at every line of the pool that a worker runs: the width stays, no task is lost, no lock stays held.

Strays are what late `PyThreadState_SetAsyncExc` calls of other libraries, or MemoryErrors, do to a worker loop. One is
raised at a time, at a line of the pool's own modules and the timer's, in a worker: through `sys.monitoring` (3.12+) or
a trace function.
"""

from __future__ import annotations

import contextlib
import ctypes
import linecache
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest

from threadsafe_timeout import DeadlineExceeded, Outcome, ThreadPoolExecutor
from threadsafe_timeout._introspection import frames as _frames
from threadsafe_timeout._pool import (
    crew as _crew,
)
from threadsafe_timeout._pool import (
    events as _events,
)
from threadsafe_timeout._pool import (
    executor as _executor,
)
from threadsafe_timeout._pool import (
    exit as _exit,
)
from threadsafe_timeout._pool import (
    future as _future,
)
from threadsafe_timeout._pool import (
    ladder as _ladder,
)
from threadsafe_timeout._pool import (
    replacing as _replacing,
)
from threadsafe_timeout._pool import (
    settling as _settling,
)
from threadsafe_timeout._pool import (
    state as _state,
)
from threadsafe_timeout._pool import (
    task as _task,
)
from threadsafe_timeout._pool import (
    task_scope as _task_scope,
)
from threadsafe_timeout._pool import (
    telling as _telling,
)
from threadsafe_timeout._pool import (
    worker as _worker,
)
from threadsafe_timeout._timing import daemon_thread as _daemon_thread
from threadsafe_timeout._timing import timer as _timer

MODULES = (
    _events, _exit, _future, _executor, _task, _task_scope, _ladder, _telling, _daemon_thread, _timer, _crew, _state,
    _worker, _replacing, _settling,
)  # fmt: skip
PREFIX = "injected"
BOUND = 120.0  # seconds that anything here may take on a busy machine

Place = tuple[CodeType, int]


class Stray(Exception):
    """What no code of the pool expects."""


def codes(module: ModuleType) -> Iterator[CodeType]:
    """Every code object that `module` defines, methods and inner functions too."""
    waiting: list[Any] = [
        value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__
    ]
    while waiting:
        value = waiting.pop()
        if isinstance(value, type):
            waiting += vars(value).values()
        elif isinstance(value, property):
            waiting += [value.fget]
        elif isinstance(value, (staticmethod, classmethod)):
            waiting += [value.__func__]
        elif isinstance(value, FunctionType):
            waiting += [value.__code__]
        elif isinstance(value, CodeType) and value.co_filename == module.__file__:
            yield value
            waiting += value.co_consts


class Lines:
    """Calls `self.at(place)` before each line of `MODULES` that a worker is about to run. It may raise."""

    def __init__(self) -> None:
        self.at: Callable[[Place], None] = lambda place: None
        self.codes = {code for module in MODULES for code in codes(module)}

    def _line(self, code: CodeType, line: int) -> None:
        # Not current_thread(): it would list one that is at its very end again, under a name of its own.
        thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]
        if thread is None or thread.name.startswith(PREFIX):
            self.at((code, line))

    if sys.version_info >= (3, 12):

        def __enter__(self) -> Lines:
            monitoring = sys.monitoring
            self._tool = next(number for number in (5, 2, 1) if monitoring.get_tool(number) is None)
            monitoring.use_tool_id(self._tool, "injection")
            monitoring.register_callback(self._tool, monitoring.events.LINE, self._line)
            for code in self.codes:
                monitoring.set_local_events(self._tool, code, monitoring.events.LINE)
            return self

        def __exit__(self, *_: object) -> None:
            for code in self.codes:
                sys.monitoring.set_local_events(self._tool, code, 0)
            sys.monitoring.register_callback(self._tool, sys.monitoring.events.LINE, None)
            sys.monitoring.free_tool_id(self._tool)

    else:

        def __enter__(self) -> Lines:
            threading.settrace(self._trace)  # for the threads to come
            return self

        def __exit__(self, *_: object) -> None:
            threading.settrace(None)  # type: ignore[arg-type]  # how it is taken away again

        def _trace(self, frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code not in self.codes:
                return None
            if event == "line":
                self._line(frame.f_code, frame.f_lineno)
            return self._trace


@pytest.fixture
def unheard(caplog) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL + 1, "threadsafe_timeout")  # a traceback for each
    caplog.set_level(logging.CRITICAL + 1, "concurrent.futures")
    # A stray at the very first or last line of a thread is the thread's own unhandled exception, or a finaliser's.
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = lambda _: None
    yield
    threading.excepthook, sys.unraisablehook = hooks


@pytest.fixture
def lines(unheard) -> Iterator[Lines]:
    with Lines() as lines:
        yield lines


def stacks() -> str:
    """Where every thread is: who holds what the lost ones wait for."""
    return "\n".join(f"{thread.name}:\n{_telling.thread_position(thread.ident)[1]}" for thread in threading.enumerate())


class Life:
    """The life of a pool: tasks that end well and badly, one that is settled by hand, one that gets stuck."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.settled: list[Outcome] = []
        self.called: Counter[Future[Any]] = Counter()
        self.others = set(_frames.current_frames())
        self.pool = ThreadPoolExecutor(2, PREFIX, grace=0.01)

    def submit(self, pool: Any, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = pool.submit(function, *args)
        future.add_done_callback(lambda future: self.called.update([future]))
        return future

    def run(self) -> None:
        """Everything that a worker can meet. Fails if a future stays pending or the width is not what it was."""
        pool = self.pool
        try:
            self._tasks()
            self._meet()
            self._wait_for_width()
        finally:
            self.gate.set()
            began = time.monotonic()
            pool.shutdown(wait=True, timeout=BOUND)
            waited = time.monotonic() - began
        self._wait_for_threads()
        assert waited < BOUND, "a shut-down pool was not told that its last worker had left"
        assert pool.stats()["workers"] == 0, "a shut-down pool waits for a worker that is gone"
        assert set(self.called.values()) == {1}, "a callback ran twice"

    def _tasks(self) -> None:
        pool = self.pool
        settled = pool.with_options(settle=lambda outcome: self.settled.append(outcome) or "settled")
        stuck = self.submit(pool.with_options(timeout=0.02), self.gate.wait, 5 * BOUND)
        futures = [self.submit(pool, int, number) for number in range(3)]
        futures += [self.submit(pool, int, "x"), self.submit(settled, int), stuck]
        _, pending = wait(futures, BOUND)
        assert not pending, f"tasks were lost: {pending}\n{stacks()}"
        assert isinstance(stuck.exception(0), (DeadlineExceeded, Stray))

    def _wait_for_width(self) -> None:
        """(For a moment there is one more: the one that settles what another has left.)"""
        pause, until = threading.Event(), time.monotonic() + BOUND
        while self.pool.stats()["workers"] != 2 and time.monotonic() < until:
            pause.wait(0.002)
        assert self.pool.stats()["workers"] == 2

    def _wait_for_threads(self) -> None:
        """(One that was struck as it began stays listed until who started it has seen that. One at its very end is not
        listed, and runs lines of the pool all the same: what is thrown in the next life may find it inside a `with`.)"""
        pause, until = threading.Event(), time.monotonic() + BOUND
        left = True
        while left and time.monotonic() < until:
            pause.wait(0.002)
            listed = threading.enumerate()
            timers = {thread.ident for thread in listed if thread.name == _timer.THREAD_NAME}
            running = _frames.current_frames().keys() - self.others - timers
            left = bool(running) or any(thread.name.startswith(PREFIX) for thread in listed)
        assert not left

    def _meet(self) -> None:
        """Two tasks at the same time. (The stray may strike in these; it strikes once.)"""
        for _ in range(3):
            meet = threading.Barrier(2)
            futures = [self.submit(self.pool, meet.wait, BOUND) for _ in range(2)]
            _, running = wait(futures, BOUND / 2, "FIRST_EXCEPTION")
            if any(future.exception(0) for future in futures if future not in running):
                meet.abort()
                assert not wait(futures, BOUND).not_done
                continue
            assert not running, "the pool has lost a worker"
            return
        raise AssertionError("two tasks could not meet")


def visited(lines: Lines) -> Counter[Place]:
    """How often a worker comes by each line in one life."""
    seen: Counter[Place] = Counter()
    lines.at = lambda place: seen.update([place])
    Life().run()
    return seen


def live(lines: Lines, at: Callable[[Place], None], note: str) -> None:
    """One life with `at` called at each line; a failure says what was done there."""
    lines.at = at
    try:
        Life().run()
    except BaseException as exc:
        exc.add_note(note)
        raise


def strike(lines: Lines, target: Place, visit: int) -> bool:
    """Live once, with a stray at that visit of that line. Whether it was come by so often."""
    countdown = iter(range(visit, -1, -1))

    def at(place: Place) -> None:
        if place == target and next(countdown, None) == 0:
            hit.append(place)
            raise Stray

    hit: list[Place] = []
    live(lines, at, f"a stray exception at {target[0].co_qualname}, line {target[1]}, visit {visit}")
    return bool(hit)


def test_the_lines_of_a_worker_are_found(lines):
    names = {code.co_qualname for code, _ in visited(lines)}
    assert {"TaskFuture.run", "TaskFuture.settle"} <= names
    assert len(names) > 10


@pytest.mark.parametrize(
    "step", [8, pytest.param(1, marks=[pytest.mark.stress, pytest.mark.timeout(580)])], ids=["some", "every"]
)
def test_a_stray_exception_at_every_line(lines, step):
    places = sorted(visited(lines), key=lambda place: (place[0].co_filename, place[1]))[::step]
    struck = [strike(lines, place, 0) for place in places]
    assert any(struck)  # not all: which lines a life comes by depends on which thread is faster


@pytest.mark.stress
@pytest.mark.timeout(580)
def test_a_stray_exception_at_any_visit(lines):
    chance = random.Random(1)
    seen = visited(lines)
    for place, visits in seen.items():
        if heads_block(place):
            continue
        strike(lines, place, chance.randrange(visits))


def heads_block(place: Place) -> bool:
    """Whether it is the line of a `with`. The visit may be the one that leaves the block, a hole in the interpreter's
    table of handlers: a tracer can raise there, and no code can keep its lock from staying taken. (Entering is among
    "every line".)"""
    return linecache.getline(place[0].co_filename, place[1]).lstrip().startswith("with ")


def strike_again(lines: Lines, target: Place, after: int) -> bool:
    """Live once, with a stray at the first visit of that line and another so many lines later in the same thread. Whether
    there was that other line."""
    struck: list[int] = []
    countdown = iter(range(after, -1, -1))

    def at(place: Place) -> None:
        ident = threading.get_ident()
        if place == target and not struck:
            struck.append(ident)
            raise Stray
        if ident in struck and not heads_block(place) and next(countdown, None) == 0:
            struck.append(ident)
            raise Stray

    live(lines, at, f"strays at {target[0].co_qualname}, line {target[1]}, and {after} lines later")
    return len(struck) == 2


@pytest.mark.parametrize("where", ["Worker._loop", "Crew.next_task", "TaskFuture.settle", "settle_owed"])
def test_a_second_stray_while_a_worker_dies_of_the_first(lines, where):
    target = min((place for place in visited(lines) if place[0].co_qualname == where), key=lambda place: place[1])
    struck = [after for after in range(30) if strike_again(lines, target, after)]
    assert struck, "(how many lines there are, the machine's mood decides)"


@contextlib.contextmanager
def storm(stop: threading.Event, pause: float, seed: int) -> Iterator[Counter[str]]:
    """Asynchronous exceptions, at random moments, into random workers."""
    posted: Counter[str] = Counter()
    chance = random.Random(seed)

    def post() -> None:
        while not stop.wait(pause):
            workers = [thread for thread in threading.enumerate() if thread.name.startswith(f"{PREFIX}_")]
            if workers:
                ident = ctypes.c_ulong(chance.choice(workers).ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Stray))
                posted["strays"] += 1

    thread = threading.Thread(target=post, name="storm")
    thread.start()
    try:
        yield posted
    finally:
        stop.set()
        thread.join()


def work(number: int) -> int:
    return sum(range(number % 300))


@pytest.mark.stress
@pytest.mark.usefixtures("unheard")
def test_a_storm_of_asynchronous_exceptions():
    """They may land in the standard library's code too, where a thread begins or ends, or in one that has been given the
    ident of one that has ended. Every task ends, with its result or with the stray (or with what says that one struck as
    its worker began or ended)."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(4, PREFIX)
    with storm(stop, 0.0002, seed=3) as posted:
        for _ in range(100):
            futures = [pool.submit(work, number) for number in range(500)]
            for number, future in enumerate(futures):
                # Not `wait`: it has an Event of the standard library's set by the worker, and that holds its lock for
                # ever if it is struck there.
                error = future.exception(BOUND)
                assert isinstance(error, Stray | RuntimeError | None)
                if error is None:
                    assert future.result(0) == work(number)
    assert posted["strays"] > 20
    for _ in range(8):  # what was posted last may not have struck yet
        with contextlib.suppress(Stray):
            pool.submit(int).result(BOUND)
    assert pool.stats()["workers"] == 4
    pool.shutdown(timeout=BOUND)
    assert pool.stats()["workers"] == 0
