"""What becomes of the processes that a pool's task has started, and that the program exits."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock  # noqa: F401  # it minds threads that fork at the same time
import process_scripts
import pytest
from asleep import ON_PATH

from threadsafe_timeout import Cancelled, DeadlineExceeded, ThreadPoolExecutor, keep_process, patched, shield
from threadsafe_timeout._processes import children as _children
from threadsafe_timeout._processes import started as _started
from threadsafe_timeout._processes import tree as _process_tree
from threadsafe_timeout._processes.tree import HAS_PROC, is_running, kill_tree, status

BOUND = 120.0  # seconds any of this may take on a busy machine
SCRIPT = process_scripts.__file__

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="looks at /proc")


class Run:
    """What a script told, and what runs of what it had started."""

    def __init__(self, code: int, out: str, err: str) -> None:
        assert code == 0, err
        self.err = err
        told = json.loads(out)
        self.error: str = told["error"]
        self.kept: bool = told["kept"]
        self.after: dict[str, bool] = told["after"]
        self.started: dict[str, tuple[int, int]] = told["started"]

    def left(self) -> list[str]:
        return [name for name, one in self.started.items() if is_running(*one)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Any], Run]]:
    runs: list[Run] = []

    def run(function: Any) -> Run:
        environment = {**os.environ, "FOLDER": str(tmp_path / "workers")}
        (tmp_path / "workers").mkdir()
        # Files, not pipes: what is left alone would hold those.
        with open(tmp_path / "out", "w+") as out, open(tmp_path / "err", "w+") as err:
            child = subprocess.Popen(
                [sys.executable, SCRIPT, function.__name__],
                env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
            try:
                child.wait(BOUND)
                ended = True
            except subprocess.TimeoutExpired:
                ended = False
                child.kill()
                child.wait()
        said = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
        assert ended, f"the program did not exit; it said: {said}"
        runs.append(Run(child.returncode, *said))
        return runs[-1]

    yield run
    for one in runs:
        for pid, began in one.started.values():
            if is_running(pid, began):
                os.kill(pid, signal.SIGKILL)


def until_gone(one: Run, *names: str) -> list[str]:
    """Wait for what was killed (all, if none is named) to have ended: that may take a moment."""
    until = time.monotonic() + BOUND
    while (left := one.left()) and (not names or set(names) & set(left)) and time.monotonic() < until:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("task", process_scripts.UNBLOCKED, ids=lambda task: task.__name__)
def test_a_task_that_is_stuck_in_its_process_ends_with_it_and_keeps_its_thread(task, run):
    one = run(task)
    assert one.error == "DeadlineExceeded", one.err
    assert one.kept, one.err
    assert not until_gone(one)
    assert "processes that it had started were ended: " in one.err


def test_a_task_that_returns_when_its_first_process_ends_has_lost_the_others_too(patient, monkeypatch):
    """Else they would live on if the program exits at once."""
    original, children, returned, slow = _children.kill_tree, [], threading.Event(), []

    def kill(pid, **more):
        if children and pid == children[-1].pid:
            slow.append(returned.wait(0.5))  # the first has ended, and with it the task's read
        return original(pid, **more)

    def task(reached):
        for _ in range(2):
            children.append(subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE))
        reached.set()
        children[0].stdout.read()

    monkeypatch.setattr(_children, "kill_tree", kill)
    error = cancelled(patient, task)
    returned.set()
    assert isinstance(error, DeadlineExceeded)
    assert slow
    assert not any(slow), "the future was done before the second process was ended"
    for child in children:
        child.wait(BOUND)
        child.stdout.close()


@pytest.mark.parametrize("task", process_scripts.ABANDONED, ids=lambda task: task.__name__)
def test_a_task_that_is_given_up_takes_its_processes_with_it_but_not_what_is_to_outlive_it(task, run):
    one = run(task)
    assert one.error == "DeadlineExceeded", one.err
    assert not one.kept
    until_gone(one, "child")
    assert set(one.left()) == set(one.started) - {"child"}


@pytest.mark.parametrize(
    "task", process_scripts.OVER_AT_ONCE + process_scripts.GIVEN_UP_WITH_WORKERS, ids=lambda task: task.__name__
)
def test_processes_of_multiprocessing_end_and_the_program_exits(task, run):
    one = run(task)
    assert one.error == "DeadlineExceeded", one.err
    assert one.kept == (task in process_scripts.OVER_AT_ONCE)
    assert not until_gone(one), one.err
    assert "Traceback" not in one.err


@pytest.mark.parametrize("task", process_scripts.SHARED, ids=lambda task: task.__name__)
def test_a_pool_of_processes_that_others_use_too_goes_on(task, run):
    one = run(task)
    assert one.error == "DeadlineExceeded", one.err
    assert one.after == {"shared": True}
    assert "were ended" not in one.err


# The exit


def run_python(code: str, timeout: float = BOUND) -> subprocess.CompletedProcess[str]:
    """Run a program, from a file: `multiprocessing` imports it again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(PREAMBLE + textwrap.dedent(code))
        return subprocess.run(
            [sys.executable, str(path)],
            env={**os.environ, **ON_PATH}, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip


PREAMBLE = """
import concurrent.futures, multiprocessing, os, signal, subprocess, sys, threading, time
import asleep
import threadsafe_timeout
from threadsafe_timeout import deadline, move_on_after
SPAWN = multiprocessing.get_context("spawn")
def say(text):
    os.write(1, (text + "\\n").encode())
def ends_politely(said):
    signal.signal(signal.SIGTERM, lambda *_: (say("asked to end"), sys.exit()))
    said.send(None)
    time.sleep(300)
def ignores(said):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "300"])
    said.send((os.getpid(), child.pid))
    time.sleep(300)
def healthy(said):
    said.send(None)
    time.sleep(0.5)
    say("finished")
def start(function, context=SPAWN, **options):
    mine, theirs = context.Pipe()
    process = context.Process(target=function, args=(theirs,), **options)
    process.start()
    return process, mine.recv()
if __name__ == "__main__":
    threadsafe_timeout.install(grace=0.2, checkpoint="off")
"""


def test_a_process_whose_join_was_cut_short_is_asked_to_end_at_exit_and_a_healthy_one_joined():
    done = run_python("""
    if __name__ == "__main__":
        threadsafe_timeout.install(grace=30)
        process, _ = start(ends_politely)
        with move_on_after(0.01) as scope:
            process.join()
        assert scope.cancelled_caught
        start(healthy)
    """)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "asked to end", "finished"]
    assert "left running were ended, so that the program can exit: SpawnProcess-1 (pid " in done.stderr


@pytest.mark.parametrize("options", ["", "daemon=True", "context=multiprocessing.get_context('fork')"])
def test_a_process_that_ignores_sigterm_is_killed_at_exit_with_its_children(options):
    done = run_python(f"""
    if __name__ == "__main__":
        process, pids = start(ignores, {options})
        with move_on_after(0.01) as scope:
            process.join()
        say(f"{{pids[0]}} {{pids[1]}}")
    """)
    assert done.returncode == 0, done.stderr
    for pid in map(int, done.stdout.split()):
        wait_until_over(pid)


def wait_until_over(pid: int) -> None:
    """One that was killed may take a moment."""
    until = time.monotonic() + BOUND
    while (found := status(pid)) is not None and found.running and found.name in {"sleep", "python", "sh"}:
        assert time.monotonic() < until, f"process {pid} lives on"
        time.sleep(0.01)


def test_a_process_whose_join_was_cut_short_and_that_was_joined_later_is_no_matter():
    done = run_python("""
    if __name__ == "__main__":
        process, _ = start(healthy)
        with move_on_after(0.001):
            process.join()
        process.join()
        process.close()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "finished\n", "")


def test_a_kept_process_is_joined_at_exit():
    done = run_python("""
    if __name__ == "__main__":
        process, _ = start(healthy)
        threadsafe_timeout.keep_process(process)
        with move_on_after(0.001):
            process.join()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "finished\n", "")


def test_an_executor_of_everybodys_ends_once_it_has_only_work_of_tasks_that_are_over():
    done = run_python("""
    def stuck():
        time.sleep(300)
    def short():
        time.sleep(0.5)
        say("finished")
    if __name__ == "__main__":
        executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=SPAWN)
        executor.submit(int).result()
        pool = concurrent.futures.ThreadPoolExecutor(1)
        reached = threading.Event()
        def task():
            waited_for = executor.submit(stuck)
            reached.set()
            waited_for.result()
        future = pool.submit(task)
        reached.wait()
        future.cancel()
        assert isinstance(future.exception(), threadsafe_timeout.DeadlineExceeded)
        executor.submit(short)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "finished\n"
    assert "workers that were busy for tasks that had been given up were ended" in done.stderr


def test_ctrl_c_ends_the_processes_of_what_was_running(tmp_path):
    code = """
    if __name__ == "__main__":
        def task():
            child = subprocess.Popen("echo $$; exec sleep 300", shell=True, stdout=subprocess.PIPE)
            threading.Thread(target=tell, args=child.stdout.readline().decode().split(), daemon=True).start()
            child.stdout.read()
        def tell(pid):
            asleep.wait_until_asleep()  # a task that is interrupted before it reads is not stuck in its process
            say(pid)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(task).result()
    """
    path = tmp_path / "program.py"
    path.write_text(PREAMBLE + textwrap.dedent(code))
    with subprocess.Popen(
        [sys.executable, str(path)],
        env={**os.environ, **ON_PATH}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        pid = int(program.stdout.readline())
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=BOUND)
    assert program.returncode == -signal.SIGINT
    assert b"interrupted while 1 tasks were running" in err
    wait_until_over(pid)


def test_a_program_that_gives_up_takes_the_processes_of_its_tasks_with_it():
    done = run_python("""
    if __name__ == "__main__":
        threadsafe_timeout.install(on_exhausted="exit", max_abandoned=0)
        pool, up, never = concurrent.futures.ThreadPoolExecutor(2), threading.Event(), threading.Lock()
        never.acquire()
        def healthy():
            child = subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            say(str(child.pid))
            up.set()
            never.acquire()
        pool.submit(healthy)
        up.wait()
        pool.with_options(timeout=0.1).submit(never.acquire).exception()
        time.sleep(300)
    """)
    assert done.returncode == 75, done.stderr
    wait_until_over(int(done.stdout))


# In this process


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with patched(checkpoint="off"), ThreadPoolExecutor(1, grace=0.1) as pool:
        yield pool


@pytest.fixture
def patient() -> Iterator[ThreadPoolExecutor]:
    """One that gives a thread the time to come back, on a busy machine."""
    with patched(checkpoint="off"), ThreadPoolExecutor(1, grace=3) as pool:
        yield pool


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "300"])
    yield child
    child.kill()
    child.wait()


def cancelled(pool: ThreadPoolExecutor, function: Callable[[threading.Event], object]) -> BaseException | None:
    """Submit it, cancel it once it has set its event, and say what it failed with."""
    reached = threading.Event()
    future = pool.submit(function, reached)
    assert reached.wait(BOUND)
    process_scripts.wait_until_stuck(function.__code__, time.monotonic() + BOUND)
    future.cancel()
    return future.exception(BOUND)


def test_the_exit_status_is_there_for_who_waits_and_no_zombie_is_left(pool):
    held = []

    def task(reached):
        held.append(subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE))
        reached.set()
        held[0].stdout.read()

    assert isinstance(cancelled(pool, task), DeadlineExceeded)
    until = time.monotonic() + BOUND
    while status(held[0].pid) is not None:
        assert time.monotonic() < until, "it was not reaped"
        time.sleep(0.001)
    assert held[0].returncode == held[0].wait() == -signal.SIGKILL
    held[0].stdout.close()


def test_what_a_task_made_of_the_broken_pipe_is_the_cause(pool):
    def task(reached):
        with subprocess.Popen("echo '['; exec sleep 300", shell=True, stdout=subprocess.PIPE) as child:
            reached.set()
            return json.load(child.stdout)

    error = cancelled(pool, task)
    assert isinstance(error, DeadlineExceeded)
    assert error.__cause__ is None or isinstance(error.__cause__, (json.JSONDecodeError, Cancelled))


def test_a_task_that_ends_in_time_leaves_its_processes_alone(pool, child):
    def task():
        return subprocess.Popen(["sleep", "300"])

    def fails():
        task_child.append(subprocess.Popen(["sleep", "300"]))
        raise LookupError

    task_child = [pool.submit(task).result()]
    assert isinstance(pool.submit(fails).exception(), LookupError)
    assert isinstance(cancelled(pool, lambda reached: (reached.set(), threading.Event().wait())), DeadlineExceeded)
    for one in task_child:
        assert one.poll() is None
        one.kill()
        one.wait()


def test_events_name_the_processes(patient):
    events = []
    with patient.on_event(events.append):

        def task(reached):
            with subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE) as child:
                pids.append(child.pid)
                reached.set()
                child.stdout.read()

        pids = []
        cancelled(patient, task)
        patient.shutdown()
    kinds = [event.kind for event in events]
    assert kinds == ["overdue", "interrupting", "processes"]
    assert events[-1].pids == tuple(pids)
    assert "task" in events[-1].task


STARTS = {
    "Popen": lambda: subprocess.Popen(["sleep", "300"]),
    "posix_spawn": lambda: os.posix_spawnp("sleep", ["sleep", "300"], os.environ),
    "Process": multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,)).start,
    "fork": lambda: os.fork() or os._exit(0),
    "system": lambda: os.system("sleep 300"),
}


@pytest.mark.parametrize("shielded", [False, True], ids=["", "shielded"])
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_thread_that_was_given_up_starts_no_process(pool, start, shielded):
    gate, late, started = threading.Lock(), queue.SimpleQueue(), []
    gate.acquire()

    def task(reached):
        with shield(BOUND) if shielded else contextlib.nullcontext():
            reached.set()
            # In one line: an interrupt comes between lines.
            started.append((gate.acquire(), start()))

    before = set(_process_tree._children(os.getpid()))
    with pool.on_event(lambda event: late.put(event) if event.kind == "late" else None):
        assert isinstance(cancelled(pool, task), DeadlineExceeded)
        gate.release()
        assert isinstance(late.get(timeout=BOUND).outcome.error, DeadlineExceeded)
    assert not started
    assert set(_process_tree._children(os.getpid())) <= before


def test_one_that_is_started_as_the_task_is_given_up_ends_too(pool, monkeypatch):
    original, started = subprocess.Popen._execute_child, []
    reached, gate = threading.Event(), threading.Lock()
    gate.acquire()

    def execute(self, *args):
        original(self, *args)
        started.append(self)
        reached.set()
        gate.acquire()  # until it was given up

    monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    future = pool.submit(lambda: subprocess.Popen(["sleep", "300"]))
    assert reached.wait(BOUND)
    future.cancel()
    assert isinstance(future.exception(BOUND), DeadlineExceeded)
    assert pool.stats()["abandoned"] == 1
    assert started[0].poll() is None
    gate.release()
    assert started[0].wait(BOUND) == -signal.SIGKILL


def test_os_system_ends_with_its_scope(patient, tmp_path):
    commands = ["exit 3", b"kill -9 $$", Path("true"), "exit 0"]
    outside = [os.system(command) for command in commands]
    assert patient.submit(lambda: [os.system(command) for command in commands]).result() == outside
    assert isinstance(patient.submit(os.system, "a\0b").exception(), ValueError)
    assert isinstance(patient.submit(os.system, 1).exception(), TypeError)
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    future = patient.submit(os.system, f"echo $$ > {fifo}; exec sleep 300")
    pid = int(fifo.read_text())
    began = status(pid).started
    future.cancel()
    assert isinstance(future.exception(BOUND), DeadlineExceeded)
    assert patient.stats()["abandoned"] == 0
    assert not is_running(pid, began)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("fork", ["fork", "forkpty"])
def test_threads_may_fork_at_the_same_time(fork):
    """Although filelock is there, which has that fail."""
    assert "filelock" in sys.modules

    def start(_):
        result = getattr(os, fork)()
        pid, terminal = result if fork == "forkpty" else (result, None)
        if not pid:
            os._exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if terminal is not None:
            os.close(terminal)
        return code

    with patched(checkpoint="off"), ThreadPoolExecutor(4) as pool:
        assert {*pool.map(start, range(100))} == {7}


def test_everything_is_the_original_again_afterwards():
    import concurrent.futures.process
    import multiprocessing.pool
    import multiprocessing.queues

    owners = [os, subprocess.Popen, multiprocessing.Process, multiprocessing.process.BaseProcess]
    owners += [multiprocessing.pool.Pool, multiprocessing.queues.Queue, concurrent.futures.process.ProcessPoolExecutor]
    before = [dict(vars(owner)) for owner in owners]
    with patched(checkpoint="off"):
        assert [dict(vars(owner)) for owner in owners] != before
    assert [dict(vars(owner)) for owner in owners] == before


def test_another_process_with_the_same_number_is_not_killed(child):
    began = status(child.pid).started
    assert not kill_tree(child.pid, started=began + 1)
    assert is_running(child.pid, began)
    assert kill_tree(child.pid, started=began)
    assert child.wait(BOUND) == -signal.SIGKILL
    assert not kill_tree(child.pid, started=began)


def test_without_descriptors_for_processes_it_is_the_same(child, monkeypatch):
    without = {name: value for name, value in vars(os).items() if name != "pidfd_open"}
    monkeypatch.setattr(_process_tree, "os", types.SimpleNamespace(**without))  # others use it as well
    test_another_process_with_the_same_number_is_not_killed(child)


def test_without_proc_what_has_an_object_ends(patient, monkeypatch):
    """As on macOS."""
    for module in (_children, _process_tree, _started):
        monkeypatch.setattr(module, "status", lambda pid: None)
    monkeypatch.setattr(_children, "HAS_PROC", False)
    monkeypatch.setattr(_process_tree, "_children", lambda pid: [])

    def task(reached):
        with subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE) as child:
            reached.set()
            child.stdout.read()

    assert isinstance(cancelled(patient, task), DeadlineExceeded)
    assert patient.stats()["abandoned"] == 0


@pytest.mark.parametrize(
    ("process", "error", "words"),
    [
        ("12", TypeError, "must be a Popen, a Process"),
        (True, TypeError, "must be a Popen, a Process"),
        (0, ValueError, "> 0"),
        (-1, ValueError, "> 0"),
        (multiprocessing.Process(), ValueError, "after its start"),
    ],
)
def test_keep_process_names_what_it_cannot_keep(process, error, words):
    with pytest.raises(error, match=words):
        keep_process(process)
