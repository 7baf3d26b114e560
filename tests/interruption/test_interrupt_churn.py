"""Interrupting while other threads come and go, one forks, and a profiler looks at all of them: what the interrupt looks
at must not be freed, or locked, under it, nor what the others need."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap

import pytest

from threadsafe_timeout._interruption import pursuit

CHURN = """
import logging, os, sys, threading, time
import threadsafe_timeout as t
sys.setswitchinterval(1e-4)
stop = time.monotonic() + float(sys.argv[1])
log = logging.getLogger("nowhere")
log.propagate = False
log.addHandler(logging.NullHandler())

def busy(work):
    while time.monotonic() < stop:
        try:
            with t.deadline(0.005):
                while True:
                    work()
        except TimeoutError:
            pass

def compute():
    pass

def allocate():
    log.warning("always in a call %s", [1])

def profile():
    while time.monotonic() < stop:
        sys._current_frames()
        time.sleep(0.001)

def scoped():
    with t.deadline(60):
        pass

def churn(target):
    while time.monotonic() < stop:
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

def fork():
    while time.monotonic() < stop:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

threads = [threading.Thread(target=busy, args=(work,)) for work in (compute, compute, allocate)]
threads += [threading.Thread(target=profile), threading.Thread(target=fork)]
threads += [threading.Thread(target=churn, args=(target,)) for target in (int, scoped) * 3]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("ok")
"""


def churn(seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", textwrap.dedent(CHURN), str(seconds)],
        capture_output=True, text=True, timeout=seconds + 240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_interrupting_while_threads_come_and_go():
    churn(2)


@pytest.mark.stress
@pytest.mark.timeout(580)
def test_interrupting_while_threads_come_and_go_for_longer():
    churn(15)


@pytest.mark.skipif(pursuit.support().mechanism != "async exception", reason="the others change nothing of the process")
def test_a_child_that_is_forked_in_the_middle_of_a_hunt_has_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from threadsafe_timeout._interruption.async_exception import AsyncException

    def state() -> list[object]:
        return [gc.get_threshold(), [*gc.callbacks], sys.getswitchinterval(), sys._current_frames]

    before, statuses = state(), []

    def step(_: AsyncException, hunted: dict[int, object]) -> None:
        assert gc.get_threshold()[0] == -1
        child = os.fork()
        if child == 0:
            os._exit(state() != before)
        statuses.append(os.waitpid(child, 0)[1])
        hunted.clear()

    monkeypatch.setattr(AsyncException, "_step", step)
    hunter, nobody = AsyncException(), 1
    hunter._failed[nobody] = 1  # from then on the collector helps
    hunter.arm({nobody: None})
    assert statuses == [0]
    assert state() == before
