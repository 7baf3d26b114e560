"""Four slots, four tasks stuck in processes of their own and four good ones queued behind, for every way of getting stuck:
with `isolate="process"`, and on a Dask cluster.

The good tasks finish, the stuck futures end with `DeadlineExceeded`, the `with` ends, and no process is left.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import isolated_tasks as tasks
import pytest
from conditions import said_in, until, until_ended
from stuck_modes import MODES, WIDTH, Hold, Mode

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor
from threadsafe_timeout.engines import DaskExecutor
from threadsafe_timeout.testing.fake_llm import FakeLLM

pytestmark = [pytest.mark.stress, pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")]


def stick(name: str, urls: list[str], begun: Path) -> None:
    tasks.say(begun, os.getpid())
    next(mode for mode in MODES if mode.name == name).stick(Hold(*urls))


@pytest.fixture(scope="module")
def urls():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeLLM(mix={mood: 1}, minute=0.2)).base_url for mood in ("hang", "trickle")]


@pytest.fixture(scope="module", params=["process", "dask"])
def engine(request: pytest.FixtureRequest) -> Iterator[Callable[[], ThreadPoolExecutor]]:
    if request.param == "process":
        yield lambda: ThreadPoolExecutor(WIDTH, isolate="process", grace=0.2)
        return
    with DaskExecutor(max_workers=WIDTH) as owner:
        yield lambda: DaskExecutor(owner._link.address, WIDTH, grace=0.2)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_good_finish_and_the_stuck_end(mode: Mode, engine: Callable[[], ThreadPoolExecutor], urls: list[str], tmp_path: Path):
    begun = [tmp_path / str(number) for number in range(WIDTH)]
    with engine() as pool:
        stuck = [pool.submit(stick, mode.name, urls, path) for path in begun]
        good = [pool.submit(tasks.add, number, 1) for number in range(WIDTH)]
        pids = [int(said_in(path)) for path in begun]
        for future in stuck:
            future.cancel()  # as a deadline does, but not before it has begun
        assert [future.result(tasks.LONG)[0] for future in good] == [1, 2, 3, 4]
        for future in stuck:
            with pytest.raises(DeadlineExceeded, match="stick"):
                future.result(tasks.LONG)
    for pid in pids:
        until_ended(pid)
    until(lambda: not pool.stats()["abandoned_alive"])  # a slow machine may take more than two graces
    stats = pool.stats()
    assert stats["submitted"] == 2 * WIDTH
    assert stats["completed"] == WIDTH
    assert stats["running"] == stats["pending"] == 0
