"""Runs other projects' own tests, from their source packages, without this library and with the line; compares.

    python tests/projects.py [NAME...]

The Python that runs it needs pip and the index that this uses; the rest is installed into an environment of its own, in a
temporary folder, with this checkout. A test that fails with the line, and passes without, is run again by itself, twice:
if it fails each time, the exit status is 1. docs/compatibility.md says what the outcome is.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SECONDS = 300  # for one process; on a quiet machine the longest takes a quarter of it
SIDE_BY_SIDE = 3  # processes: most of these tests wait most of the time


@dataclass(frozen=True)
class Project:
    """Which of its tests are run, by what they need besides pytest, and with which options of pytest's."""

    tests: tuple[str, ...]
    needs: tuple[str, ...]
    options: tuple[str, ...] = ()


PROJECTS = {
    # Without those for which its servers are proxies, and what is about HTTP/2 or asks for a network.
    "urllib3": Project(
        (
            "test/test_connection.py", "test/test_connectionpool.py", "test/test_poolmanager.py", "test/test_ssl.py",
            "test/test_ssltransport.py", "test/test_util.py", "test/test_wait.py", "test/test_queue_monkeypatch.py",
            "test/with_dummyserver/test_connectionpool.py", "test/with_dummyserver/test_socketlevel.py",
        ),
        ("h2", "httpx", "hypercorn", "pysocks", "pytest-socket", "quart", "quart-trio", "trio", "trustme"),
        ("--timeout", "60", "-m", "not requires_network"),
    ),
    "httpcore": Project(
        ("tests/_sync", "tests/test_api.py"), ("anyio", "h2", "pytest-httpbin", "pytest-trio", "socksio", "trio"), ("--timeout", "60")
    ),
    "anyio": Project(
        ("tests/test_to_thread.py", "tests/test_from_thread.py"),
        ("blockbuster", "hypothesis", "psutil", "pytest-mock", "trio", "truststore", "trustme", "uvloop"),
    ),
}  # fmt: skip

# What each process of pytest's loads: the line, maybe, and a report of what failed, written as it comes.
PLUGIN = """
import json, os
if os.environ.get("WITH_THE_LINE"):
    import threadsafe_timeout.auto
def write(**line):
    with open(os.environ["REPORT"], "a") as file:
        print(json.dumps(line), file=file)
def pytest_runtest_logreport(report):
    if report.failed:
        write(failed=report.nodeid, how=report.longreprtext[-3000:])
    elif report.when == "call" and report.passed:
        write(passed=report.nodeid)
def pytest_collectreport(report):
    if report.failed:
        write(failed=report.nodeid, how=report.longreprtext[-3000:])
def pytest_sessionfinish():
    write(ended=True)
"""


@dataclass
class Run:
    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # test -> how
    unfinished: str = ""  # the end of its output, if it did not come to an end


class Workspace:
    """The environment, the sources, and what runs there."""

    def __init__(self, directory: Path, names: list[str]) -> None:
        self.directory = directory
        self._python = directory / "venv" / "bin" / "python"
        (directory / "plugin").mkdir()
        (directory / "plugin" / "the_line_or_not.py").write_text(PLUGIN)
        venv.create(directory / "venv", with_pip=True)
        self.sources = {name: self._source(name) for name in names}
        # The project itself from the index, too: as built as it was published.
        pinned = [f"{name}=={source.name.rpartition('-')[2]}" for name, source in self.sources.items()]
        needed = sorted({need for name in names for need in PROJECTS[name].needs} - set(names))
        self._pip("install", str(CHECKOUT), "pytest", "pytest-timeout", *pinned, *needed)

    def _pip(self, *arguments: str) -> None:
        subprocess.run([self._python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True)

    def _source(self, name: str) -> Path:
        where = self.directory / name
        self._pip("download", "--no-deps", "--no-binary", name, name, "-d", str(where))
        (archive,) = where.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(where, filter="data")
        return where / archive.name.removesuffix(".tar.gz")

    def run(self, name: str, *, line: bool, tests: tuple[str, ...] = (), attempt: int = 0) -> Run:
        """Run a project's tests, or some of them."""
        project, source = PROJECTS[name], self.sources[name]
        report = self.directory / f"{name}-{line}-{attempt}"
        environ = {key: value for key, value in os.environ.items() if not key.startswith("THREADSAFE_TIMEOUT_")}
        environ |= {"REPORT": str(report), "PYTHONPATH": str(self.directory / "plugin"), "THREADSAFE_TIMEOUT_CHECKPOINT": "off",
                    "THREADSAFE_TIMEOUT_STATUS_DIR": "off"}
        if line:
            environ["WITH_THE_LINE"] = "1"
        command = [self._python, "-m", "pytest", "-q", "-p", "the_line_or_not", "-p", "no:cacheprovider", *project.options]
        with open(f"{report}.output", "wb") as output:
            process = subprocess.Popen(
                [*command, *(tests or project.tests)], cwd=source, env=environ, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and what its tests have left behind
                process.wait()
        return _read(report)


def _read(report: Path) -> Run:
    result, ended = Run(), False
    for line in map(json.loads, report.read_text().splitlines() if report.exists() else ()):
        ended = ended or "ended" in line
        if "failed" in line:
            result.failed.setdefault(line["failed"], line["how"])
        elif "passed" in line:
            result.passed.add(line["passed"])
    result.passed -= result.failed.keys()
    if not ended:
        result.unfinished = Path(f"{report}.output").read_text(errors="replace")[-3000:]
    return result


def compare(workspace: Workspace, name: str, without: Run, having: Run) -> bool:
    """Say what became of a project's tests; whether they pass as they do without."""
    print(f"{workspace.sources[name].name}: {len(without.passed)} pass without the line, {len(having.passed)} with it")
    for which, run in (("without the line", without), ("with the line", having)):
        if run.unfinished or not run.passed:
            print(f"  {which} its tests did not come to an end:\n{run.unfinished}")
            return False
    if without.failed:
        print(f"  {len(without.failed)} fail without the line, and are not held against it")
    good = True
    for test in sorted(having.failed.keys() - without.failed.keys()):
        again = [workspace.run(name, line=True, tests=(test,), attempt=attempt) for attempt in (1, 2)]
        if all(test in run.failed or run.unfinished for run in again):
            print(f"  fails with the line, and passes without: {test}\n{having.failed[test]}")
            good = False
        else:
            print(f"  failed once, and passes by itself: {test}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Run other projects' tests with and without the line.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROJECTS)}; all of them if none is given")
    names = parser.parse_args().names or list(PROJECTS)
    if unknown := set(names) - PROJECTS.keys():
        parser.error(f"there is no project {', '.join(sorted(unknown))}; the projects are {', '.join(PROJECTS)}")
    with tempfile.TemporaryDirectory() as directory:
        workspace = Workspace(Path(directory), names)
        with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            runs = {(name, line): pool.submit(workspace.run, name, line=line) for name in names for line in (False, True)}
        results = [compare(workspace, name, runs[name, False].result(), runs[name, True].result()) for name in names]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
