"""What becomes of the processes that tasks have started when the program exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from asleep import ON_PATH
from bounds import BOUND
from conditions import until_ended

from threadsafe_timeout._processes.tree import HAS_PROC

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="looks at /proc")


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
        until_ended(pid)


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
    until_ended(pid)


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
    until_ended(int(done.stdout))
