"""SIGALRM off the main thread: what becomes of the wait, or the child process, that the handler comes to."""

import concurrent.futures
import contextlib
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from alarms import SOON, WAIT, Slow, in_thread, inline, time_limit

from threadsafe_timeout import (
    CancelSource,
    ThreadPoolExecutor,
)
from threadsafe_timeout._interruption import alarm as _alarm

pytestmark = [pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here"), pytest.mark.usefixtures("alarms")]


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
            while not seen:  # on a busy machine it may come only now
                time.sleep(0.01)
            return alive

    assert in_thread(work)
    assert seen == [1]
