"""Four workers, four stuck tasks and four good ones queued behind, for every way of getting stuck.

The good tasks finish, the stuck futures end by deadline + 2 × grace with `DeadlineExceeded`, the `with` ends, the
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
from stuck_modes import MODES, WIDTH, Hold, Mode

import threadsafe_timeout
from threadsafe_timeout import DeadlineExceeded
from threadsafe_timeout.testing.fake_llm import FakeLLM

DEADLINE = 0.2
SHORT, LONG = 0.05, 2.0  # a thread that is given up takes 2 × grace; one that is woken should never need it
SLACK = 120.0  # seconds, for a machine that is busy with other things


@pytest.fixture(scope="module")
def urls():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeLLM(mix={mood: 1}, minute=0.2)).base_url for mood in ("hang", "trickle")]


@pytest.fixture
def hold(urls):
    with Hold(*urls) as hold:
        yield hold


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_good_finish_and_the_stuck_end(mode: Mode, hold: Hold):
    ended: dict[int, float] = {}
    began: dict[int, float] = {}

    def stick(number: int) -> None:
        began[number] = time.monotonic()
        mode.stick(hold)

    grace = LONG if mode.woken else SHORT
    with threadsafe_timeout.patched(checkpoint="off", task_timeout=DEADLINE, grace=grace):
        with concurrent.futures.ThreadPoolExecutor(WIDTH) as pool:
            stuck = [pool.submit(stick, number) for number in range(WIDTH)]
            for number, future in enumerate(stuck):
                future.add_done_callback(lambda _, number=number: ended.setdefault(number, time.monotonic()))
            good = [pool.with_options(timeout=60).submit(int, number) for number in range(WIDTH)]
        assert [future.result(0) for future in good] == list(range(WIDTH))
        for future in stuck:
            with pytest.raises(DeadlineExceeded, match="timed out") as caught:
                future.result(0)
            # (The error may be that of a task in a pool of the task's own, which began a moment later.)
            assert caught.value.elapsed >= DEADLINE / 2
        for number in range(WIDTH):
            assert ended[number] - began[number] <= DEADLINE + 2 * grace + SLACK
        stats = pool.stats()
        assert stats["abandoned"] == (0 if mode.woken else WIDTH)
        assert stats["submitted"] == 2 * WIDTH


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
