"""SIGALRM off the main thread: the real values and errors, the handler in its thread, once, and only while it is set."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import logging
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from threadsafe_timeout import (
    CancelSource,
    DeadlineExceeded,
    ThreadPoolExecutor,
    check_cancelled,
    deadline,
    install,
    move_on_after,
    shield,
    uninstall,
)
from threadsafe_timeout._interruption import alarm as _alarm
from threadsafe_timeout._interruption import pursuit as _pursuit

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here")
interrupts = pytest.mark.skipif(_pursuit.support().mechanism is None, reason=_pursuit.support().detail)
SOON = 0.03
WAIT = 240  # seconds no test comes near


@pytest.fixture(autouse=True, scope="module")
def uninstalled():
    yield
    uninstall()


@pytest.fixture(autouse=True)
def installed():
    install(checkpoint="off")  # costs nothing if the test before left it installed
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert not _alarm._set, "an alarm is still set"
    assert signal.getsignal(signal.SIGALRM) is before, "the main thread's handler was changed"


@pytest.fixture
def main_threads_own():
    """The main thread's handler and timer, which pytest-timeout uses, kept for a test that wants them."""
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, left, interval)


def in_thread(function, *args):
    """What `function` returns or raises in a thread of its own."""
    outcome = []

    def target():
        try:
            outcome.append((function(*args), None))
        except BaseException as exc:
            outcome.append((None, exc))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert outcome, "the thread is stuck"
    value, exc = outcome[0]
    if exc is not None:
        raise exc
    return value


class Slow(Exception):
    pass


def raising(signum, frame):
    raise Slow(signum, frame)


@contextlib.contextmanager
def time_limit(seconds, handler=raising):
    """Hand-written, as in countless runners."""
    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


class TimeLimit:
    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        signal.signal(signal.SIGALRM, raising)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *args):
        signal.setitimer(signal.ITIMER_REAL, 0)


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
    """What each call returns or raises, in a form that can be compared."""
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


# What a thread can be in


def python_loop():
    while True:
        pass


def allocating_loop():
    while True:
        Slow()


def sleeping():
    time.sleep(WAIT)


def a_pool_inside():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(threading.Event().wait, 0.5).result()


BUSY = [pytest.param(python_loop, marks=interrupts), pytest.param(allocating_loop, marks=interrupts)]
ENDED = [*BUSY, sleeping, a_pool_inside]


def inline(body):
    signal.signal(signal.SIGALRM, raising)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    try:
        body()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def with_generator(body):
    with time_limit(SOON):
        body()


def with_class(body):
    with TimeLimit(SOON):
        body()


def decorated(body):
    time_limit(SOON)(body)()


def helpers(body):
    def start():
        signal.signal(signal.SIGALRM, raising)
        signal.setitimer(signal.ITIMER_REAL, SOON)

    start()
    try:
        body()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("form", [inline, with_generator, with_class, decorated, helpers])
@pytest.mark.parametrize("body", ENDED)
def test_what_the_handler_raises_is_raised_in_its_thread(form, body):
    with pytest.raises(Slow) as caught:
        in_thread(form, body)
    signum, frame = caught.value.args
    assert signum == signal.SIGALRM
    assert type(signum) is int
    assert "threadsafe_timeout" not in frame.f_globals["__name__"]


def test_whole_seconds():
    def work():
        signal.signal(signal.SIGALRM, raising)
        assert signal.alarm(5) == 0
        assert signal.alarm(1) == 5
        try:
            time.sleep(WAIT)
        finally:
            signal.alarm(0)

    with pytest.raises(Slow):
        in_thread(work)


@pytest.mark.parametrize("body", BUSY)
def test_it_is_the_very_instance_whatever_its_class(body):
    class Odd(BaseException):
        def __init__(self, one, *, two):
            self.one, self.two = one, two

    odd = Odd(1, two=2)

    def handler(signum, frame):
        raise odd

    def work():
        with time_limit(SOON, handler):
            body()

    with pytest.raises(Odd) as caught:
        in_thread(work)
    assert caught.value is odd


class CallableHandler:
    def __call__(self, signum, frame):
        raise Slow(signum, frame)

    def method(self, signum, frame):
        raise Slow(signum, frame)


@pytest.mark.parametrize("handler", [CallableHandler(), CallableHandler().method, functools.partial(raising)])
@pytest.mark.parametrize("body", BUSY)
def test_a_handler_may_be_any_callable(body, handler):
    def work():
        with time_limit(SOON, handler):
            body()

    with pytest.raises(Slow):
        in_thread(work)


def test_a_handler_that_returns_is_run_once_in_its_thread_and_the_wait_goes_on():
    def work():
        seen = []
        with time_limit(SOON, lambda signum, frame: seen.append((threading.get_ident(), frame.f_code.co_name))):
            start = time.monotonic()
            time.sleep(4 * SOON)
            assert time.monotonic() - start >= 4 * SOON
            while not seen and time.monotonic() - start < WAIT:
                time.sleep(SOON)
        return seen, threading.get_ident()

    seen, ident = in_thread(work)
    assert seen == [(ident, "work")]


@interrupts
def test_a_handler_that_returns_is_run_in_busy_code_and_the_code_goes_on():
    def work():
        seen = []
        with time_limit(SOON, lambda signum, frame: seen.append(frame.f_code.co_name)):
            rounds = [Slow() for _ in range(10)]
            while not seen:
                rounds[0] = Slow()  # an allocation, which 3.11 needs
        return seen

    assert in_thread(work) == ["work"]


def test_an_exception_that_is_swallowed_is_not_raised_again():
    def work():
        swallowed = []
        with time_limit(SOON):
            for _ in range(3):
                try:
                    time.sleep(2 * SOON if swallowed else WAIT)
                    check_cancelled()
                except Exception as exc:
                    swallowed.append(exc)
        return swallowed

    assert len(in_thread(work)) == 1


def test_an_interval_repeats_until_it_is_turned_off():
    def work():
        seen = []
        signal.signal(signal.SIGALRM, lambda signum, frame: seen.append(signum))
        signal.setitimer(signal.ITIMER_REAL, SOON, SOON / 3)
        until = time.monotonic() + WAIT
        while len(seen) < 4 and time.monotonic() < until:
            time.sleep(0.2 * SOON)
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        assert left <= interval == pytest.approx(SOON / 3, abs=1e-6)
        count = len(seen)
        assert count >= 4
        time.sleep(2 * SOON)
        assert len(seen) == count
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

    in_thread(work)


def test_a_handler_may_set_the_alarm_again():
    def work():
        seen = []

        def handler(signum, frame):
            seen.append(signum)
            if len(seen) == 3:
                raise Slow
            signal.setitimer(signal.ITIMER_REAL, SOON / 3)

        with time_limit(SOON / 3, handler):
            time.sleep(WAIT)

    with pytest.raises(Slow):
        in_thread(work)


def test_ignored_and_default(caplog):
    def work():
        for handler in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, SOON)
            until = time.monotonic() + WAIT
            while signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0) or (handler is signal.SIG_DFL and not caplog.records):
                assert time.monotonic() < until
                time.sleep(SOON)

    in_thread(work)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "SIG_DFL" in record.message
    assert "signal.alarm(0)" in record.message


# Never where it does not belong


def test_threads_have_alarms_of_their_own():
    started = threading.Barrier(4)

    def work(seconds):
        started.wait(WAIT)
        with time_limit(seconds):
            time.sleep(6 * SOON if seconds == WAIT else WAIT)
        return "done"

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, seconds) for seconds in (SOON, WAIT, 2 * SOON, WAIT)]
    assert [future.exception().__class__ for future in futures] == [Slow, type(None), Slow, type(None)]


def test_a_child_that_inherits_the_context_is_not_hit():
    def work():
        with ThreadPoolExecutor(2) as pool:
            with time_limit(SOON, lambda signum, frame: None):
                submitted = pool.submit(child)
                context = contextvars.copy_context()
                own = in_thread(context.run, child)
            return submitted.result(), own

    def child():
        start = time.monotonic()
        time.sleep(3 * SOON)
        with move_on_after(3 * SOON) as scope:
            check_cancelled()
            time.sleep(WAIT)
        return time.monotonic() - start >= 6 * SOON, scope.cancelled_caught

    assert in_thread(work) == ((True, True), (True, True))


def test_an_alarm_left_set_does_not_hit_the_next_task(caplog):
    def careless():
        signal.signal(signal.SIGALRM, raising)
        signal.setitimer(signal.ITIMER_REAL, SOON)
        return threading.get_ident()

    def next_one():
        time.sleep(3 * SOON)
        return threading.get_ident()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(careless).result() == pool.submit(next_one).result()
    from threadsafe_timeout._pool.executor import StandardThreadPoolExecutor

    with StandardThreadPoolExecutor(1) as pool:
        assert pool.submit(careless).result() == pool.submit(next_one).result()
    assert "no longer running" in caplog.text


def test_an_alarm_ends_with_its_thread():
    def careless():
        signal.signal(signal.SIGALRM, raising)
        signal.alarm(1000)
        assert len(_alarm._set) == 1

    in_thread(careless)
    assert not _alarm._set


def test_an_alarm_ends_with_the_scope_it_was_set_in():
    def work():
        with move_on_after(WAIT):
            signal.signal(signal.SIGALRM, raising)
            signal.setitimer(signal.ITIMER_REAL, SOON)
        time.sleep(3 * SOON)
        assert signal.alarm(0) == 0

    in_thread(work)


def test_scopes_and_alarms_may_overlap():
    def work():
        with move_on_after(WAIT):
            signal.signal(signal.SIGALRM, raising)
            signal.alarm(1000)
            with move_on_after(WAIT):
                assert signal.alarm(0) == 1000
                assert signal.alarm(500) == 0
                assert signal.alarm(600) == 500
            assert signal.alarm(1) == 0
            signal.alarm(0)
        with pytest.raises(DeadlineExceeded):
            with deadline(SOON), time_limit(WAIT):
                time.sleep(WAIT)
        with deadline(WAIT), pytest.raises(Slow), time_limit(SOON), deadline(WAIT):
            time.sleep(WAIT)

    in_thread(work)


def test_a_shield_holds_it_up():
    def work():
        with time_limit(SOON):
            with shield(WAIT):
                time.sleep(2 * SOON)
                reached.append("shielded")
            time.sleep(WAIT)

    reached = []
    with pytest.raises(Slow):
        in_thread(work)
    assert reached == ["shielded"]


@interrupts
def test_it_is_not_raised_in_a_finally_body_nor_after_it_was_turned_off():
    def work():
        done = []
        for _ in range(20):
            try:
                try:
                    signal.signal(signal.SIGALRM, raising)
                    signal.setitimer(signal.ITIMER_REAL, 0.001)
                    python_loop()
                finally:
                    until = time.monotonic() + 0.005
                    while time.monotonic() < until:
                        pass
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    done.append("cleaned up")
            except Slow:
                pass
            until = time.monotonic() + 0.003
            while time.monotonic() < until:
                pass
        return done

    assert in_thread(work) == ["cleaned up"] * 20


@interrupts
def test_it_is_held_up_while_a_protected_module_runs():
    class Busy(logging.Handler):
        def emit(self, record):
            until = time.monotonic() + 3 * SOON
            while time.monotonic() < until:
                pass
            record.reached = True

    logger = logging.Logger("busy")
    logger.addHandler(Busy())
    record = logger.makeRecord("busy", logging.INFO, __file__, 1, "x", (), None)

    def work():
        with time_limit(SOON):
            logger.handle(record)
            python_loop()

    with pytest.raises(Slow):
        in_thread(work)
    assert record.reached


class Waits:
    """Waits that end with "late" when `release` is called, and until then are blocked."""

    def __init__(self):
        self.closing = contextlib.ExitStack()

    def event(self):
        event = threading.Event()
        return event.set, lambda: event.wait(WAIT) and "late"

    def condition(self):
        condition = threading.Condition()

        def release():
            with condition:
                condition.notify()

        def wait():
            with condition:
                return condition.wait(WAIT) and "late"

        return release, wait

    def semaphore(self):
        semaphore = threading.Semaphore(0)
        return semaphore.release, lambda: semaphore.acquire(timeout=WAIT) and "late"

    def queue(self):
        items = queue.Queue()
        return lambda: items.put("late"), items.get

    def join(self):
        event = threading.Event()
        thread = threading.Thread(target=event.wait, args=(WAIT,))
        thread.start()
        self.closing.callback(thread.join)
        self.closing.callback(event.set)

        def wait():
            thread.join()
            return "late" if not thread.is_alive() else "early"

        return event.set, wait

    def future(self):
        future = concurrent.futures.Future()
        return lambda: future.set_result("late"), lambda: future.result(WAIT)

    def pool_future(self):
        event = threading.Event()
        pool = self.closing.enter_context(ThreadPoolExecutor(1))
        self.closing.callback(event.set)
        future = pool.submit(lambda: event.wait(WAIT) and "late")
        return event.set, lambda: future.result(WAIT)

    def as_completed(self):
        future = concurrent.futures.Future()
        return (
            lambda: future.set_result("late"),
            lambda: next(concurrent.futures.as_completed([future], WAIT)).result(),
        )

    def token(self):
        source = CancelSource()
        return source.cancel, lambda: source.token.wait(WAIT) and "late"

    def receive(self):
        ours, theirs = map(self.closing.enter_context, socket.socketpair())
        return lambda: theirs.send(b"late"), lambda: ours.recv(4).decode()

    def receive_with_timeout(self):
        ours, theirs = map(self.closing.enter_context, socket.socketpair())
        ours.settimeout(WAIT)
        return lambda: theirs.send(b"late"), lambda: ours.recv(4).decode()

    def select(self):
        ours, theirs = map(self.closing.enter_context, socket.socketpair())
        return lambda: theirs.send(b"late"), lambda: select.select([ours], [], [], WAIT)[0] and "late"

    def process(self):
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.closing.callback(process.wait)
        self.closing.callback(process.kill)
        self.closing.callback(process.stdin.close)
        return process.stdin.close, lambda: "late" if process.wait(WAIT) == 1 else "early"


def waits():
    names = [name for name in vars(Waits) if not name.startswith("_")]
    return pytest.mark.parametrize("name", names)


@waits()
def test_a_wait_ends_with_what_the_handler_raises(name):
    case = Waits()
    with case.closing:
        _, wait = getattr(case, name)()
        started = time.monotonic()
        with pytest.raises(Slow):
            in_thread(inline, wait)
        assert time.monotonic() - started < WAIT / 2


@waits()
def test_a_wait_goes_on_after_a_handler_that_returned(name):
    case = Waits()
    seen, used = [], []

    def work():
        def handler(signum, frame):
            seen.append(signum)
            if len(seen) == 2:
                used.append(time.thread_time())
                release()
            elif len(seen) == 1:
                used.append(time.thread_time())

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, SOON, SOON)
        try:
            return wait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    with case.closing:
        release, wait = getattr(case, name)()
        assert in_thread(work) == "late"
    assert len(seen) >= 2
    assert used[1] - used[0] < SOON / 2, "it did not wait, it looked all the time"


def is_gone(pid):
    """Whether the process ends soon; one that has, and that nobody has waited for, counts."""
    for _ in range(100 * WAIT):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except OSError:
            return True
        threading.Event().wait(0.01)
    return False


def communicate(command, **pipes):
    with subprocess.Popen(command, stdout=subprocess.PIPE, **pipes) as child:
        return child.communicate()[0]


CHILDREN = {
    "run, captured": lambda command: subprocess.run(command, capture_output=True, check=True).stdout,
    "run, input": lambda command: subprocess.run(command, input=b"x" * 300_000, stdout=subprocess.PIPE, check=True).stdout,
    "check_output": subprocess.check_output,
    "check_output, text": lambda command: subprocess.check_output(command, text=True).encode(),
    "communicate": lambda command: communicate(command, stderr=subprocess.PIPE),
    "communicate, one pipe": communicate,
}


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_lives_on_after_a_handler_that_returned(name, tmp_path):
    flag, seen = tmp_path / "flag", threading.Event()

    def work():
        with time_limit(5 * SOON, lambda signum, frame: seen.set()):
            return CHILDREN[name](["sh", "-c", f"while [ ! -e {flag} ]; do sleep 0.01; done; echo done"])

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        until = time.monotonic() + WAIT
        # A read that is one call of the system's is not woken: there the handler waits for its end.
        while not seen.is_set() and not (name == "communicate, one pipe" and any(a._due for a in list(_alarm._set))):
            assert time.monotonic() < until
            time.sleep(0.001)
        flag.touch()
        assert future.result(WAIT) == b"done\n"
    assert seen.is_set()


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_is_killed_when_the_handler_raises(name, tmp_path):
    file = tmp_path / "pid"

    def work():
        with time_limit(10 * SOON):
            return CHILDREN[name](["sh", "-c", f"echo $$ > {file}.new; mv {file}.new {file}; sleep {WAIT} & wait"])

    started = time.monotonic()
    with pytest.raises(Slow):
        in_thread(work)
    assert time.monotonic() - started < WAIT / 2
    if file.exists():
        assert is_gone(int(file.read_text()))


def test_a_handler_that_returned_does_not_make_a_timeout_kill():
    seen = []

    def work():
        with time_limit(5 * SOON, lambda *args: seen.append(1)):
            child = subprocess.Popen(["sleep", str(WAIT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            with pytest.raises(subprocess.TimeoutExpired):
                child.communicate(timeout=15 * SOON)
            alive = child.poll() is None
            child.kill()
            child.communicate()
            return alive

    assert in_thread(work)
    assert seen == [1]


def by_hand(coroutine):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def in_another_threads_loop(coroutine):
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(WAIT)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        with contextlib.suppress(asyncio.CancelledError):
            by_hand_rest(loop)
        loop.close()


def by_hand_rest(loop):
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(task)


@pytest.mark.parametrize("run", [asyncio.run, by_hand, in_another_threads_loop])
def test_an_event_loop_goes_on_after_a_handler_that_returned(run):
    seen = []
    idents = []

    def work():
        async def main():
            while len(seen) < 3:
                await asyncio.sleep(0.001)
            return "done"

        def handler(signum, frame):
            seen.append(signum)
            idents.append(threading.get_ident())

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, SOON, SOON)
        try:
            return run(main()), {threading.get_ident()} == set(idents)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    assert in_thread(work) == ("done", True)


@pytest.mark.parametrize("run", [asyncio.run, by_hand, in_another_threads_loop])
@pytest.mark.parametrize("error", [Slow, SystemExit])
def test_what_a_handler_raises_comes_out_of_the_event_loop(run, error):
    begun, cleaned_up = [], []  # on a busy machine it may not have begun by then

    def work():
        async def main():
            begun.append(1)
            try:
                await asyncio.sleep(WAIT)
            finally:
                await asyncio.sleep(0)
                cleaned_up.append(1)

        def handler(signum, frame):
            raise error("late")

        with time_limit(SOON, handler):
            run(main())

    with pytest.raises(error, match="late"):
        in_thread(work)
    assert cleaned_up == begun


def test_what_a_handler_raises_comes_out_though_the_coroutine_goes_on():
    def work():
        async def stubborn():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(WAIT)
            return "stubborn"

        with time_limit(SOON):
            return asyncio.run(stubborn())

    with pytest.raises(Slow):
        in_thread(work)


def test_an_alarm_that_its_handler_sets_again_in_an_event_loop_holds_after_it():
    seen = []

    def work():
        async def main():
            while not seen:
                await asyncio.sleep(0.001)

        def handler(signum, frame):
            if seen:
                raising(signum, frame)
            seen.append(signum)
            signal.setitimer(signal.ITIMER_REAL, 5 * SOON)

        with time_limit(SOON, handler):
            asyncio.run(main())
            threading.Event().wait(WAIT)

    with pytest.raises(Slow):
        in_thread(work)


def test_a_scope_and_an_alarm_around_an_event_loop_both_hold():
    seen = []

    def work():
        async def main():
            await asyncio.sleep(WAIT)

        scope = deadline(WAIT)

        def handler(*_):
            seen.append(1)
            scope.deadline = time.monotonic() + SOON

        with time_limit(SOON, handler), scope:
            asyncio.run(main())

    with pytest.raises(DeadlineExceeded):
        in_thread(work)
    assert seen == [1]


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
        install()


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


@pytest.mark.parametrize("body", ENDED)
def test_timeout_decorator(body):
    timeout_decorator = pytest.importorskip("timeout_decorator")

    class Late(Exception):
        pass

    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(timeout_decorator.timeout(SOON, timeout_exception=Late, exception_message="too late")(body)),
            pool.submit(timeout_decorator.timeout(WAIT)(lambda: "in time")),
        ]
    assert str(futures[0].exception()) == "too late"
    assert type(futures[0].exception()) is Late
    assert futures[1].result() == "in time"


@pytest.mark.parametrize("body", ENDED)
def test_wrapt_timeout_decorator(body):
    wrapt_timeout_decorator = pytest.importorskip("wrapt_timeout_decorator")
    calls = []  # in this process

    @wrapt_timeout_decorator.timeout(SOON)
    def late():
        calls.append(os.getpid())
        body()

    with pytest.raises(TimeoutError, match="late timed out after"):
        in_thread(late)
    assert calls == [os.getpid()]


# An alarm that cannot be delivered


class StuckInC:
    """A lock that is taken, and what waits for it; it is let go at the end of a test."""

    def __init__(self):
        self.lock = threading.Lock()
        self.lock.acquire()
        self.waiting = threading.Event()

    def wait(self, handler=raising, seconds=SOON, interval=0.0):
        old = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds, interval)
        try:
            self.waiting.set()
            self.lock.acquire(timeout=WAIT)
            check_cancelled()
            return "returned"
        except Slow:
            return "its handler ended it"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)


@pytest.fixture
def stuck_in_c():
    one = StuckInC()
    yield one
    with contextlib.suppress(RuntimeError):
        one.lock.release()


def test_an_alarm_that_cannot_reach_a_pools_task_is_its_deadline(stuck_in_c):
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        future = pool.submit(stuck_in_c.wait)
        behind = pool.submit(int)
        with pytest.raises(DeadlineExceeded, match="an alarm of its own went off and cannot reach it"):
            future.result(WAIT)
        assert behind.result(WAIT) == 0
        thread = next(iter(pool._crew.abandoned)).thread
    stuck_in_c.lock.release()
    thread.join(WAIT)


@pytest.mark.parametrize("options", [{"interval": SOON}, {"handler": lambda *_: raising(0, None)}])
def test_so_is_one_that_repeats_and_one_whose_handler_raises_further_down(stuck_in_c, options):
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        with pytest.raises(DeadlineExceeded, match="alarm"):
            pool.submit(functools.partial(stuck_in_c.wait, **options)).result(WAIT)
        thread = next(iter(pool._crew.abandoned)).thread
    stuck_in_c.lock.release()
    thread.join(WAIT)


def test_also_in_a_context_that_knows_no_scope_of_the_task(stuck_in_c):
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        with pytest.raises(DeadlineExceeded, match="alarm"):
            pool.submit(contextvars.copy_context().run, stuck_in_c.wait).result(WAIT)
        thread = next(iter(pool._crew.abandoned)).thread
    stuck_in_c.lock.release()
    thread.join(WAIT)


def test_also_in_a_pool_of_multiprocessing(stuck_in_c):
    from multiprocessing.pool import ThreadPool

    install(checkpoint="off", grace=0.05)
    try:
        with ThreadPool(1) as pool:
            with pytest.raises(DeadlineExceeded, match="alarm"):
                pool.apply_async(stuck_in_c.wait).get(WAIT)
            thread = next(iter(pool._inqueue._executor._crew.abandoned)).thread
        stuck_in_c.lock.release()
        thread.join(WAIT)
    finally:
        uninstall()


def test_timeout_decorator_in_a_pool_ends_although_it_is_stuck(stuck_in_c):
    timeout_decorator = pytest.importorskip("timeout_decorator")
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        with pytest.raises(DeadlineExceeded, match="alarm"):
            pool.submit(timeout_decorator.timeout(SOON)(stuck_in_c.lock.acquire)).result(WAIT)
        thread = next(iter(pool._crew.abandoned)).thread
    stuck_in_c.lock.release()
    thread.join(WAIT)


def test_an_alarm_that_is_late_but_comes_is_an_alarm(stuck_in_c):
    """The call returns after the alarm was due, and before the grace is over."""
    with ThreadPoolExecutor(1, grace=WAIT) as pool:
        future = pool.submit(stuck_in_c.wait)
        while not any(alarm._due for alarm in list(_alarm._set)):
            time.sleep(0.001)
        stuck_in_c.lock.release()
        assert future.result(WAIT) == "its handler ended it"
    assert pool.stats()["abandoned"] == 0


def test_a_handler_that_does_not_raise_ends_no_task(stuck_in_c):
    seen = []
    with ThreadPoolExecutor(1, grace=0.02) as pool:
        future = pool.submit(stuck_in_c.wait, lambda *_: seen.append(1), SOON)
        while not any(alarm._due for alarm in list(_alarm._set)):
            time.sleep(0.001)
        time.sleep(0.2)  # ten graces
        assert not future.done()
        stuck_in_c.lock.release()
        assert future.result(WAIT) == "returned"
    assert seen == [1]


def test_a_task_that_moves_is_not_taken_for_stuck():
    """It is in code in which an alarm is held up, on a different line most times that somebody looks."""

    def busy():
        with time_limit(SOON):
            try:
                with shield(WAIT):
                    until = time.monotonic() + 0.6  # six graces
                    total = 0
                    while time.monotonic() < until:
                        total += sum(range(50))
                        total -= len(str(total))
                        total ^= hash(str(total))
                        total = abs(total) % 1000
                        total += max([total, 5, 6])
                        total = int(total / 2)
                check_cancelled()
            except Slow:
                return "its handler ended it"
        return "not ended"

    with ThreadPoolExecutor(1, grace=0.1) as pool:
        assert pool.submit(busy).result(WAIT) == "its handler ended it"


def test_without_a_pool_it_is_delivered_when_the_call_returns(stuck_in_c):
    install(checkpoint="off", grace=0.02)
    try:
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(stuck_in_c.wait()))
        thread.start()
        while not any(alarm._due for alarm in list(_alarm._set)):
            time.sleep(0.001)
        time.sleep(0.1)
        stuck_in_c.lock.release()
        thread.join(WAIT)
        assert outcome == ["its handler ended it"]
    finally:
        uninstall()
