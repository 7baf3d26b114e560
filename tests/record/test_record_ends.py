"""How a record ends: by the exit, by force, by a fork, by a disk that is full or gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from runs import command, environment, events, folders, of_kind, run, status

WARNING = "this run is not recorded any more, and goes on"


@pytest.mark.parametrize(
    ("program", "exit_status", "how", "code"),
    [("raise ValueError", 1, "exception", 1), ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -2, "signal", 130)],
)
def test_the_last_line_says_how_it_ended(tmp_path: Path, program: str, exit_status: int, how: str, code: int) -> None:
    run(tmp_path, f"ThreadPoolExecutor(1).submit(id, 1).result()\n{program}", exit_status)
    [folder] = folders(tmp_path)
    last = events(folder)[-1]
    assert (last["kind"], last["how"], last["exit"]) == ("end", how, code)


def test_what_a_killed_run_leaves_can_be_read(tmp_path: Path) -> None:
    program = """
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(id, number) for number in range(100)]
        pool.submit(time.sleep, 600)
        def written():  # a task is counted before it has a line, and runs before it says what it does
            [file] = Path("runs_here").glob("runs/*/events.jsonl")
            tasks = [worker.get("task") for worker in status()["workers"]]
            return file.read_text().count('"kind":"task"') == status()["totals"]["done"] == 100 and "sleep(600)" in tasks
        until(lambda: status() and written())
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run(tmp_path, program, -signal.SIGKILL)
    [folder] = folders(tmp_path)
    assert len(of_kind(folder, "task")) == 100
    assert (status(folder)["state"], status(folder)["totals"]["running"]) == ("running", 1)
    assert [worker["task"] for worker in status(folder)["workers"] if worker["state"] == "running"] == ["sleep(600)"]


def test_a_forked_child_writes_nothing_and_takes_nothing_away(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import faulthandler
        with ThreadPoolExecutor(2) as pool:
            gate = threading.Event()
            pool.submit(gate.wait)
            until(lambda: any(worker.get("phase") == "lock" for worker in (status() or {}).get("workers", ())))
            folder = Path("runs_here/runs") / status()["run"]
            before = (folder / "events.jsonl").read_text()
            child = os.fork()
            if child == 0:
                signal.raise_signal(signal.SIGURG)
                with ThreadPoolExecutor(1) as own:
                    own.submit(id, 1).result()
                held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd != "3"
                        if os.path.exists(f"/proc/self/fd/{fd}")]
                assert not [name for name in held if "runs_here" in name], held
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert not (folder / "faulthandler.txt").read_text()
            signal.raise_signal(signal.SIGURG)
            assert "gate.wait" in (folder / "faulthandler.txt").read_text() or "in wait" in (folder / "faulthandler.txt").read_text()
            gate.set()
        """,
    )
    assert not done.stderr
    [folder] = folders(tmp_path)
    assert status(folder)["totals"]["submitted"] == 1


def test_a_program_that_handles_the_signal_keeps_it(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        seen = []
        signal.signal(signal.SIGURG, lambda *args: seen.append(1))
        with ThreadPoolExecutor(1) as pool:
            gate = threading.Event()
            pool.submit(gate.wait)
            until(status)
            assert status()["dump_signal"] is None
            threadsafe_timeout.uninstall()
            signal.raise_signal(signal.SIGURG)
            assert seen
            gate.set()
        """,
    )


def test_uninstall_ends_the_record_and_install_begins_another(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        pool = threadsafe_timeout.ThreadPoolExecutor(1)
        pool.submit(id, 1).result()
        counted(pool)
        threadsafe_timeout.uninstall()
        pool.submit(id, 2).result()
        counted(pool)
        with threadsafe_timeout.patched(status_dir="runs_here", checkpoint=None):
            pool.submit(id, 3).result()
            counted(pool)
        until(lambda: not [thread for thread in threading.enumerate() if "record" in thread.name])
        """,
    )
    first, second = sorted(folders(tmp_path), key=lambda one: events(one)[0]["t"])
    for folder in (first, second):
        assert [events(folder)[0]["kind"], events(folder)[-1]["kind"], events(folder)[-1]["how"]] == ["run", "end", "uninstall"]
    assert [line["task"] for line in of_kind(first, "task")] == ["id(1)"]
    assert [line["task"] for line in of_kind(second, "task")] == ["id(3)"]


def test_processes_of_one_directory_have_a_folder_each(tmp_path: Path) -> None:
    line = command(tmp_path, "with ThreadPoolExecutor(2) as pool: list(pool.map(id, range(50)))")
    children = [subprocess.Popen(line, cwd=tmp_path, env=environment()) for _ in range(4)]
    assert [child.wait(110) for child in children] == [0] * 4
    assert {status(folder)["pid"] for folder in folders(tmp_path)} == {child.pid for child in children}
    for folder in folders(tmp_path):
        assert len(of_kind(folder, "task")) == 50


def fails(tmp_path: Path, program: str) -> None:
    done = run(tmp_path, program + "\nprint(pool.submit(len, 'abc').result())\npool.shutdown()")
    assert done.stdout == "3\n"
    assert done.stderr.count(WARNING) == 1
    assert done.stderr.count("\n") == 1, done.stderr


def test_where_nothing_can_be_made_one_warning_says_so(tmp_path: Path) -> None:
    (tmp_path / "runs_here").mkdir()
    (tmp_path / "runs_here" / "runs").write_text("")
    fails(tmp_path, "pool = ThreadPoolExecutor(1); pool.submit(id, 1).result()")


def test_a_folder_that_is_removed_ends_the_record(tmp_path: Path) -> None:
    program = """
    import shutil
    from threadsafe_timeout._pool import observer
    from threadsafe_timeout._record import recording
    pool = ThreadPoolExecutor(1)
    gate = threading.Event()
    pool.submit(gate.wait)
    until(status)
    with recording._recording._work: shutil.rmtree("runs_here")  # nothing is written into what is just being removed
    until(lambda: observer.ending is None)
    gate.set()
    """
    fails(tmp_path, "\n".join(line.strip() for line in program.splitlines()))


def test_a_full_disk_ends_the_record(tmp_path: Path) -> None:
    program = """
    import resource
    from threadsafe_timeout._pool import observer
    sys.dont_write_bytecode = True  # what is cut off would be taken for whole by the next program
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    pool = ThreadPoolExecutor(1)
    gate = threading.Event()
    pool.submit(gate.wait)
    until(status)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    until(lambda: observer.ending is None)
    gate.set()
    """
    fails(tmp_path, "\n".join(line.strip() for line in program.splitlines()))
    [folder] = folders(tmp_path)
    assert status(folder)["state"] == "running"  # the last that could be written


def old(runs: Path, name: str, **status: object) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("")
    (folder / "status.json").write_text(json.dumps({"state": "running", "pid": 2**22 + 1, "start_time": 1, **status}))
    return folder


def test_old_runs_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    runs = tmp_path / "runs_here" / "runs"
    ended = [old(runs, f"20200101-00000{number}-7", state="ended", pid=os.getpid(), start_time=None) for number in range(3)]
    dead = old(runs, "20200101-000009-4194305")
    alive = old(runs, f"20190101-000000-{os.getpid()}", pid=os.getpid(), start_time=None)
    made = runs / f"20190101-000001-{os.getpid()}"
    made.mkdir()
    with_more = old(runs, "20190101-000002-7", state="ended")
    (with_more / "report.html").write_text("mine")
    other = runs / "mine"
    other.mkdir()
    target = old(tmp_path / "elsewhere", "20190101-000003-7", state="ended")
    (runs / "20190101-000003-7").symlink_to(target)
    run(
        tmp_path,
        """
        threadsafe_timeout.install(status_dir="runs_here", keep_runs=2, checkpoint=None)
        ThreadPoolExecutor(1).submit(id, 1).result()
        """,
    )
    left = set(folders(tmp_path))
    assert {alive, made, with_more, other, dead, runs / target.name} <= left
    assert not left & set(ended)
    assert (target / "events.jsonl").exists()


def test_a_run_that_lives_where_its_number_means_nothing_is_not_deleted(tmp_path: Path) -> None:
    import fcntl

    folder = old(tmp_path / "runs_here" / "runs", "20190101-000000-4194305")
    with open(folder / "events.jsonl") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run(
            tmp_path,
            """
            threadsafe_timeout.install(status_dir="runs_here", keep_runs=1, checkpoint=None)
            ThreadPoolExecutor(1).submit(id, 1).result()
            """,
        )
    assert folder.exists()
