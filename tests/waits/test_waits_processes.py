"""Waits for descriptors, child processes and messages: they end with the scope, and what they waited for is in order."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import queue
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Pipe, wait
from multiprocessing.managers import SyncManager
from pathlib import Path

import pytest
from blocked import LONG, Blocked, expire
from threadsafe_timeout_patches import _descriptors, _llm_call
from threadsafe_timeout_patches import multiprocessing as patch

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, install, move_on_after, shield, uninstall
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import timer as _timer

SLEEPS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
forks = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
SELECTORS = [cls for name, cls in vars(selectors).items() if name in {"SelectSelector", "PollSelector", "EpollSelector"}]


@pytest.fixture(autouse=True, scope="module")
def uninstalled() -> Iterator[None]:
    yield
    uninstall()


@pytest.fixture(autouse=True)
def patches() -> None:
    install(checkpoint="off")  # costs nothing if the test before left it installed


@pytest.fixture(autouse=True)
def no_leaked_descriptors() -> Iterator[None]:
    def open_now() -> int:
        if not os.path.exists("/proc/self/fd"):
            return 0
        return len(os.listdir("/proc/self/fd")) - len(_descriptors._spare)  # those are kept for the next waiter

    resource_tracker.ensure_running()  # one for the whole process, and started by the first to need it
    before = open_now()
    yield
    assert open_now() <= before


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def gone(pid: int) -> bool:
    """Whether the process has ended (perhaps not yet reaped by init)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def wait_gone(pid: int) -> None:
    until = time.monotonic() + LONG
    while not gone(pid):
        assert time.monotonic() < until, f"process {pid} lives on"
        time.sleep(0.001)


# --- select and selectors


def selecting(cls, sock, timeout=None):
    def call():
        with cls() as selector:
            selector.register(sock, selectors.EVENT_READ)
            try:
                return [key.fileobj for key, _ in selector.select(timeout)]
            finally:
                assert list(selector.get_map()) == [sock.fileno()]
                # Whatever woke it is not left behind in what is below the map.
                with contextlib.suppress(AttributeError):
                    assert selector._readers == {sock.fileno()}

    return call


def stuck_descriptors(sock):
    calls = {cls.__name__: selecting(cls, sock) for cls in SELECTORS}
    calls["SelectSelector, timeout"] = selecting(selectors.SelectSelector, sock, LONG)
    calls["EpollSelector, timeout"] = selecting(selectors.DefaultSelector, sock, LONG)
    calls["select"] = lambda: select.select([sock], [], [])
    calls["select, timeout"] = lambda: select.select([], [], [sock], int(LONG))
    calls["nothing"] = lambda: select.select([], [], [], LONG)
    return calls


def test_descriptor_waits_end_with_the_scope(pair):
    for name, call in stuck_descriptors(pair[0]).items():
        with pytest.raises(DeadlineExceeded), deadline(0.02):
            call()
        assert Blocked(call).cancel().scope.cancelled_caught, name
        with CancelScope() as scope:
            scope.cancel()
            call()
        assert scope.cancelled_caught, name
        with CancelScope() as scope:
            scope.cancel()
            with shield(0.02):
                call()
        assert scope.cancelled_caught, name


@pytest.mark.parametrize("in_scope", [False, True])
@pytest.mark.parametrize("cls", SELECTORS)
def test_selectors_return_what_is_ready(cls, in_scope, pair):
    left, right = pair
    with move_on_after(LONG) if in_scope else contextlib.nullcontext():
        for timeout in (0, -1, 0.001):
            assert selecting(cls, left, timeout)() == []
        right.send(b"x")
        for timeout in (None, 0, 1):
            assert selecting(cls, left, timeout)() == [left]
        with cls() as selector:
            assert selector.select(0.001) == []


@pytest.mark.parametrize("in_scope", [False, True])
def test_select_returns_what_is_ready(in_scope, pair):
    left, right = pair
    with move_on_after(LONG) if in_scope else contextlib.nullcontext():
        assert select.select([left], [], [], 0.001) == ([], [], [])
        assert select.select(iter([left]), [], [], 0) == ([], [], [])
        assert select.select([left], [right], [], None) == ([], [right], [])
        right.send(b"x")
        assert select.select([left.fileno()], (), [], True) == ([left.fileno()], [], [])
        assert select.select([left], [], []) == ([left], [], [])
        with pytest.raises(TypeError):
            select.select([left], [], [], "1")
        with pytest.raises(ValueError, match="non-negative"):
            select.select([left], [], [], -1)
        with pytest.raises(OverflowError):
            select.select([left], [], [], 1e300)
        with pytest.raises(TypeError):
            select.select([object()], [], [], 0)
        with pytest.raises(TypeError):
            select.select(1, [], [], 0)


@pytest.mark.parametrize("cls", SELECTORS)
def test_a_wait_that_was_not_cancelled_sees_what_arrives(cls, pair):
    left, right = pair
    blocked, other = Blocked(selecting(cls, left)), Blocked(lambda: select.select([left], [], []))
    right.send(b"x")
    assert blocked.join().result == [left]
    assert other.join().result == ([left], [], [])
    assert left.recv(1) == b"x"


@pytest.mark.parametrize("in_scope", [False, True])
@pytest.mark.parametrize("position", range(3))
def test_select_refuses_what_the_original_refuses_with_its_words(in_scope, position):
    lists: list[object] = [[], [], []]
    with move_on_after(LONG) if in_scope else contextlib.nullcontext():
        for value, error, words in (
            (5, TypeError, "arguments 1-3 must be sequences"),
            (None, TypeError, "arguments 1-3 must be sequences"),
            (["x"], TypeError, "argument must be an int, or have a fileno"),
            ([-1], ValueError, "file descriptor cannot be a negative integer"),
            ((1 // number for number in [0]), ZeroDivisionError, "by zero"),
        ):
            lists[position] = value
            with pytest.raises(error, match=words):
                select.select(*lists)


# --- subprocess


def process_calls():
    return {
        "run": lambda: subprocess.run(SLEEPS, check=False, stdout=subprocess.DEVNULL),
        "run, captured": lambda: subprocess.run(SLEEPS, check=True, capture_output=True, text=True),
        "run, timeout": lambda: subprocess.run(SLEEPS, check=False, capture_output=True, timeout=LONG),
        "run, input": lambda: subprocess.run(SLEEPS, check=False, input=b"x" * 300_000, stdout=subprocess.DEVNULL),
        "call": lambda: subprocess.call(SLEEPS, stdout=subprocess.DEVNULL),
        "check_call": lambda: subprocess.check_call(SLEEPS, stdout=subprocess.DEVNULL, timeout=LONG),
        "check_output": lambda: subprocess.check_output(SLEEPS),
        "getoutput": lambda: subprocess.getoutput("sleep 60 | sleep 60"),
    }


@pytest.fixture
def children(monkeypatch) -> Iterator[list[subprocess.Popen]]:
    """Every child the test starts."""
    started: list[subprocess.Popen] = []
    original = subprocess.Popen.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        started.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", init)
    yield started
    for child in started:
        child.kill()
        child.wait()


def assert_ended(child):
    assert child.returncode == -signal.SIGKILL
    assert gone(child.pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)  # no zombie is left
    assert all(pipe is None or pipe.closed for pipe in (child.stdin, child.stdout, child.stderr))


@pytest.mark.parametrize("name", process_calls())
def test_a_child_ends_with_the_scope(name, children):
    call = process_calls()[name]
    blocked = Blocked(call).cancel()
    assert blocked.scope.cancelled_caught
    scope = deadline(LONG)

    def bring_forward():  # to a moment after there is a child
        until = time.monotonic() + LONG
        while len(children) < 2 and time.monotonic() < until:
            time.sleep(0.001)
        scope.deadline = time.monotonic() + 0.1

    helper = threading.Thread(target=bring_forward)
    helper.start()
    with pytest.raises(DeadlineExceeded), scope:
        call()
    helper.join()
    assert len(children) == 2
    for child in children:
        assert_ended(child)
    with CancelScope() as scope:
        scope.cancel()
        call()
    assert scope.cancelled_caught
    assert len(children) == 2, "nothing is started in a cancelled scope"


@pytest.mark.parametrize("timeout", [None, LONG])
def test_popen_wait_kills_what_it_waited_for(timeout, children):
    child = subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL)
    assert Blocked(lambda: child.wait(timeout)).cancel().scope.cancelled_caught
    assert_ended(child)
    with CancelScope() as scope:
        scope.cancel()
        assert child.wait() == child.returncode  # nothing to wait for
    assert not scope.cancelled_caught


def test_popen_wait_for_what_has_ended_does_not_raise(children):
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.returncode is None
    with CancelScope() as scope:
        scope.cancel()
        assert child.wait() == 0
    assert not scope.cancelled_caught


def test_without_descriptors_for_processes_it_is_the_same(children, monkeypatch):
    monkeypatch.setattr(subprocess, "_CAN_USE_PIDFD_OPEN", False, raising=False)  # since 3.15; asked at import
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    test_popen_wait_kills_what_it_waited_for(None, children)
    test_popen_wait_kills_what_it_waited_for(LONG, children)
    with move_on_after(LONG):
        quick = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        assert quick.wait() == 3
        slow = subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            slow.wait(0.01)
    assert expired.value.timeout == 0.01
    assert slow.poll() is None


def test_an_ended_wait_with_time_left_leaves_the_child_alone(children):
    with move_on_after(LONG) as scope:
        child = subprocess.Popen(SLEEPS, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            child.wait(0.01)
        assert expired.value.timeout == 0.01
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            child.communicate(timeout=0.5)
        assert expired.value.timeout == 0.5
        assert child.poll() is None
        child.terminate()
        assert child.wait(LONG) == -signal.SIGTERM
        output, _ = child.communicate()
        assert output == b"up\n"
    assert not scope.cancel_called


@pytest.mark.parametrize("in_scope", [False, True])
def test_processes_that_end_in_time_do_what_they_did(in_scope, children):
    with move_on_after(LONG) if in_scope else contextlib.nullcontext():
        done = subprocess.run(["cat"], input="é" * 200_000, capture_output=True, text=True, check=True, encoding="utf-8")
        assert done.stdout == "é" * 200_000
        assert subprocess.check_output(["echo", "x"], text=True) == "x\n"
        assert subprocess.call(["false"]) == 1
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.check_call(["false"])
        with pytest.raises(FileNotFoundError):
            subprocess.run(["/no/such/program"], check=False)
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(SLEEPS, timeout=0.05, capture_output=True, check=False)
        child = subprocess.Popen([sys.executable, "-c", "print(1); print(2)"], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "1\n"
        assert child.communicate() == ("2\n", None), "what was read ahead is not lost"
        assert child.wait() == 0


GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=%r)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("new_session", [False, True], ids=["in our group", "group of its own"])
@pytest.mark.parametrize("grandchild_session", [False, True], ids=["grandchild in the group", "grandchild left it"])
def test_descendants_end_too(new_session, grandchild_session, children, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD % grandchild_session], stdout=subprocess.PIPE, start_new_session=new_session
    )
    grandchild = int(child.stdout.readline())
    assert Blocked(child.communicate).cancel().scope.cancelled_caught
    assert_ended(child)
    wait_gone(grandchild)


def test_an_orphan_in_the_childs_group_ends_too(children):
    script = "sleep 60 & echo $!; exec sleep 60"
    child = subprocess.Popen(["sh", "-c", f"(({script}) & wait)"], stdout=subprocess.PIPE, process_group=0)
    orphan = int(child.stdout.readline())
    assert Blocked(child.wait).cancel().scope.cancelled_caught
    wait_gone(orphan)
    child.stdout.close()


def test_our_own_group_is_never_killed(children):
    bystander = subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL)
    child = subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL)
    assert os.getpgid(child.pid) == os.getpgrp()
    Blocked(child.wait).cancel()
    assert bystander.poll() is None


# --- multiprocessing


@pytest.fixture
def process() -> Iterator[multiprocessing.Process]:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=time.sleep, args=(60,))
    process.start()
    yield process
    process.kill()
    process.join()
    process.close()


def test_process_join_ends_with_the_scope_and_leaves_the_process(process):
    with pytest.raises(DeadlineExceeded), deadline(0.02):
        process.join()
    assert Blocked(process.join).cancel().scope.cancelled_caught
    assert Blocked(lambda: process.join(LONG)).cancel().scope.cancelled_caught
    with move_on_after(LONG):
        process.join(0.01)
        assert process.is_alive()
        process.terminate()
        process.join()
    assert process.exitcode == -signal.SIGTERM


def test_connections_end_with_the_scope_and_stay_usable():
    left, right = Pipe()
    with left, right:
        for call in (left.recv, left.recv_bytes, lambda: left.poll(None), lambda: left.poll(LONG), lambda: wait([left])):
            assert Blocked(call).cancel().scope.cancelled_caught
            with pytest.raises(DeadlineExceeded), deadline(0.01):
                call()
        blocked = Blocked(left.recv)
        right.send({"a": 1})
        assert blocked.join().result == {"a": 1}
        with move_on_after(LONG):
            right.send(list(range(10_000)))
            assert left.poll(1)
            assert left.recv() == list(range(10_000))
            right.close()
            with pytest.raises(EOFError):
                left.recv()


def test_a_message_that_arrives_as_its_reader_is_cancelled_is_received(monkeypatch):
    waits = patch.wait_ready

    def wait_then_be_cancelled(*args):
        ready = waits(*args)
        _around.current_scope().cancel()
        return ready

    monkeypatch.setattr(patch, "wait_ready", wait_then_be_cancelled)
    left, right = Pipe()
    with left, right:
        blocked = Blocked(left.recv)
        right.send("message")
        assert blocked.join().result == "message"
        assert blocked.scope.cancel_called


def test_messages_that_cross_cancellations_are_neither_lost_nor_do_they_close_the_connection():
    left, right = Pipe()
    with left, right:
        for message in range(300):
            blocked = Blocked(left.recv)
            right.send(message)
            blocked.cancel()
            assert (blocked.result if blocked.returned else left.recv()) == message


def test_items_that_cross_cancellations_stay_in_their_queue():
    items = multiprocessing.get_context("spawn").Queue()
    for item in range(300):
        blocked = Blocked(items.get)
        items.put(item)
        while not items._reader.poll() and blocked.thread.is_alive():
            pass
        blocked.cancel()
        assert (blocked.result if blocked.returned else items.get()) == item
    items.close()
    items.join_thread()


def test_a_connection_cancelled_in_the_middle_of_a_message_is_closed():
    left, right = Pipe()
    with left, right:
        os.write(right.fileno(), b"\0\0\0\x10abc")
        blocked = Blocked(left.recv_bytes)
        while select.select([left], [], [], 0)[0]:
            time.sleep(0)
        assert blocked.cancel().scope.cancelled_caught
        assert left.closed


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_queues_of_processes_end_with_the_scope(kind):
    items = getattr(multiprocessing.get_context("spawn"), kind)(1)
    assert Blocked(items.get).cancel().scope.cancelled_caught
    with pytest.raises(DeadlineExceeded), deadline(0.02):
        items.get()
    with move_on_after(LONG):
        with pytest.raises(queue.Empty):
            items.get(timeout=0.01)
        items.put(1)
        with pytest.raises(queue.Full):
            items.put(2, timeout=0.01)
        with pytest.raises(DeadlineExceeded), deadline(0.02):
            items.put(2)
        assert items.get() == 1
    items.close()
    items.join_thread()


def test_what_needs_no_wait_does_not_raise_in_a_cancelled_scope():
    left, right = Pipe()
    items = multiprocessing.get_context("spawn").JoinableQueue(1)
    with left, right, CancelScope() as scope:
        scope.cancel()
        assert not left.poll()
        right.send("x" * 20_000)
        assert left.poll()
        assert left.poll(LONG)
        assert left.recv() == "x" * 20_000
        with pytest.raises(queue.Empty):
            items.get_nowait()
        items.put(1)
        with pytest.raises(queue.Full):
            items.put_nowait(2)
        with shield(LONG):
            while items.empty():
                time.sleep(0)
        assert items.get() == 1
        items.put(2)
        with shield(LONG):
            while items.empty():
                time.sleep(0)
        assert items.get_nowait() == 2
    assert not scope.cancelled_caught
    for call in (items.get, lambda: items.put(1) or items.put(2)):
        with CancelScope() as scope:
            scope.cancel()
            call()
            raise AssertionError(call)
        assert scope.cancelled_caught
    assert items.get() == 1
    items.close()
    items.join_thread()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@forks
def test_a_process_that_has_ended_is_joined_in_a_cancelled_scope(method):
    process = multiprocessing.get_context(method).Process(target=os._exit, args=(3,))
    try:
        process.start()
        assert wait([process.sentinel], LONG)
        if method != "forkserver":  # whose child it is
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with CancelScope() as scope:
            scope.cancel()
            process.join()
        assert not scope.cancelled_caught
        assert process.exitcode == 3
        process.close()
    finally:
        forkserver._forkserver._stop()


class Service:
    def slow(self):
        time.sleep(1)
        return "slow"

    def quick(self):
        return "quick"

    def fails(self):
        raise TimeoutError("its own")


class Services(SyncManager):
    pass


Services.register("Service", Service)


@pytest.fixture
def services() -> Iterator[Services]:
    with Services(ctx=multiprocessing.get_context("spawn")) as manager:
        yield manager
        gc.collect()  # the proxies, which close their connections
    manager._process.close()


def test_the_answer_of_a_cancelled_call_is_not_given_to_the_next_one(services):
    service, values = services.Service(), services.dict()
    for _ in range(2):
        with pytest.raises(DeadlineExceeded), deadline(0.1):
            service.slow()
        assert service.quick() == "quick"
        values["a"] = 1
        with move_on_after(LONG):
            assert values.copy() == {"a": 1}


def test_an_error_that_is_the_answer_leaves_a_managers_connection_alone(services):
    service = services.Service()
    with move_on_after(LONG):
        assert service.quick() == "quick"
        connection = service._tls.connection
        with pytest.raises(TimeoutError, match="its own"):
            service.fails()
        assert service.quick() == "quick"
    assert service._tls.connection is connection
    assert not connection.closed


def test_a_managers_lock_is_released_by_who_is_cancelled_in_a_call(services):
    service, lock = services.Service(), services.Lock()
    with pytest.raises(DeadlineExceeded), deadline(LONG), lock:
        expire(0.1)
        service.slow()
    assert lock.acquire(True, LONG)


# --- processes that are forked inside a scope

FORK = multiprocessing.get_context("fork")


def report(connection, call):
    """In a child: what `call` returned."""
    connection.send(call())


def forked(call):
    """A child that was forked here and calls it, and the connection that it reports on."""
    mine, theirs = Pipe()
    child = FORK.Process(target=report, args=(theirs, call))
    child.start()
    theirs.close()
    return child, mine


def reported(child, connection):
    with connection:
        result = connection.recv()
    child.join(LONG)
    assert child.exitcode == 0
    child.close()
    return result


def works_on(until):
    """Compute until then, wait a moment, and see what there is of the parent's."""
    computed = 0
    while time.monotonic() < until:
        computed += 1
    time.sleep(0.001)
    return computed > 0, _around.current_scope() is None, len(_pursuit._targets), _llm_call.current() is None


@forks
def test_a_process_forked_inside_a_scope_outlives_its_deadline():
    token = _llm_call._current.set(_llm_call.Call(None, Exception, is_llm=True))
    try:
        with move_on_after(LONG), move_on_after(1) as scope:  # not less: the fork is in it
            _timer.settle(LONG)
            works = forked(lambda: works_on(scope.deadline + 0.2))
            time.sleep(LONG)
        assert scope.cancelled_caught
        with CancelScope() as scope:
            scope.cancel()
            starts_late = forked(lambda: works_on(0))
        with shield(LONG), move_on_after(LONG) as scope:
            may_cancel = forked(lambda: (scope.cancel(), time.sleep(0.001)))
    finally:
        _llm_call._current.reset(token)
    assert reported(*works) == (True, True, 0, True)
    assert reported(*starts_late) == (False, True, 0, True)
    assert reported(*may_cancel) == (False, None)


@forks
def test_scopes_and_deadlines_in_a_process_forked_inside_a_scope_are_its_own():
    def wait():
        with move_on_after(0.01) as scope:
            threading.Event().wait(LONG)
        return scope.cancelled_caught

    with move_on_after(LONG):
        assert reported(*forked(wait))


@forks
def test_a_process_pool_that_was_first_used_inside_a_scope_goes_on():
    with ProcessPoolExecutor(1, mp_context=FORK) as pool:
        with pytest.raises(DeadlineExceeded), deadline(0.3):
            assert pool.submit(abs, -1).result() == 1
            time.sleep(LONG)
        assert pool.submit(time.sleep, 0.1).result(LONG) is None
        assert pool.submit(abs, -2).result(LONG) == 2


@forks
def test_a_forked_process_does_not_wake_its_parents_threads(pair):
    left, right = pair
    until = []

    def receive():
        with move_on_after(0.3) as scope:
            until.append(scope.deadline)
            left.recv(1)

    receiving = Blocked(receive)
    child = forked(lambda: works_on(until[0] + 0.1))
    right.send(b"x")
    receiving.join()
    assert reported(*child)[0]
    for wakeup in _descriptors._spare:
        assert not select.select([wakeup.fd], [], [], 0)[0]


# --- nothing stays behind


def test_everything_is_the_original_again_afterwards():
    from multiprocessing import connection, managers, popen_fork, process, queues

    uninstall()
    owners = [subprocess.Popen, subprocess, popen_fork.Popen, connection.Connection, queues.Queue, selectors, select]
    owners += [queues.JoinableQueue, managers.BaseProxy, process.BaseProcess]
    for owner in [*owners, *SELECTORS, selectors._PollLikeSelector]:
        for value in vars(owner).values():
            assert "threadsafe_timeout" not in getattr(getattr(value, "__code__", None), "co_filename", type(value).__module__)


CHILDREN = """
import multiprocessing, sys, time, threading
import threadsafe_timeout

def child(connection):
    from threadsafe_timeout import _settings, move_on_after
    from threadsafe_timeout._patching import install as _install
    with move_on_after(0.02) as scope:
        time.sleep(60)
    values = _settings.settings()
    connection.send((_install.installed() is not None, scope.cancelled_caught, values.grace, values.checkpoint))

if __name__ == "__main__":
    threadsafe_timeout.install(checkpoint=None, grace=0.75)
    context = multiprocessing.get_context(sys.argv[1] or None)
    mine, theirs = context.Pipe()
    for _ in range(2):
        process = context.Process(target=child, args=(theirs,))
        process.start()
        assert "_threadsafe_timeout" not in vars(process)
        print(*mine.recv(), flush=True)
        process.join()
        assert process.exitcode == 0
"""


@pytest.mark.parametrize("method", ["", "fork", "forkserver"])
def test_the_children_of_a_fork_server_have_the_line_as_forked_ones_do(method, tmp_path):
    """Whatever the default is: the server, since 3.14."""
    program = tmp_path / "program.py"
    program.write_text(CHILDREN)
    ran = subprocess.run([sys.executable, program, method], capture_output=True, text=True, timeout=LONG, check=False)
    assert ran.stdout.splitlines() == ["True True 0.75 None"] * 2, ran.stderr


def test_a_child_that_cannot_be_pickled_fails_as_without(monkeypatch):
    process = multiprocessing.get_context("forkserver").Process(target=lambda: None)
    with pytest.raises(Exception, match=r"pickle|lambda"):
        process.start()
    assert "_threadsafe_timeout" not in vars(process)
