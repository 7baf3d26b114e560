"""Several processes on one journal: killed, stopped, forked, all at once."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from threadsafe_timeout.checkpoint import CheckpointWriter, _disk, iter_records, load_checkpoint, open_run

KILLER = Path(__file__).parents[2] / "benchmarks" / "checkpoint_kill.py"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Run code in a Python of its own; `path` is the journal's. Ended with the test."""
    children: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: object) -> subprocess.Popen[str]:
        text = "import sys\nfrom threadsafe_timeout.checkpoint import *\npath = sys.argv[1]\n" + textwrap.dedent(code)
        child = subprocess.Popen(
            [sys.executable, "-c", text, str(path), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate(timeout=120)


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.stress)])
def test_sigkill_at_random_moments(kills: int) -> None:
    done = subprocess.run(
        [sys.executable, KILLER, "--kills", str(kills)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none lost, none twice, none repeated" in done.stdout


MANY = """
    import threading
    me, count, threads = int(sys.argv[2]), int(sys.argv[3]), 16
    writer = CheckpointWriter(path, lock_timeout=1000)
    print("ready", flush=True)
    sys.stdin.readline()
    def work(n):
        for i in range(n, count, threads):
            writer.save(f"{me}-{i}", {"me": me, "i": i, "text": "x" * 300})
    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    writer.close()
"""


@pytest.mark.parametrize(
    ("processes", "count"), [(4, 50), pytest.param(16, 1000, marks=pytest.mark.stress)]
)
def test_many_processes_write_one_file(path: Path, start: Start, processes: int, count: int) -> None:
    children = [start(MANY, number, count) for number in range(processes)]
    for child in children:
        assert line(child) == "ready"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert child.wait(120) == 0
    keys = Counter(record.key for record in iter_records(path))
    assert keys == {f"{me}-{i}": 1 for me in range(processes) for i in range(count)}
    assert all(record.result == {"me": int(str(key).split("-")[0]), "i": int(str(key).split("-")[1]), "text": "x" * 300}
               for key, record in load_checkpoint(path).items())  # fmt: skip
    assert list(path.parent.glob("*.spill-*")) == []


HOLDER = """
    from filelock import FileLock
    writer = CheckpointWriter(path)
    writer.save("holder", 1)
    lock = FileLock(path + ".lock")
    lock.acquire()
    print("held", flush=True)
    sys.stdin.readline()
    lock.release()
    writer.save("holder again", 2)
    print("saved", flush=True)
"""


def test_a_stopped_lock_holder_stops_nobody_for_ever(
    path: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CheckpointWriter(path, lock_timeout=0.3)
    child = start(HOLDER)
    assert line(child) == "held"
    os.kill(child.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
    writer.save("k", 1)
    (message,) = (record.getMessage() for record in caplog.records)
    assert f"process {child.pid} " in message
    assert "which is stopped (kill -CONT lets it go on)" in message
    assert load_checkpoint(path)["k"].result == 1
    os.kill(child.pid, signal.SIGCONT)
    assert child.stdin is not None
    child.stdin.write("go on\n")
    child.stdin.flush()
    assert line(child) == "saved"
    assert child.wait(120) == 0
    writer.save("l", 2)
    writer.close()
    assert [record.key for record in iter_records(path)] == ["holder", "holder again", "k", "l"]


def test_the_lock_of_a_killed_process_is_free(path: Path, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    child = start(HOLDER)
    assert line(child) == "held"
    child.kill()
    child.wait(120)
    with CheckpointWriter(path, lock_timeout=5) as writer:
        writer.save("k", 1)
    assert list(load_checkpoint(path)) == ["holder", "k"]
    assert caplog.records == []


def test_a_run_that_was_killed_is_taken_up(path: Path, start: Start) -> None:
    child = start("""
        writer, finished = open_run(path, config=1)
        writer.started("a"); writer.save("a", 1)
        writer.started("b")
        print("now", flush=True)
        sys.stdin.readline()
    """)
    assert line(child) == "now"
    child.kill()
    child.wait(120)
    writer, finished = open_run(path, config=1)
    assert finished.keys() == {"a"}
    assert writer.started("b") == 2
    writer.close()


FORKER = """
    import os, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: that is the test
    writer = CheckpointWriter(path, lock_timeout=1000)
    def work(n):
        for i in range(30):
            writer.save(f"{os.getpid()}-{n}-{i}", i)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads: thread.start()
    children = []
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            for i in range(5):
                writer.save(f"{os.getpid()}-child-{i}", i)
            writer.close()
            os._exit(0)
        children.append(pid)
    for thread in threads: thread.join()
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    writer.close()
    print("done", flush=True)
"""


def test_children_made_by_fork_save_their_own_and_nothing_twice(path: Path, start: Start) -> None:
    child = start(FORKER)
    assert line(child) == "done"
    keys = Counter(record.key for record in iter_records(path))
    assert len(keys) == 8 * 30 + 10 * 5
    assert set(keys.values()) == {1}


def test_a_keyboard_interrupt_in_a_save_hangs_nobody(path: Path, start: Start) -> None:
    child = start("""
        import os, signal, threading
        writer = CheckpointWriter(path)
        def work(n):
            for i in range(200):
                writer.save(f"{n}-{i}", i)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads: thread.start()
        hits, told = 0, 0
        for i in range(200):
            if i % 10 == 0:
                timer = threading.Timer(0.0002 * (i % 7), os.kill, (os.getpid(), signal.SIGINT))
            try:
                try:
                    if i % 10 == 0: timer.start()
                    writer.save(f"main-{i}", i)
                    told += 1
                finally:
                    if i % 10 == 0: timer.join()
            except KeyboardInterrupt:
                hits += 1
        for thread in threads: thread.join()
        writer.close()
        print(hits, flush=True)
    """)
    assert int(line(child)) > 0
    assert child.wait(120) == 0
    keys = Counter(record.key for record in iter_records(path))
    assert set(keys.values()) == {1}
    assert {f"{n}-{i}" for n in range(4) for i in range(200)} <= keys.keys()


@pytest.mark.parametrize("torn", ["", "writes", "writes that fail", "syncs that fail"])
def test_a_reader_beside_a_writer_sees_whole_records(path: Path, torn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it sees of a line that is being written, or of one that is taken back: it is no damage."""
    chance, stop = random.Random(1), threading.Event()
    if torn:
        monkeypatch.setattr(_disk, "write", lambda fd, data: _write_some(fd, data, chance, torn))
    if torn == "syncs that fail":
        monkeypatch.setattr(_disk, "sync_once", lambda fd: _fail(chance, errno.EIO))
    writer = CheckpointWriter(path, mode="durable" if torn == "syncs that fail" else "fast")

    def write() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            writer.save(number, "x" * chance.randrange(4000))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    seen: list[Any] = [0]
    try:
        while seen[-1] < (300 if torn != "syncs that fail" else 50) and thread.is_alive():
            seen.append(len(load_checkpoint(path)))
    finally:
        stop.set()
        thread.join()
        writer.close()
    assert seen[-1] >= 50
    if torn != "syncs that fail":  # what is taken back was never acknowledged
        assert seen == sorted(seen)


def _write_some(fd: int, data: memoryview, chance: random.Random, torn: str) -> int:
    time.sleep(0)  # let the reader read
    if torn == "writes that fail":
        _fail(chance, errno.EINTR if chance.random() < 0.5 else errno.ENOSPC)
    return os.write(fd, data[: chance.randrange(1, 1500)])


def _fail(chance: random.Random, number: int) -> None:
    if chance.random() < 0.03:
        raise OSError(number, os.strerror(number))
