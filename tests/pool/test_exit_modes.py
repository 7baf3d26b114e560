"""How a process ends while tasks of a pool are stuck, healthy, or both: it does, with the exit code it would have had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from asleep import ON_PATH

BOUND = 120.0  # seconds any of this may take on a busy machine
PRELUDES = {
    "auto": "import threadsafe_timeout.auto; from concurrent.futures import ThreadPoolExecutor",
    "class": "from threadsafe_timeout import ThreadPoolExecutor",
}
COMMON = """
import os, signal, sys, threading, time
from asleep import wait_until_asleep
from concurrent.futures import as_completed
never = threading.Lock()  # what nobody is woken from
never.acquire()
def acquire():  # no interrupt strikes in a function of this name, not on the way to the wait either
    never.acquire()
stuck_here = acquire
def say(text):
    os.write(1, f"{text}\\n".encode())  # in one piece: other threads write too
def nested(depth):
    if not depth:
        return stuck_here()
    with ThreadPoolExecutor(1) as inner:
        return inner.submit(nested, depth - 1).result()
def watch():
    wait_until_asleep()
    print("running", flush=True)
def say_when_all_wait():
    threading.Thread(target=watch, daemon=True).start()
def healthy():
    started.set()
    time.sleep(0.6)  # longer than the stuck ones are given
    say("finished")
started = threading.Event()
def pool(width=4, **options):
    return ThreadPoolExecutor(width, **{"task_timeout": 0.1, "grace": 0.05, **options})
"""

pytestmark = pytest.mark.parametrize("prelude", PRELUDES.values(), ids=PRELUDES)


def start(prelude: str, code: str) -> subprocess.Popen[str]:
    whole = "\n".join((prelude, COMMON, textwrap.dedent(code)))
    return subprocess.Popen(
        [sys.executable, "-c", whole],
        env={**ON_PATH, "THREADSAFE_TIMEOUT_CHECKPOINT": "off", "THREADSAFE_TIMEOUT_STATUS_DIR": "off"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; a child that does not end fails the test with what it had to say."""
    try:
        out, err = child.communicate(timeout=BOUND)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        pytest.fail(f"the process did not end; it said: {out}{err}")
    return child.returncode, out, err


def run(prelude: str, code: str) -> tuple[int, str, str]:
    return outcome(start(prelude, code))


def test_sys_exit_with_stuck_tasks(prelude):
    code, _, err = run(prelude, """
        futures = [pool().submit(stuck_here) for _ in range(4)]
        sys.exit(3)
    """)  # fmt: skip
    assert code == 3
    assert err.count("was given up") == 4
    assert "in acquire" in err
    assert "Traceback" not in err


def test_an_unhandled_exception_with_stuck_tasks(prelude):
    code, _, err = run(prelude, """
        p = pool()
        futures = [p.submit(stuck_here) for _ in range(4)]
        raise ValueError("the program's own")
    """)  # fmt: skip
    assert code == 1
    assert "ValueError: the program's own" in err
    assert err.count("was given up") == 4


def test_the_end_of_main_waits_for_healthy_tasks_and_not_for_stuck_ones(prelude):
    code, out, err = run(prelude, """
        p = pool()
        futures = [p.submit(stuck_here) for _ in range(3)] + [p.with_options(timeout=60).submit(healthy)]
        settled = []
        for future in futures:
            future.add_done_callback(lambda future: say(type(future.exception()).__name__))
    """)  # fmt: skip
    assert code == 0
    assert sorted(out.split()) == ["DeadlineExceeded"] * 3 + ["NoneType", "finished"]
    assert err.count("was given up") == 3


def test_a_shut_down_pool_is_waited_for_at_the_end_as_ever(prelude):
    code, out, _ = run(prelude, """
        p = pool(task_timeout=None)
        p.submit(healthy)
        p.shutdown(wait=False)
    """)  # fmt: skip
    assert (code, out) == (0, "finished\n")


def test_nested_pools_inside_a_stuck_task(prelude):
    code, out, err = run(prelude, """
        with pool() as p:
            futures = [p.submit(nested, depth) for depth in (1, 2)]
        print(*[type(future.exception()).__name__ for future in futures])
    """)  # fmt: skip
    assert (code, out) == (0, "DeadlineExceeded DeadlineExceeded\n"), err


def test_a_pool_left_open_in_a_thread_of_the_programs_own(prelude):
    code, out, err = run(prelude, """
        def serve():
            global p
            p = pool()
            p.submit(stuck_here)
            p.submit(nested, 1)
            started.set()
        threading.Thread(target=serve, daemon=True).start()
        started.wait()
        print("end")
    """)  # fmt: skip
    assert (code, out) == (0, "end\n"), err


def test_os_exit_is_not_held_up(prelude):
    code, out, _ = run(prelude, """
        p = pool(task_timeout=None)
        futures = [p.submit(stuck_here) for _ in range(4)]
        os._exit(7)
    """)  # fmt: skip
    assert (code, out) == (7, "")


CHATTER = """
    import atexit
    atexit.register(lambda: print("\\nlast words"))
    def chatter():
        while True:
            try:
                sys.stdout.write("x" * 10000 + "\\n")
            except:
                pass
    with pool(task_timeout=0.05, grace=0.02) as p:
        futures = [p.submit(chatter) for _ in range(3)]
    sys.stdout.write("unfinished")
"""


def test_an_abandoned_thread_that_writes_does_not_crash_the_exit(prelude):
    """At the end of the interpreter a daemon thread that holds a stream's buffer is a fatal error."""
    code, out, err = run(prelude, CHATTER)
    assert code == 0, err[-2000:]
    assert "\nlast words" in out
    assert "unfinished" in out


@pytest.mark.stress
@pytest.mark.parametrize("errors", ["stdout", pytest.param("stderr", marks=pytest.mark.long)])
def test_abandoned_threads_that_write_do_not_crash_an_exit_in_a_hundred(prelude, errors):
    for _ in range(50):
        code, out, err = run(prelude, CHATTER.replace("sys.stdout", f"sys.{errors}"))
        assert code == 0, err[-2000:]
        assert "last words" in out


INTERRUPTED = {
    "as_completed": """
        with pool(task_timeout=None) as p:
            futures = [p.submit(stuck_here) for _ in range(4)] + [p.submit(time.sleep, 60)]
            say_when_all_wait()
            for future in as_completed(futures):
                pass
    """,
    "leaving the block": """
        with pool(task_timeout=None) as p:
            futures = [p.submit(stuck_here) for _ in range(4)]
            say_when_all_wait()
    """,
    "no block": """
        p = pool(task_timeout=None)
        futures = [p.submit(stuck_here) for _ in range(4)]
        say_when_all_wait()
        futures[0].result()
    """,
    "nested": """
        with pool(task_timeout=None) as p:
            future = p.submit(nested, 2)
            say_when_all_wait()
            future.result()
    """,
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_ctrl_c_ends_the_run_and_names_what_was_running(prelude, where):
    child = start(prelude, INTERRUPTED[where])
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    child.send_signal(signal.SIGINT)
    code, _, err = outcome(child)
    assert code == -signal.SIGINT, err  # what a shell shows as 130
    assert "KeyboardInterrupt" in err
    assert ("nested" if where == "nested" else "acquire") in err.split("interrupted while", 1)[1].splitlines()[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_deadly_signal_is_deadly(prelude, number):
    child = start(prelude, INTERRUPTED["as_completed"])
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    child.send_signal(number)
    assert outcome(child)[0] == -number


def test_a_handler_that_exits_on_sigterm_is_not_held_up_by_stuck_tasks(prelude):
    child = start(prelude, """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        p = pool()
        futures = [p.submit(stuck_here) for _ in range(4)]
        say_when_all_wait()
        threading.Event().wait()
    """)  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    child.send_signal(signal.SIGTERM)
    assert outcome(child)[0] == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_exits_and_has_a_pool_of_its_own(prelude):
    """It has none of its parent's threads: it waits for none, and what is submitted there runs there."""
    code, out, err = run(prelude, """
        import multiprocessing, warnings
        warnings.simplefilter("ignore")  # 3.12 warns of forking a process with threads
        p = pool(task_timeout=None)
        p.submit(int).result()
        p.submit(stuck_here)
        def in_child():
            print(p.submit(int, "7").result(120), flush=True)
        child = multiprocessing.get_context("fork").Process(target=in_child)
        child.start()
        child.join(120)
        print(child.exitcode)
        if child.exitcode is None:
            child.kill()
        never.release()
    """)  # fmt: skip
    assert (code, out) == (0, "7\n0\n"), err
