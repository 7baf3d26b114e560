"""`DaskExecutor` on a cluster of its own: the pool's promises, on its workers."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from pathlib import Path

import isolated_tasks as tasks
import pytest
from conditions import said_in, until_ended

from threadsafe_timeout import CannotBeSent, DeadlineExceeded, MissingExtraError, TaskProcessDied
from threadsafe_timeout.checkpoint import CheckpointWriter, load_checkpoint
from threadsafe_timeout.engines import ClusterLost, DaskExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

LONG = tasks.LONG


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster for all tests here; what else it belongs to runs no task."""
    with DaskExecutor(max_workers=2) as owner:
        yield owner._link.address


@pytest.fixture
def pool(address: str, tmp_path: Path) -> Iterator[DaskExecutor]:
    with CheckpointWriter(tmp_path / "journal.jsonl") as writer:
        with DaskExecutor(address, grace=0.2, checkpoint=writer) as pool:
            assert pool._max_workers == 2
            yield pool


def test_a_task_runs_in_a_process_of_a_worker(pool: DaskExecutor):
    future = pool.submit(tasks.add, 1, 2)
    assert type(future).__mro__[-2] is Future
    total, pid = future.result(LONG)
    assert total == 3
    assert pid != os.getpid()
    left, patched, server = pool.with_options(timeout=500).submit(tasks.look_around).result(LONG)
    assert "forkserver" in server
    assert 0 < left <= 500
    assert not patched
    number = 5
    assert list(pool.map(lambda given: given + number, range(3))) == [5, 6, 7]
    futures = {pool.submit(tasks.add, number, 1): number for number in range(3)}
    assert {(futures[future], future.result()[0]) for future in as_completed(futures, LONG)} == {(0, 1), (1, 2), (2, 3)}


def test_errors_come_back(pool: DaskExecutor):
    with pytest.raises(tasks.Refused) as caught:
        pool.submit(tasks.refuse, 3).result(LONG)
    assert "in refuse" in str(caught.value.__cause__)
    error = pool.submit(tasks.crash).exception(LONG)
    assert isinstance(error, TaskProcessDied)
    assert (error.signal, error.exitcode) == (signal.SIGSEGV, None)


def test_what_cannot_travel_is_named(pool: DaskExecutor):
    agent = tasks.Agent()
    agent.client = tasks.Agent()
    agent.client._lock = threading.Lock()
    with pytest.raises(CannotBeSent, match=r"'agent.client._lock' \(a _thread.lock\) cannot be sent"):
        pool.submit(tasks.take, agent).result(LONG)
    with pytest.raises(CannotBeSent, match=r"'function.__self__.client._lock' .* a task_factory can make .*anew"):
        pool.submit(Caller(agent).call).result(LONG)
    with pytest.raises(CannotBeSent, match=r"the result \(a _thread.lock\)"):
        pool.submit(threading.Lock).result(LONG)


class Caller:
    def __init__(self, agent: tasks.Agent) -> None:
        self.client = agent.client

    def call(self) -> str:
        return "called"


def test_dasks_profiler_runs_only_where_it_freezes_no_process(pool: DaskExecutor):
    """Before 3.11.9 it might: https://github.com/python/cpython/issues/106883."""
    told = pool._link._client.run(lambda: [thread.name for thread in threading.enumerate()])
    assert told
    assert all(("Profile" in names) == (sys.version_info >= (3, 11, 9)) for names in told.values())
    here = [thread for thread in threading.enumerate() if thread.name == "Profile"]
    assert bool(here) == (sys.version_info >= (3, 11, 9))


@pytest.mark.parametrize("stick", [tasks.hold_the_gil, tasks.ignore_sigterm, tasks.start_child_and_hang])
def test_a_stuck_task_is_killed_when_all_threads_are_busy(pool: DaskExecutor, stick, tmp_path: Path):
    begun = [tmp_path / "0", tmp_path / "1"]
    stuck = [pool.submit(stick, path) for path in begun]
    pids = [int(said_in(path)) for path in begun]
    for future in stuck:
        assert not future.cancel()
        with pytest.raises(DeadlineExceeded, match=stick.__name__):
            future.result(LONG)
    for pid in pids:
        until_ended(pid)
    assert pool.submit(tasks.add, 1, 2).result(LONG)[0] == 3


def test_a_deadline_ends_it_there_and_is_saved(pool: DaskExecutor, tmp_path: Path):
    keyed = pool.with_options(timeout=0.3, key="stuck")
    error = keyed.submit(tasks.hold_the_gil, tmp_path / "begun").exception(LONG)
    assert isinstance(error, DeadlineExceeded)
    assert error.budget == 0.3
    if (tmp_path / "begun").exists():  # else its process had no time to begin
        until_ended(int((tmp_path / "begun").read_text()))
    assert pool.with_options(key="good").submit(tasks.add, 1, 2).result(LONG)[0] == 3
    records = load_checkpoint(tmp_path / "journal.jsonl")
    statuses = {key: record.status for key, record in records.items()}
    assert statuses == {"stuck": "timeout", "good": "done"}


def test_time_in_the_clusters_queue_does_not_count(pool: DaskExecutor, tmp_path: Path):
    """More tasks in flight than the cluster has threads: one begins when there is a place, and its time then."""
    wide = DaskExecutor(pool._link.address, 3, grace=0.2)
    with wide:
        stuck = [wide.submit(tasks.hold_the_gil, tmp_path / name) for name in ("0", "1")]
        for name in ("0", "1"):
            said_in(tmp_path / name)
        waits = wide.with_options(timeout=50).submit(tasks.look_around)
        while waits._scope is None or waits._scope.deadline != float("inf"):  # type: ignore[attr-defined]
            assert not waits.done()
        for future in stuck:
            future.cancel()
        assert 0 < waits.result(LONG)[0] <= 50


def test_a_program_that_is_killed_leaves_no_task(pool: DaskExecutor, tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; import isolated_tasks as tasks\n"
        "from threadsafe_timeout.engines import DaskExecutor\n"
        "with DaskExecutor(sys.argv[1]) as pool: pool.submit(tasks.hold_the_gil, Path(sys.argv[2])).result()"
    )
    path = os.pathsep.join(sys.path)
    program = subprocess.Popen(
        [sys.executable, "-c", code, pool._link.address, tmp_path / "begun"], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        pid = int(said_in(tmp_path / "begun"))
    finally:
        program.kill()
        program.wait()
    until_ended(pid)


def test_one_that_is_cancelled_while_its_answer_is_fetched_keeps_no_other_from_it(
    pool: DaskExecutor, monkeypatch: pytest.MonkeyPatch
):
    client, gate = pool._link._client, threading.Event()
    fetch = client._gather_remote

    async def fetch_later(*args: object) -> object:
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return await fetch(*args)

    monkeypatch.setattr(client, "_gather_remote", fetch_later)
    future = pool.submit(tasks.add, 1, 2)
    until = time.monotonic() + LONG
    while "finished" not in {getattr(one._future, "status", "") for one in list(pool._link._attempts.values())}:
        assert time.monotonic() < until
        time.sleep(0.01)
    future.cancel()
    assert isinstance(future.exception(LONG), DeadlineExceeded)
    other = pool.submit(tasks.add, 1, 2)
    gate.set()
    assert other.result(LONG)[0] == 3


def test_bad_arguments_are_refused_at_once(pool: DaskExecutor, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="isolate must be 'process'"):
        pool.with_options(isolate="thread")
    with pytest.raises(TypeError, match="address must be that of a scheduler"):
        DaskExecutor(8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reconnect must be a number of seconds >= 0"):
        DaskExecutor(reconnect=-1)
    with pytest.raises(ValueError, match="max_workers must be 1 or more"):
        DaskExecutor(max_workers=0)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"threadsafe-timeout\[cluster\]"):
        DaskExecutor()


def test_an_error_of_the_cluster_travels():
    error = ClusterLost("tcp://10.0.0.1:8786", "could not be reached: no")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "the Dask cluster at tcp://10.0.0.1:8786 could not be reached: no"
    assert copy.address == error.address
