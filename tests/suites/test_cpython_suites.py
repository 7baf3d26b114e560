"""CPython's own tests, with this library in place: they pass as they do without it.

Every deviation is in `DEVIATIONS`, with its reason; a listed one that no longer deviates is an error too. Tests that
fail without this library as well, on the machine that runs them, are not held against it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures.thread import ThreadPoolExecutor as StandardThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest


def _is_here(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


pytestmark = [
    pytest.mark.stress,
    pytest.mark.timeout(1200),  # the first test waits for all of them, which run side by side
    pytest.mark.skipif(
        not _is_here("test.test_concurrent_futures.executor"),
        reason="this interpreter comes without the tests of 3.13 and later (test.test_concurrent_futures is not there)",
    ),
]

RUNNER = Path(__file__).with_name("cpython_runner.py")
SIDE_BY_SIDE = 3  # processes: most of these tests wait most of the time
SECONDS = 500  # for one process; on a quiet machine the longest takes an eighth of it


@dataclass(frozen=True)
class Suite:
    """Some of CPython's tests and what they run on; see `cpython_runner.SETUPS`."""

    setup: str
    names: Sequence[str]
    only: Sequence[str] = ()
    skip: Sequence[str] = ()


FUTURES = [f"test_concurrent_futures.{name}" for name in ("test_thread_pool", "test_init", "test_shutdown")]
WAITS = [f"test_concurrent_futures.{name}" for name in ("test_wait", "test_as_completed", "test_future")]
THREADS_ONLY = ("*.ThreadPool*", "*.FutureTests.*")

# The longest first: they run side by side.
SUITES = {
    "socket": Suite(
        "installed",
        ["test_socket"],
        # Other transports than TCP and Unix; large transfers that wait for their time to pass, with threads of their own.
        skip=("*VSOCK*", "*.ALG*", "*CAN*", "*RDS*", "*TIPC*", "*Bluetooth*", "*Sendmsg*SCTP*", "*UDPLITE*"),
    ),
    "signal": Suite("installed", ["test_signal", "test_threadsignals"]),
    "subprocess": Suite("installed", ["test_subprocess"], skip=("*NoPoll*",)),
    "ssl": Suite("installed", ["test_ssl.ThreadedTests"], skip=("*test_check_hostname_idn",)),
    "threading": Suite("installed", ["test_threading", "test_thread", "test_threading_local"]),
    "select": Suite("installed", ["test_selectors", "test_select", "test_poll", "test_epoll"]),
    "futures, installed": Suite("installed", FUTURES, THREADS_ONLY),
    "waits, installed": Suite("installed", WAITS, THREADS_ONLY),
    "futures": Suite("pool", FUTURES, THREADS_ONLY),
    "waits": Suite("pool", WAITS, THREADS_ONLY),
    "multiprocessing": Suite("installed", ["test_multiprocessing_spawn.test_threads"]),
    "asyncio": Suite(
        "installed",
        [
            f"test_asyncio.{name}"
            for name in (
                "test_threads", "test_futures2", "test_runners", "test_events", "test_base_events", "test_unix_events",
                "test_sock_lowlevel", "test_timeouts", "test_waitfor",
            )
        ],
    ),
    "queue": Suite("installed", ["test_queue"]),
    "http": Suite("installed", ["test_httplib", "test_urllib2_localnet", "test_time.TimeTestCase"]),
}  # fmt: skip

# Test (without the "test." in front of all of them) -> why it fails, by what it runs on. docs/compatibility.md says
# what each means for a program.
DEVIATIONS: dict[str, dict[str, str]] = {
    "pool": {},
    "installed": {
        "test_threading.ThreadTests.test_import_from_another_thread": (
            "install() imports threading, in the main thread; the test wants to be the first to import it"
        ),
        "test_threading.ThreadTests.test_join_nondaemon_on_shutdown": (
            "prints repr(time.sleep): it is a function written in Python while its patch is in force"
        ),
    },
}
if sys.version_info >= (3, 14):
    DEVIATIONS["installed"]["test_threading.ThreadTests.test_finalize_daemon_thread_hang"] = (
        "the script puts a hook into sys.stderr.flush, for finalization; logging, which install() imports, flushes before"
    )


@dataclass
class Run:
    """What became of the tests of one process."""

    passed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # test -> traceback
    unfinished: str = ""  # why the process did not come to its end


def run(suite: Suite, directory: Path) -> Run:
    """Run a suite in a process of its own, in `directory`, which is new."""
    directory.mkdir(parents=True)
    command = [sys.executable, str(RUNNER), suite.setup, "report", str(SECONDS), *(f"test.{name}" for name in suite.names)]
    command += [f"--only={pattern}" for pattern in suite.only] + [f"--skip={pattern}" for pattern in suite.skip]
    with open(directory / "output", "wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(SECONDS + 30)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what its tests have left behind
            process.wait()
    return _read(directory, code)


def _read(directory: Path, code: int | None) -> Run:
    result, last = Run(), "before its first test"
    report = directory / "report"
    for line in map(json.loads, report.read_text().splitlines() if report.exists() else ()):
        if "started" in line:
            last = line["started"]
        elif "ended" in line:
            last = ""
        else:
            test = line["test"].removeprefix("test.")
            if line["outcome"] == "failed":
                result.failed[test] = line["detail"]
            else:
                (result.passed if line["outcome"] == "passed" else result.skipped).add(test)
    if last or code != 0:
        output = (directory / "output").read_text(errors="replace")
        result.unfinished = f"the process ended with {code}, {last or 'after its last test'}:\n{output[-4000:]}"
    return result


def fails_again(suite: Suite, setup: str, test: str, directory: Path) -> str | None:
    """How a test that failed fails by itself, on `setup`; None if it passes three times: the machine was busy, then."""
    # What is not a test (a module that cannot be imported, a setUpClass) fails again with all of its suite.
    again = replace(suite, setup=setup) if "(" in test or test.startswith("unittest.") else Suite(setup, [test])
    for attempt in range(3):
        result = run(again, directory / f"{setup}-{attempt}")
        if test in result.failed:
            return result.failed[test]
        assert result.passed or result.unfinished, f"{test} cannot be run by itself: {result.failed or result.skipped}"
        if result.unfinished:
            return result.unfinished
    return None


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """The suites whose tests were asked for, run side by side."""
    asked = {item.callspec.params["name"] for item in request.session.items if item.module is request.module}
    names = [name for name in SUITES if name in asked]
    where = tmp_path_factory.mktemp("cpython")
    with StandardThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield dict(zip(names, pool.map(lambda name: run(SUITES[name], where / name), names), strict=True))


@pytest.mark.parametrize("name", SUITES)
def test_the_tests_of_cpython_pass_as_they_do_without(name: str, runs: dict[str, Run], tmp_path: Path) -> None:
    suite, result = SUITES[name], runs[name]
    assert not result.unfinished, result.unfinished
    assert result.passed, "not one test was run"
    known = DEVIATIONS[suite.setup]
    unexpected = {}
    for number, test in enumerate(sorted(result.failed.keys() - known.keys())):
        how = fails_again(suite, suite.setup, test, tmp_path / str(number))
        if how is not None and fails_again(suite, "stock", test, tmp_path / str(number)) is None:
            unexpected[test] = how
    assert not unexpected, "these pass without this library:\n" + "\n".join(
        f"{test}\n{traceback}" for test, traceback in unexpected.items()
    )
    fine = sorted(result.passed & known.keys())
    assert not fine, f"these no longer deviate, take them off the list and out of docs/compatibility.md: {fine}"
