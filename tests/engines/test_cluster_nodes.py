"""A real cluster on loopback, of processes that are killed and frozen: every task has one result, once in the journal."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cluster_tasks as tasks
import pytest
from conditions import until, until_ended
from isolated_tasks import LONG

from threadsafe_timeout import DeadlineExceeded
from threadsafe_timeout.checkpoint import CheckpointWriter, load_checkpoint
from threadsafe_timeout.engines import ClusterLost, DaskExecutor

pytestmark = [pytest.mark.stress, pytest.mark.timeout(580), pytest.mark.skipif(sys.platform != "linux", reason="/proc")]

HERE = os.path.dirname(__file__)
TASKS = 100


def free_port() -> int:
    """A free port below those that the system gives to programs: it stays free while the scheduler is away."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first = int(file.read().split()[0])
    while True:
        port = random.randrange(first // 2, first)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Cluster:
    """A scheduler and nodes, each a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.folder = folder
        self._groups: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        env = {
            **os.environ, "PYTHONPATH": os.pathsep.join([HERE, os.path.dirname(HERE), *sys.path]),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "20", "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
        }  # fmt: skip
        log = (self.folder / f"{command[0]}-{len(self._groups)}.log").open("wb")
        with log:
            group = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._groups.append(group)
        return group

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        return self._start(
            "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--dashboard-address", "127.0.0.1:0"
        )

    def start_node(self, threads: int = 4) -> subprocess.Popen[bytes]:
        return self._start(
            "worker", self.address, "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--no-dashboard",
            "--nthreads", str(threads), "--local-directory", str(self.folder),
        )  # fmt: skip

    def end(self) -> None:
        for group in self._groups:
            for number in (signal.SIGCONT, signal.SIGKILL):
                try:
                    os.killpg(group.pid, number)
                except ProcessLookupError:
                    pass
            group.wait(LONG)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        cluster.end()
        for file in (tmp_path / "begun").iterdir():
            until_ended(int(file.name.split("-")[1]))  # a task ends with its worker


def begun(folder: Path) -> list[str]:
    return [file.name for file in (folder / "begun").iterdir()]


def nodes_of(pool: DaskExecutor) -> int:
    return len(pool._link._client.nthreads())


def pool_on(cluster: Cluster, writer: CheckpointWriter | None, **options) -> DaskExecutor:
    (cluster.folder / "begun").mkdir(exist_ok=True)
    until = time.monotonic() + LONG
    while True:
        try:
            return DaskExecutor(cluster.address, 8, grace=1, checkpoint=writer, **options)
        except ClusterLost:
            assert time.monotonic() < until
            time.sleep(0.1)


def check(folder: Path, futures) -> None:
    assert [future.result(LONG) for future in futures] == [2 * number for number in range(TASKS)]
    done = collections.Counter(
        line["key"] for line in map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
        if line.get("event") == "done"
    )  # fmt: skip
    assert done == dict.fromkeys(map(str, range(TASKS)), 1) or done == dict.fromkeys(range(TASKS), 1)
    assert len(load_checkpoint(folder / "journal.jsonl")) == TASKS


def test_a_node_that_is_killed_and_one_that_is_frozen(cluster: Cluster, tmp_path: Path):
    nodes = [cluster.start_node() for _ in range(3)]
    with CheckpointWriter(tmp_path / "journal.jsonl") as writer, pool_on(cluster, writer) as pool:
        until(lambda: nodes_of(pool) == 3)
        submit = pool.with_options(key=lambda _folder, number: number).submit
        futures = [submit(tasks.slow_double, tmp_path / "begun", number) for number in range(TASKS)]
        until(lambda: len(begun(tmp_path)) > TASKS // 4)
        os.killpg(nodes[0].pid, signal.SIGKILL)
        until(lambda: len(begun(tmp_path)) > TASKS // 2)
        os.killpg(nodes[1].pid, signal.SIGSTOP)
        check(tmp_path, futures)


def test_a_scheduler_that_is_killed_and_comes_back(cluster: Cluster, tmp_path: Path):
    cluster.start_node()
    with CheckpointWriter(tmp_path / "journal.jsonl") as writer, pool_on(cluster, writer) as pool:
        submit = pool.with_options(key=lambda _folder, number: number).submit
        futures = [submit(tasks.slow_double, tmp_path / "begun", number) for number in range(TASKS)]
        until(lambda: len(begun(tmp_path)) > TASKS // 4)
        os.killpg(cluster.scheduler.pid, signal.SIGKILL)
        cluster.scheduler.wait(LONG)
        cluster.start_scheduler()
        cluster.start_node()  # the old one ends with its scheduler
        check(tmp_path, futures)


def test_a_scheduler_that_stays_away(cluster: Cluster, tmp_path: Path):
    cluster.start_node()
    with pool_on(cluster, None, reconnect=1) as pool:
        futures = [pool.submit(tasks.slow_double, tmp_path / "begun", number, 600) for number in range(10)]
        bounded = pool.with_options(deadline=time.monotonic() + 600).submit(tasks.slow_double, tmp_path / "begun", 0)
        until(lambda: begun(tmp_path))
        os.killpg(cluster.scheduler.pid, signal.SIGKILL)
        for future in [*futures, bounded]:
            assert isinstance(future.exception(LONG), ClusterLost)
        assert "not back within 1 s" in str(futures[0].exception())
    until(lambda: not any(thread.name.startswith("IO loop") for thread in threading.enumerate()))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_killed_workers(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a cluster of its own, which starts them again: 150 tasks, of which 15 are stuck, and a worker killed now and
    then. Stuck tasks end by their deadline, also those that were begun anew; the others have their results."""
    chance, over, killed = random.Random(seed), threading.Event(), list[int]()
    (tmp_path / "begun").mkdir()
    stuck = set(chance.sample(range(150), 15))

    def kill_some(pool: DaskExecutor) -> None:
        while len(killed) < 8 and not over.wait(1 + chance.random()):
            pids = list(pool._link._client.run(os.getpid, on_error="ignore").values())
            if len(pids) == 2:
                killed.append(chance.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)

    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # so many workers
    with DaskExecutor(max_workers=6, grace=0.5) as pool:
        killer = threading.Thread(target=kill_some, args=(pool,))
        killer.start()
        try:
            futures = [
                pool.with_options(timeout=2).submit(tasks.slow_double, tmp_path / "begun", number, 600)
                if number in stuck
                else pool.submit(tasks.slow_double, tmp_path / "begun", number, 0.2)
                for number in range(150)
            ]
            until(lambda: all(future.done() for future in futures))
        finally:
            over.set()
            killer.join()
    assert killed
    for number, future in enumerate(futures):
        if number in stuck:
            assert isinstance(future.exception(0), DeadlineExceeded)
        else:
            assert future.result(0) == 2 * number
    for name in begun(tmp_path):
        until_ended(int(name.split("-")[1]))
    until(lambda: not pool.stats()["abandoned_alive"])  # no thread of the pool stays behind
