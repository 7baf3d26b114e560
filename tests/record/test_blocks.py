"""Deadlines of blocks that pass are in the files of a run, also of a program without a pool; one that is met costs
nothing, and loads nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from asleep import ON_PATH
from runs import environment, events, folders, of_kind, run, status

from threadsafe_timeout._view.page import Html
from threadsafe_timeout._view.reading import read_run
from threadsafe_timeout._view.report import report

WITHOUT_POOL = """
import sys, time, threading, hashlib
import threadsafe_timeout
threadsafe_timeout.install(status_dir="runs_here", checkpoint=None, summary="on", grace=0.2)
from threadsafe_timeout import deadline, move_on_after

def loaded():
    return [name for name in sys.modules if name.startswith(("threadsafe_timeout._pool.crew", "threadsafe_timeout._record.re"))]
"""


def run_without_pool(folder: Path, program: str) -> tuple[Path, str]:
    """Its run, and what it said."""
    import subprocess
    import sys
    import textwrap

    (folder / "blocks.py").write_text(WITHOUT_POOL + textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "blocks.py"], cwd=folder, capture_output=True, text=True, timeout=110, check=False,
        env=environment() | ON_PATH,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [found] = folders(folder)
    return found, done.stderr


def test_a_program_without_a_pool_is_recorded_when_a_deadline_has_passed(tmp_path: Path) -> None:
    folder, said = run_without_pool(
        tmp_path,
        """
        def fetch():
            with deadline(0.05, name="fetch"):
                time.sleep(300)

        with deadline(300):
            pass
        assert not loaded()
        for _ in range(2):
            try:
                fetch()
            except TimeoutError:
                pass
        with move_on_after(0.05):
            time.sleep(300)
        """,  # and ends at once
    )
    lines = of_kind(folder, "scope")
    assert [(line.get("name"), line["where"][2], line["deadline"]) for line in lines] == [
        ("fetch", "fetch", 0.05), ("fetch", "fetch", 0.05), (None, "<module>", 0.05),
    ]  # fmt: skip
    assert all(line["elapsed"] >= 0.05 for line in lines)
    kinds = [line["kind"] for line in events(folder)]
    assert (kinds[0], kinds[-1]) == ("run", "end")
    assert (status(folder)["state"], status(folder)["totals"]["scopes"]) == ("ended", 3)
    assert f"threadsafe-timeout: 3 deadlines of blocks passed; see the run: threadsafe-timeout report {folder}" in said
    page: Html = report(read_run(folder))
    assert "Deadlines of blocks that passed" in page
    assert "blocks.py:" in page


def test_a_program_that_ends_while_its_record_is_begun_says_its_last_line_all_the_same(tmp_path: Path) -> None:
    folder, said = run_without_pool(
        tmp_path,
        """
        import asleep
        from threadsafe_timeout._record import switch
        loaded, begun = switch._loaded, threading.Event()

        def at_the_exit(name):  # the record has begun, and what says the last line has not
            if name == "summary_lines" and threading.current_thread() is not threading.main_thread():
                begun.set()
                while threading.main_thread().is_alive():
                    time.sleep(0.01)
                asleep.wait_until_asleep(asleep.main_thread)
            return loaded(name)

        switch._loaded = at_the_exit
        with move_on_after(0.05):
            time.sleep(300)
        begun.wait()
        """,
    )
    assert f"threadsafe-timeout: 1 deadline of a block passed; see the run: threadsafe-timeout report {folder}" in said
    assert status(folder)["state"] == "ended"


def test_a_block_that_goes_on_is_told_of_with_its_place(tmp_path: Path) -> None:
    folder, _ = run_without_pool(
        tmp_path,
        """
        from pathlib import Path

        def told():
            for file in Path("runs_here").glob("runs/*/events.jsonl"):
                if '"overdue"' in file.read_text():
                    return True
            return False

        def goes_on(scope):
            with threadsafe_timeout.shield(300):  # it is not to be interrupted before that is seen
                scope.deadline = time.monotonic() + 0.05  # from here on: it cannot pass before this function is reached
                while not told():
                    time.sleep(0.01)

        with move_on_after(300, name="stubborn") as scope:
            goes_on(scope)
        """,
    )
    [line] = of_kind(folder, "overdue")
    assert (line["task"], line["reason"]) == ("stubborn", "deadline")
    assert line["where"][2] in ("goes_on", "told")
    assert [one["name"] for one in of_kind(folder, "scope")] == ["stubborn"]


def test_in_coroutines(tmp_path: Path) -> None:
    folder, _ = run_without_pool(
        tmp_path,
        """
        import asyncio

        async def waits():
            async with move_on_after(0.05, name="waits"):
                await asyncio.sleep(300)

        asyncio.run(waits())
        """,
    )
    [line] = of_kind(folder, "scope")
    assert (line["name"], line["where"][2]) == ("waits", "waits")


def test_many_at_once_are_counted(tmp_path: Path) -> None:
    folder, _ = run_without_pool(
        tmp_path,
        """
        def expire():
            with move_on_after(0):
                threadsafe_timeout.check_cancelled()

        expire()
        from threadsafe_timeout._record import recording
        while not recording._recording:
            time.sleep(0.01)
        with recording._recording._work:  # between two looks, however long it takes
            for _ in range(3000):
                expire()
        """,
    )
    assert status(folder)["totals"]["scopes"] == 3001
    assert 0 < len(of_kind(folder, "scope")) <= 201


def test_a_block_in_a_task_is_told_of_and_the_task_itself_only_as_one(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        from threadsafe_timeout._pool.task import current_task

        def work(seconds):
            with threadsafe_timeout.move_on_after(seconds, name="inner"):
                if seconds == 300:
                    current_task()._scope.deadline = time.monotonic()  # not before: it is to end in here
                time.sleep(300)
        with threadsafe_timeout.ThreadPoolExecutor(2, grace=100) as pool:
            tasks = [pool.submit(work, seconds) for seconds in (0.05, 300)]
            assert tasks[0].result() is None
            assert isinstance(tasks[1].exception(), TimeoutError)
        """,
    )
    [folder] = folders(tmp_path)
    assert [line["name"] for line in of_kind(folder, "scope")] == ["inner"]
    totals = status(folder)["totals"]
    assert (totals["done"], totals["timed_out"], totals["scopes"]) == (1, 1, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_and_a_program_that_wants_no_files_write_nothing(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        def expire():
            with threadsafe_timeout.move_on_after(0.01):
                time.sleep(300)
        child = os.fork()
        if not child:
            expire()
            os._exit(bool(folders := list(Path("runs_here").glob("runs/*"))))
        assert os.waitpid(child, 0)[1] == 0
        threadsafe_timeout.install(status_dir=None)
        expire()
        assert not [name for name in sys.modules if name == "threadsafe_timeout._record.recorder"]
        """,
    )
    assert not folders(tmp_path)
