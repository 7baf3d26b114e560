"""Runs parts of CPython's own test suite, as they are or on this library; writes what became of each test.

    python cpython_runner.py SETUP REPORT SECONDS NAME... [--only PATTERN]... [--skip PATTERN]...

SETUP is one of `SETUPS`. The names are what unittest takes (modules, classes, tests), the patterns are matched against
test ids. REPORT gets one line of JSON per test, in order, written at once: whatever ends the process, the last line says
where it was. A process that takes more than SECONDS dumps its stacks and ends.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
import unittest
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, TextIO

# One line of code each: it also runs at the head of every script that a test runs in an interpreter of its own.
SETUPS = {
    "stock": "pass",
    "pool": (
        "import concurrent.futures as f, threadsafe_timeout as t; "
        "f.thread.ThreadPoolExecutor = f.ThreadPoolExecutor = t.ThreadPoolExecutor; del f, t"
    ),
    "installed": "import threadsafe_timeout as t; t.install(checkpoint=None); del t",
}


class _Report(unittest.TestResult):
    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._file = file

    def write(self, **line: Any) -> None:
        print(json.dumps(line), file=self._file, flush=True)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.write(started=test.id(), clock=time.monotonic())

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.write(test=test.id(), outcome="passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.write(test=test.id(), outcome="skipped", detail=reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.write(test=test.id(), outcome="failed", detail=self._exc_info_to_string(err, test))

    addError = addFailure  # noqa: N815  # unittest's name; also called for setUpClass and setUpModule

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.addFailure(test, err)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.write(test=test.id(), outcome="failed", detail="unexpected success")


def _flat(suite: Any) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flat(test)
        else:
            yield test


def _set_up_children(line: str) -> None:
    """Have the scripts that tests run in interpreters of their own begin with `line`, too."""
    from test.support import script_helper

    def wrap(original: Any) -> Any:
        def run(*args: str, **kwargs: Any) -> Any:
            given = list(args)
            if "-c" in given and "-S" not in given:  # without site-packages there is nothing to set up
                code = given.index("-c") + 1
                given[code] = f"{line}\n{given[code]}"
            return original(*given, **kwargs)

        return run

    for name in ("run_python_until_end", "spawn_python"):
        setattr(script_helper, name, wrap(getattr(script_helper, name)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("report", type=argparse.FileType("w"))
    parser.add_argument("seconds", type=float)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--skip", action="append", default=[])
    chosen = parser.parse_args()
    faulthandler.dump_traceback_later(chosen.seconds, exit=True)
    exec(SETUPS[chosen.setup], {})

    from test import support

    support.use_resources = ("cpu", "walltime")  # no network, no GUI, no huge files
    _set_up_children(SETUPS[chosen.setup])
    tests = [
        test
        for test in _flat(unittest.defaultTestLoader.loadTestsFromNames(chosen.names))
        if (not chosen.only or any(fnmatchcase(test.id(), pattern) for pattern in chosen.only))
        and not any(fnmatchcase(test.id(), pattern) for pattern in chosen.skip)
    ]
    result = _Report(chosen.report)
    unittest.TestSuite(tests).run(result)
    result.write(ended=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
