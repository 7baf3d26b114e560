"""The suites of other timeout packages, on our implementation of their APIs.

stopit's README and func_timeout's tests come with their source distributions, which are downloaded when these tests run.
timeout-decorator's has none: what its tests try is tried here in other words.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import pytest

from threadsafe_timeout import ThreadPoolExecutor, patched
from threadsafe_timeout._interruption import pursuit as _pursuit

# Tests of func_timeout's that wait until the process has one thread. Ours has the one that watches deadlines.
COUNT_THREADS = ("test_retry", "test_setFuncTimeoutetry")
# They compare times that they have measured with what a machine takes that has nothing else to do.
LATER_IS_FINE = """
import TestUtils
compare = TestUtils.compareTimes
def compare_or_later(end, start, expected, *more, **options):
    tolerant = {0.1, 0.15} & {*more, *options.values()}
    late = end - start - expected
    return 0 if tolerant and 0 <= late < 60 else compare(end, start, expected, *more, **options)
TestUtils.compareTimes = compare_or_later
"""
interrupts = pytest.mark.skipif(_pursuit.support().mechanism is None, reason="a Python loop is not interrupted here")


def source_of(requirement: str, folder: Path) -> Path:
    """Its unpacked source distribution."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder, requirement],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        pytest.skip(f"{requirement} could not be downloaded: {done.stderr[-300:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(one for one in folder.iterdir() if one.is_dir())


@pytest.mark.stress
@pytest.mark.timeout(580)
@interrupts
@pytest.mark.parametrize("kind", ["ThreadingTimeout, threading_timeoutable", "SignalTimeout, signal_timeoutable"])
def test_stopits_readme_in_a_worker_thread(kind, tmp_path):
    readme = source_of("stopit==1.1.2", tmp_path) / "README.rst"
    # Its limits are in seconds of a machine that has nothing else to do.
    readme.write_text(re.sub(r"(time\.time\(\) - start_time <) [0-9.]+", r"\1 60", readme.read_text("utf-8")), "utf-8")
    timeout, timeoutable = kind.split(", ")
    code = f"""
        import doctest, sys, threading
        import threadsafe_timeout
        from threadsafe_timeout_legacy import stopit
        threadsafe_timeout.install(checkpoint="off")
        sys.modules["stopit"] = stopit
        results = []
        def run():
            names = dict(threading=threading, Timeout=stopit.{timeout}, timeoutable=stopit.{timeoutable})
            results.append(doctest.testfile({str(readme)!r}, module_relative=False, globs=names))
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        print(results[0].failed, results[0].attempted)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=200, check=False
    )
    failed, attempted = done.stdout.splitlines()[-1].split()
    assert failed == "0", done.stdout
    assert int(attempted) > 30


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_func_timeouts_own_suite(tmp_path):
    tests = source_of("func_timeout==4.3.5", tmp_path) / "tests" / "FuncTimeoutTests"
    (tests / "conftest.py").write_text(
        "import sys\nfrom threadsafe_timeout_legacy import func_timeout\n"
        "import threadsafe_timeout_legacy.func_timeout.exceptions, threadsafe_timeout_legacy.func_timeout.dafunc\n"
        "for name in list(sys.modules):\n"
        "    if name.startswith('threadsafe_timeout_legacy.func_timeout'):\n"
        "        sys.modules[name.removeprefix('threadsafe_timeout_legacy.')] = sys.modules[name]\n" + LATER_IS_FINE
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:xdist", "-c", "/dev/null", "--rootdir",
            str(tests), str(tests), "-k", " and ".join(f"not {name}" for name in COUNT_THREADS),
        ],
        capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "14 passed, 3 deselected" in done.stdout


# timeout-decorator's tests, in a worker thread


@pytest.fixture
def decorator():
    if not hasattr(signal, "SIGALRM"):
        pytest.skip("no SIGALRM here")
    import timeout_decorator
    with patched(checkpoint="off"), ThreadPoolExecutor(1) as pool:
        timeout_decorator.in_a_worker = lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result(120)
        yield timeout_decorator
    del timeout_decorator.in_a_worker


def test_timeout_decorator_by_its_argument(decorator):
    @decorator.timeout(seconds=0.05)
    def slow():
        time.sleep(30)

    with pytest.raises(decorator.TimeoutError, match="Timed Out"):
        decorator.in_a_worker(slow)


def test_timeout_decorator_by_a_keyword_of_the_call(decorator):
    @decorator.timeout()
    def slow(seconds):
        time.sleep(seconds)
        return "done"

    with pytest.raises(decorator.TimeoutError):
        decorator.in_a_worker(slow, 30, timeout=0.05)
    assert decorator.in_a_worker(slow, 0) == "done"
    overridden = decorator.timeout(0.01)(lambda: time.sleep(0.1) or "done")
    assert decorator.in_a_worker(overridden, timeout=30) == "done"


def test_timeout_decorator_in_time(decorator):
    @decorator.timeout(seconds=30)
    def quick():
        """Its text."""
        return "done"

    assert decorator.in_a_worker(quick) == "done"
    assert (quick.__name__, quick.__doc__) == ("quick", "Its text.")


def test_timeout_decorator_with_another_exception_and_a_message(decorator):
    for options, expected, match in (
        ({"timeout_exception": StopIteration}, StopIteration, "^$"),
        ({"timeout_exception": OSError, "exception_message": "too slow"}, OSError, "too slow"),
        ({"exception_message": "too slow"}, decorator.TimeoutError, "too slow"),
    ):
        limited = decorator.timeout(0.05, **options)(lambda: time.sleep(30))
        with pytest.raises(expected, match=match):
            decorator.in_a_worker(limited)


def test_timeout_decorator_without_a_limit(decorator):
    assert decorator.in_a_worker(decorator.timeout(None)(lambda: "done")) == "done"
    assert decorator.in_a_worker(decorator.timeout(0)(lambda: "done")) == "done"


@interrupts
def test_timeout_decorator_around_a_loop_and_one_in_another(decorator):
    @decorator.timeout(0.05)
    def inner():
        while True:
            pass

    @decorator.timeout(30)
    def outer():
        try:
            inner()
        except decorator.TimeoutError:
            return "the inner one"

    assert decorator.in_a_worker(outer) == "the inner one"


def test_timeout_decorator_on_a_method_with_a_callers_error(decorator):
    class Runner:
        @decorator.timeout(30)
        def fail(self, error):
            raise error

    with pytest.raises(KeyError, match="of its own"):
        decorator.in_a_worker(Runner().fail, KeyError("of its own"))
