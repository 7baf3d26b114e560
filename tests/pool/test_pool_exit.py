"""How a pool, and a process that has one, end: in every way there is, with healthy, overdue and stuck tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from asleep import ON_PATH

from threadsafe_timeout import ThreadPoolExecutor

LONG = 60
PREAMBLE = """
import atexit, logging, os, signal, sys, threading, time
import asleep
from concurrent.futures import as_completed, wait
from threadsafe_timeout import ThreadPoolExecutor, sleep
def acquire():  # no interrupt strikes in a function of this name, not on the way to the wait either
    running.set()
    threading.Event().wait()
stuck = acquire
running = threading.Event()
"""


def run_python(code: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env={**os.environ, **ON_PATH}, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def interrupt_python(code: str, signals: int = 1) -> tuple[int, str, str, float]:
    """Run `code` until it prints `ready`, send SIGINT; status, output, errors, seconds from the signal to the end."""
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env={**os.environ, **ON_PATH}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "ready\n"
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
            return process.returncode, out, err, time.monotonic() - began
        finally:
            process.kill()


# Ctrl-C


@pytest.mark.parametrize(
    ("body", "ready"),
    [
        ("with pool: futures = start(); [future.result() for future in futures]", "futures[0]._condition.waiting"),
        ("with pool: futures = start(); list(as_completed(futures))", "futures[3]._condition.installed"),
        ("with pool: futures = start(); wait(futures)", "futures[3]._condition.installed"),
        ("with pool: start()", "pool._crew.closed"),  # in its __exit__
        ("futures = start(); futures[0].result()", "futures[0]._condition.waiting"),  # at the interpreter's exit
        ("start()", "pool._crew.closed"),  # during it
        ("start(); pool.shutdown()", "pool._crew.closed"),
    ],
)
def test_ctrl_c_ends_a_run_and_names_what_was_running(body, ready):
    code = f"""
    pool = ThreadPoolExecutor(2, grace=300)
    def start():
        both = threading.Barrier(3)
        def stuck():
            both.wait()
            threading.Event().wait()
        global futures
        futures = [pool.with_options(name="the stuck one").submit(stuck) for _ in range(4)]
        both.wait()
        threading.Thread(target=tell).start()
        return futures
    def tell():
        while not {ready}:
            time.sleep(0.01)
        asleep.wait_until_asleep(asleep.main_thread)
        print("ready", flush=True)
    {body}
    """
    status, _out, err, seconds = interrupt_python(code)
    assert (status == 0) == (body == "start()"), "the interpreter itself takes no notice of one at its exit"
    assert "the stuck one" in err
    assert "interrupted while 2 tasks were running" in err
    assert seconds < 200, "a second, on a machine that has nothing else to do; two graces are ten minutes"


def test_tasks_that_can_end_do_so_on_ctrl_c():
    code = """
    def task():
        try:
            running.set()
            sleep(60)
        finally:
            print("cleaned up", flush=True)
    def tell():
        running.wait()
        asleep.wait_until_asleep(asleep.main_thread)
        print("ready", flush=True)
    import threadsafe_timeout._pool.exit
    threadsafe_timeout._pool.exit.INTERRUPTED_WAIT = 100  # however long a slow machine takes
    with ThreadPoolExecutor(1, grace=30) as pool:
        future = pool.submit(task)
        threading.Thread(target=tell).start()
        future.result()
    """
    status, out, _err, _seconds = interrupt_python(code)
    assert status != 0
    assert out == "cleaned up\n"


def test_sigterm_kills_as_ever():
    code = """
    pool = ThreadPoolExecutor(1)
    pool.submit(stuck)
    running.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    """
    assert run_python(code).returncode == -signal.SIGTERM


def test_sigterm_with_a_handler_that_exits_waits_for_no_overdue_task():
    code = """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    with ThreadPoolExecutor(1, task_timeout=0.05, grace=0.1) as pool:
        pool.submit(stuck)
        running.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    """
    assert run_python(code).returncode == 7


# The other ways


@pytest.mark.parametrize(
    ("ending", "status"), [("sys.exit(3)", 3), ("raise ValueError('out')", 1), ("pass", 0), ("os._exit(4)", 4)]
)
@pytest.mark.parametrize("place", ["with pool:", "if True:"])
def test_a_process_with_stuck_threads_ends(ending, status, place):
    code = f"""
    pool = ThreadPoolExecutor(2, task_timeout=0.05, grace=0.05)
    {place}
        futures = [pool.submit(stuck) for _ in range(2)]
        running.wait()
        {ending}
    """
    done = run_python(code)
    assert done.returncode == status
    assert ("ValueError: out" in done.stderr) == (status == 1)


def test_at_exit_healthy_tasks_end_and_overdue_ones_are_given_up_with_their_stacks():
    code = """
    logging.basicConfig()
    pool = ThreadPoolExecutor(3, grace=30)
    other = pool.with_options(name="overdue").submit(stuck)
    running.wait()
    other.cancel()
    pool.submit(lambda: (time.sleep(0.3), print("healthy", flush=True)))
    """
    done = run_python(code)
    assert (done.returncode, done.stdout) == (0, "healthy\n")
    assert "task overdue was given up" in done.stderr
    assert "threading.Event().wait()" in done.stderr or "in acquire" in done.stderr


def test_submit_at_interpreter_exit_and_from_a_task_then():
    code = """
    pool, second = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    def late():
        while not (pool._crew.closed and second._crew.closed):  # by the exit
            time.sleep(0.01)
        for target in (pool, second, ThreadPoolExecutor(1)):
            try:
                target.submit(int)
            except RuntimeError as exc:
                print(exc, flush=True)
    second.submit(int).result()
    pool.submit(late)
    """
    done = run_python(code)
    assert done.stdout == "cannot schedule new futures after interpreter shutdown\n" * 3, done.stderr


def test_submit_after_shutdown_is_refused_in_the_standard_words():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(int)


def test_shutdown_with_a_timeout_is_bounded_and_stops_nothing(gate):
    pool = ThreadPoolExecutor(1)
    future = pool.submit(gate.wait, LONG)
    pool.shutdown(timeout=0.05)
    assert not future.done()
    gate.set()
    assert future.result(120) is True
    pool.shutdown()


def test_shutdown_and_cancel_futures_wakes_who_waits_for_them(gate):
    pool = ThreadPoolExecutor(1)
    pool.submit(gate.wait, LONG)
    pending = [pool.submit(int) for _ in range(3)]
    woken = threading.Event()

    def wait_for_them():
        import concurrent.futures

        if concurrent.futures.wait(pending, 120).not_done == set():
            woken.set()

    waiter = threading.Thread(target=wait_for_them)
    waiter.start()
    pool.shutdown(wait=False, cancel_futures=True)
    assert woken.wait(120), "the standard pool leaves it waiting until a worker comes by"
    waiter.join()
    gate.set()
    pool.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_its_own_workers_and_ends():
    code = """
    import multiprocessing
    pool = ThreadPoolExecutor(2)
    def child():
        print(pool.submit(int, "7").result(120), pool.stats()["workers"], flush=True)
    pool.submit(threading.Event().wait, 0.5)
    futures = [pool.submit(int) for _ in range(3)]
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    print(process.exitcode, flush=True)
    """
    done = run_python(code)
    assert done.stdout == "7 1\n0\n", done.stderr


# on_exhausted


def test_an_exhausted_pool_may_end_the_process_for_a_supervisor(tmp_path):
    code = f"""
    import pathlib
    logging.basicConfig(level=logging.INFO)
    atexit.register(print, "atexit must not run: a stuck thread may hold what it needs")
    out = pathlib.Path({str(tmp_path / "settled")!r})
    def settle(outcome):
        with out.open("a") as file:
            file.write(type(outcome.error).__name__ + "\\n")
    pool = ThreadPoolExecutor(2, grace=0.05, max_abandoned=1, on_exhausted="exit")
    print("buffered")
    healthy = pool.with_options(name="healthy").submit(stuck)
    for number in range(3):
        pool.with_options(name=f"stuck {{number}}", timeout=0.05, settle=settle).submit(stuck)
    healthy.result()
    """
    done = run_python(code)
    assert done.returncode == 75, done.stderr
    assert done.stdout == "buffered\n"
    assert (tmp_path / "settled").read_text().splitlines()[:2] == ["DeadlineExceeded"] * 2
    for text in ("max_abandoned is 1", "task healthy was running here", "leaving the process with status 75"):
        assert text in done.stderr


def test_the_setting_does_the_same():
    code = """
    import threadsafe_timeout
    threadsafe_timeout.install(on_exhausted="exit", grace=0.05, max_abandoned=0, task_timeout=0.05)
    from concurrent.futures import ThreadPoolExecutor
    lock = threading.Lock()
    lock.acquire()
    ThreadPoolExecutor(1).submit(lock.acquire).exception()  # a bare lock: nothing wakes it
    time.sleep(60)
    """
    assert run_python(code).returncode == 75


def test_on_exhausted_is_checked():
    with pytest.raises(ValueError, match="on_exhausted"):
        ThreadPoolExecutor(1, on_exhausted="explode")
