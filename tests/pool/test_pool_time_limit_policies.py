"""What `on_expired_wait` says of a pool that is left, in a whole program too, and what the pool finds out for it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import subprocess
import sys
import textwrap
import threading

import pytest
from left import SOON

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor
from threadsafe_timeout._pool.liveness import still_read


def single(task, width, tasks):
    with task.pool(width, on_expired_wait="single") as pool:
        futures = [pool.submit(task) for _ in range(tasks)]
        concurrent.futures.wait(futures, SOON)
    return pool.stats()["abandoned"]


def test_single_is_about_one_worker_with_one_task(task):
    assert single(task, 1, 1) == 1
    threading.Timer(0.3, task.let_go).start()
    assert single(task, 2, 1) == 0
    assert single(task, 1, 2) == 0


def test_a_bad_policy_is_an_error():
    with pytest.raises(ValueError, match="on_expired_wait must be 'cancel', 'single' or 'wait', got 'no'"):
        ThreadPoolExecutor(1, on_expired_wait="no")
    with pytest.raises(threadsafe_timeout.ThreadsafeTimeoutError, match="on_expired_wait: must be one of cancel"):
        threadsafe_timeout.install(on_expired_wait="no")


def test_the_future_says_why_it_ended(task):
    futures = []
    with pytest.raises(ZeroDivisionError), task.pool() as pool:
        futures.append(pool.submit(task))
        try:
            futures[0].result(timeout=SOON)
        except TimeoutError:
            raise ZeroDivisionError from None
    error = futures[0].exception(0)
    assert isinstance(error, DeadlineExceeded)
    assert "wait for it had timed out" in str(error)


# Whole programs


def run_python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], input=code, capture_output=True, text=True, timeout=120, check=False, **options
    )


STUCK = """
    import threading
    begun = threading.Event()
    def stuck():
        gate = threading.Lock()
        gate.acquire()
        begun.set()
        gate.acquire()
    def begun_by_now(future):
        begun.wait()  # what has not begun would be cancelled, and not given up
        return future
"""


@pytest.mark.parametrize("how", ["file", "-c"])
def test_at_the_top_of_a_program(how, tmp_path):
    code = textwrap.dedent(
        "import threadsafe_timeout\nthreadsafe_timeout.install(grace=0.05)\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        + textwrap.dedent(STUCK)
        + textwrap.dedent("""
        answers = []
        for question in range(3):
            with ThreadPoolExecutor(max_workers=1) as pool:
                future = pool.submit(stuck)
                try:
                    answers.append(future.result(timeout=0.05))
                except TimeoutError:
                    print("no answer to", question)
                    continue
        print("end")
        """)
    )
    script = tmp_path / "program.py"
    script.write_text(code)
    done = run_python("", *([str(script)] if how == "file" else ["-c", code]))
    assert done.stdout.splitlines() == ["no answer to 0", "no answer to 1", "no answer to 2", "end"], done.stderr
    assert done.returncode == 0


def test_at_the_top_of_a_program_that_fetches_it_later(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import threadsafe_timeout, threading
        threadsafe_timeout.install(grace=0.05)
        from concurrent.futures import ThreadPoolExecutor
        gate = threading.Event()
        def report():
            return future.result()
        with ThreadPoolExecutor(max_workers=1) as pool:
            future = pool.submit(lambda: gate.wait(120) and "late")
            try:
                future.result(timeout=0.05)
            except TimeoutError:
                threading.Timer(0.5, gate.set).start()
        print(report())
        """)
    )
    done = run_python("", str(script))
    assert (done.stdout, done.returncode) == ("late\n", 0), done.stderr


def test_a_program_ends_though_such_a_pool_was_not_waited_for(tmp_path):
    code = textwrap.dedent(
        "import threadsafe_timeout\nthreadsafe_timeout.install(grace=0.05)\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        + textwrap.dedent(STUCK)
        + textwrap.dedent("""
        pool = ThreadPoolExecutor(1)
        try:
            begun_by_now(pool.submit(stuck)).result(timeout=0.05)
        except TimeoutError:
            pool.shutdown(wait=False)
        print("end")
        """)
    )
    done = run_python("", "-c", code)
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr
    assert "its only wait with a timeout had expired" in done.stderr


# What a function still reads


def frame_after(source):
    """The variables that are still read after the line `here()` of a function."""
    names = {}

    def here():
        caller = sys._getframe(1)
        names["read"] = still_read(caller.f_code, caller.f_lasti)

    namespace = {"here": here, "context": contextlib.nullcontext}
    exec(textwrap.dedent(source), namespace)
    namespace["function"]()
    return names["read"]


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("x = 1\n    here()", False),
        ("x = 1\n    here()\n    return x", True),
        ("x = 1\n    here()\n    x = 2\n    return x", False),
        ("x = 1\n    here()\n    del x", False),
        ("x = 1\n    here()\n    if y: return x", True),
        ("x = 1\n    here()\n    if y: x = 2\n    return x", True),
        ("for i in (1, 2):\n        if i == 2: break\n        x = i\n        here()", False),
        ("x = 0\n    for i in (1,):\n        print(x)\n        here()", True),
        ("x = 1\n    try:\n        here()\n        x = 2\n    except KeyError:\n        print(x)", True),
        ("x = 1\n    try:\n        here()\n    finally:\n        x = 2\n        print(x)", False),
        ("x = 1\n    with context():\n        here()\n    return None", False),
        ("x = 1\n    here()\n    return locals()", True),
        ("x = 1\n    f = lambda: x\n    here()\n    return f", False),  # the closure does, which is an object
        ("x = 1\n    def g(): print(x)\n    here()\n    g()\n    return x", True),
        ("x = [1]\n    here()\n    return [i for i in x]", True),
        ("x = [1]\n    here()\n    return [x for x in (1, 2)]", None),
        ("x = 1\n    while True:\n        here()\n        if y: return x\n        x = 2\n        if x: break", True),
        ("x, z = 1, 2\n    here()\n    return z", False),
        ("x, z = 1, 2\n    here()\n    return x, z", True),
    ],
)
def test_what_is_still_read(body, read, capsys):
    found = "x" in frame_after(f"def function(y=0):\n    {body}\n")
    assert read is None or found is read
