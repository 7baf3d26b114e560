"""Interrupting while other threads come and go: what the interrupt looks at must not be freed, or locked, under it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

CHURN = """
import sys, threading, time
import threadsafe_timeout as t
sys.setswitchinterval(1e-4)
stop = time.monotonic() + float(sys.argv[1])

def busy():
    while time.monotonic() < stop:
        try:
            with t.deadline(0.005):
                while True:
                    pass
        except TimeoutError:
            pass

def scoped():
    with t.deadline(60):
        pass

def churn(target):
    while time.monotonic() < stop:
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

threads = [threading.Thread(target=busy) for _ in range(3)]
threads += [threading.Thread(target=churn, args=(target,)) for target in (int, scoped) * 3]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("ok")
"""


def churn(seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(CHURN), str(seconds)],
        capture_output=True, text=True, timeout=seconds + 240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_interrupting_while_threads_come_and_go():
    churn(2)


@pytest.mark.stress
@pytest.mark.timeout(580)
def test_interrupting_while_threads_come_and_go_for_longer():
    churn(15)
