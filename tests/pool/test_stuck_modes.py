"""Four workers, four stuck tasks and four good ones queued behind, for every way of getting stuck.

The good tasks finish, the stuck futures end, most of them at once, with `DeadlineExceeded`, the `with` ends, the
process exits.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import time

import openai.resources.chat.completions  # noqa: F401  # all that a first call would import: judged is the wait for the server
import pytest
from asleep import ON_PATH
from paces import at_some_pace
from stuck_modes import MODES, WIDTH, Hold, Mode

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded
from threadsafe_timeout.testing.fake_llm import FakeLLM

DEADLINE = 0.2
SHORT, LONG = 0.05, 60.0  # a thread that is given up takes 2 × grace; one that is woken does not need it


@pytest.fixture(scope="module")
def urls():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeLLM(mix={mood: 1}, minute=0.2)).base_url for mood in ("hang", "trickle")]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_good_finish_and_the_stuck_end(mode: Mode, urls: list[str]):
    if mode.insists:  # it may end between one grace and two
        at_some_pace(lambda pace: stick_and_end(mode, urls, pace))
    else:
        stick_and_end(mode, urls, LONG if mode.woken else SHORT)


def stick_and_end(mode: Mode, urls: list[str], grace: float) -> None:
    def stick() -> None:
        mode.stick(hold)

    def acquire() -> None:  # the name says that no interrupt strikes in it, on the way to what it is stuck in either
        mode.stick(hold)

    kinds: list[str] = []
    with Hold(*urls) as hold, threadsafe_timeout.patched(checkpoint="off", task_timeout=DEADLINE, grace=grace):
        with concurrent.futures.ThreadPoolExecutor(WIDTH) as pool:
            pool.on_event(lambda event: kinds.append(event.kind))
            stuck = [pool.submit(stick if mode.woken else acquire) for _ in range(WIDTH)]
            good = [pool.with_options(timeout=60).submit(int, number) for number in range(WIDTH)]
        assert [future.result(0) for future in good] == list(range(WIDTH))
        for future in stuck:
            with pytest.raises(DeadlineExceeded, match="timed out") as caught:
                future.result(0)
            # (The error may be that of a task in a pool of the task's own, which began a moment later.)
            assert caught.value.elapsed >= DEADLINE / 2
        stats = pool.stats()
        assert stats["abandoned"] == (0 if mode.woken else WIDTH)
        assert stats["submitted"] == 2 * WIDTH
        assert pool._crew.events.flush(60)
        assert mode.insists or ("interrupting" in kinds) == (not mode.woken), "it is woken at once"


@pytest.mark.parametrize("group", sorted({mode.group for mode in MODES}))
def test_the_process_exits(group: str, urls: list[str]):
    names = [mode.name for mode in MODES if mode.group == group]
    environment = {
        **os.environ,
        **ON_PATH,
        "THREADSAFE_TIMEOUT_TASK_TIMEOUT": "0.3",
        "THREADSAFE_TIMEOUT_GRACE": "0.1",
        "THREADSAFE_TIMEOUT_CHECKPOINT": "off",
    }
    code = "import threadsafe_timeout.auto, stuck_modes, sys; stuck_modes.main(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *urls, *names],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    good = sum(range(WIDTH))
    assert done.stdout.splitlines() == [f"{name} DeadlineExceeded {good}" for name in names], done.stderr
    assert done.returncode == 0


def test_a_hard_timeout_on_a_result_ends_when_the_task_does():
    """What everybody writes, and what used to take as long as the task."""

    def call() -> object:
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            return executor.submit(time.sleep, 300).result(timeout=0.05)

    began = time.monotonic()
    with threadsafe_timeout.patched(checkpoint="off", grace=300), pytest.raises(TimeoutError):
        call()
    assert time.monotonic() - began < 200  # it was woken: neither the task's 300 s nor 2 × grace
