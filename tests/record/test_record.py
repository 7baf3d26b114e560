"""What a run writes: which files, with what in them, and when it writes none."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from runs import events, folders, of_kind, run, status

SECRET = "sk-proj-" + "Ab3dE6gH9jK2mN5p" * 2


def test_a_run_has_a_folder_for_its_owner_with_each_task_and_the_end(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        def ask(number):
            if number == 3:
                raise ValueError("no such case")
            return number
        with ThreadPoolExecutor(2, thread_name_prefix="batch") as pool:
            for future in [pool.submit(ask, number) for number in range(5)]:
                future.exception()
        """,
    )
    [folder] = folders(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    lines = events(folder)
    assert [line["kind"] for line in lines[:2]] == ["run", "pool"]
    assert {line["task"]: line["outcome"] for line in of_kind(folder, "task")} == {
        **{f"ask({number})": "done" for number in (0, 1, 2, 4)}, "ask(3)": "failed",
    }  # fmt: skip
    [failed] = [line for line in of_kind(folder, "task") if line["outcome"] == "failed"]
    assert failed["error"]["type"] == "ValueError"
    assert failed["error"]["message"] == "no such case"
    assert Path(failed["where"][0]).name == "program.py"
    assert lines[-1]["kind"] == "end"
    assert (lines[-1]["how"], lines[-1]["totals"]["done"], lines[-1]["totals"]["failed"]) == ("exit", 4, 1)
    assert (status(folder)["state"], status(folder)["totals"]) == ("ended", lines[-1]["totals"])


@pytest.mark.parametrize(
    "program",
    [
        "",
        "ThreadPoolExecutor(2).shutdown()",
        "with threadsafe_timeout.move_on_after(60): time.sleep(0)",
    ],
    ids=["nothing", "a pool without a task", "a scope"],
)  # fmt: skip
def test_a_program_without_a_task_writes_nothing(tmp_path: Path, program: str) -> None:
    run(tmp_path, program + "\nassert not [t for t in threading.enumerate() if 'record' in t.name]")
    assert [file.name for file in tmp_path.iterdir()] == ["program.py"]


def test_off_is_off(tmp_path: Path) -> None:
    run(tmp_path, "threadsafe_timeout.install(status_dir=None)\nwith ThreadPoolExecutor(1) as p: p.submit(id, 1).result()")
    assert not folders(tmp_path)


def test_tasks_of_pools_that_are_gone_at_once_are_counted(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        for number in range(150):
            with ThreadPoolExecutor(1, thread_name_prefix=f"pool-{number}") as pool:
                pool.submit(id, number).result()
            with ThreadPoolExecutor(1, thread_name_prefix="twin") as pool:
                pool.submit(id, number).result()
        """,
    )
    [folder] = folders(tmp_path)
    last = status(folder)
    assert (last["totals"]["submitted"], last["totals"]["done"]) == (300, 300)
    assert len(last["pools"]) == 101  # the first, by their names, and one line for all others
    [twin] = [pool for pool in last["pools"] if pool["pool"] == "twin"]
    assert twin["completed"] == 150


def test_tasks_that_come_too_fast_are_counted(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        from threadsafe_timeout._record import recording
        with ThreadPoolExecutor(2) as pool, recording._recording._work:  # between two looks, however long it takes
            list(pool.map(id, range(5_000)))
        """,
    )
    [folder] = folders(tmp_path)
    [pool] = status(folder)["pools"]
    listed = of_kind(folder, "task")
    assert pool["unlisted"] > 0
    assert len(listed) + pool["unlisted"] == pool["completed"] == 5_000


def test_no_secret_is_written(tmp_path: Path) -> None:
    run(
        tmp_path,
        f"""
        secret = {SECRET!r}
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError("no text")
        def ask(key, api_key=None):
            raise ValueError(f"refused: Authorization: Bearer {{api_key or key}}")
        def odd():
            raise Odd
        inside = threading.Event()
        leave = threading.Event()
        def wait(key):
            inside.set()
            leave.wait()
        with threadsafe_timeout.ThreadPoolExecutor(2, thread_name_prefix=secret) as pool:
            pool.submit(ask, secret, api_key=secret).exception()
            pool.with_options(name=f"case {{secret}}").submit(ask, secret).exception()
            pool.submit(odd).exception()
            pool.submit(wait, secret)
            pool.with_options(name=secret).submit(wait, secret)
            inside.wait()
            until(status)
            (Path("runs_here/runs") / status()["run"] / "stacks.request").touch()
            until(lambda: list(Path("runs_here").glob("runs/*/stacks.txt")))
            leave.set()
        """,
    )
    [folder] = folders(tmp_path)
    assert {line["error"]["type"] for line in of_kind(folder, "task") if "error" in line} == {"ValueError", "Odd"}
    for file in folder.iterdir():
        assert SECRET not in file.read_text(), file
        assert SECRET[8:] not in file.read_text(), file
    assert "in wait" in (folder / "stacks.txt").read_text()


def test_a_timeout_and_a_thread_that_is_given_up_are_told_with_their_place(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        from threadsafe_timeout._pool.task import current_task
        lock = threading.Lock()
        def acquire():  # no interrupt strikes in what is called so: it gets where it is to be stuck
            current_task()._scope.deadline = time.monotonic()
            lock.acquire()
        lock.acquire()
        pool = threadsafe_timeout.ThreadPoolExecutor(1, grace=0.05)
        assert isinstance(pool.submit(acquire).exception(), TimeoutError)
        until(lambda: (status() or {}).get("totals", {}).get("abandoned"))
        """,
    )
    [folder] = folders(tmp_path)
    [task] = of_kind(folder, "task")
    assert task["outcome"] == "abandoned"
    assert task["where"][2] == "acquire"
    assert {"overdue", "interrupting", "abandoned"} <= {line["kind"] for line in events(folder)}
    assert status(folder)["totals"]["timed_out"] == 1


def test_the_thread_sleeps_while_nothing_runs_and_wakes_for_the_next_task(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        from threadsafe_timeout._record import recording
        notes = recording._recording._notes
        with ThreadPoolExecutor(2) as pool:
            pool.submit(id, 1).result()
            until(lambda: notes.asleep)
            assert status()["totals"]["done"] == 1
            gate = threading.Event()
            future = pool.submit(gate.wait)
            until(lambda: status()["totals"]["running"] == 1)
            gate.set()
            future.result()
            until(lambda: notes.asleep)
            assert status()["totals"]["done"] == 2
        """,
    )
    [folder] = folders(tmp_path)
    assert status(folder)["totals"]["done"] == 2
