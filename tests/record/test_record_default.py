"""A program that sets nothing is recorded, in the directory in which it began, and not where nobody would look."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import environment, events, of_kind, status

from threadsafe_timeout import ThreadPoolExecutor
from threadsafe_timeout._pool import observer
from threadsafe_timeout._record.notes import Notes

WARNING = "is not recorded any more"


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, with no setting at all."""
    (folder / "program.py").write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=110, check=False,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def recorded(folder: Path) -> list[Path]:
    return sorted(folder.glob(".threadsafe_timeout/runs/*"))


def test_the_line_is_enough(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import threadsafe_timeout.auto
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool: list(pool.map(abs, range(30)))
        """,
    )
    assert not done.stderr
    [folder] = recorded(tmp_path)
    assert len(of_kind(folder, "task")) == 30
    assert status(folder)["state"] == "ended"
    assert events(folder)[0]["settings"] == {}


def test_a_program_without_a_pool_or_without_the_line_writes_nothing(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import threadsafe_timeout.auto, concurrent.futures, sys
        from threadsafe_timeout import move_on_after
        with move_on_after(5): pass
        concurrent.futures.ThreadPoolExecutor(1).shutdown()
        assert "threadsafe_timeout._record.recorder" not in sys.modules
        """,
    )
    run(
        tmp_path,
        "from threadsafe_timeout import ThreadPoolExecutor\nwith ThreadPoolExecutor(1) as pool: pool.submit(abs, 1).result()",
    )
    assert not (tmp_path / ".threadsafe_timeout").exists()


def test_the_folder_is_where_the_program_began(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    run(
        tmp_path,
        """
        import threadsafe_timeout.auto
        import os, sys
        assert "threadsafe_timeout._pool.crew" not in sys.modules
        os.chdir("elsewhere")
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool: pool.submit(abs, 1).result()
        """,
    )
    assert len(recorded(tmp_path)) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_journals_that_are_there_too_stay(tmp_path: Path) -> None:
    journals = [tmp_path / ".threadsafe_timeout" / name for name in ("runs.jsonl", "runs/mine.jsonl", "20200101-000000-7.jsonl")]
    journals[1].parent.mkdir(parents=True)
    for journal in journals:
        journal.write_text("mine")
    program = """
    import threadsafe_timeout
    threadsafe_timeout.install(keep_runs=1)
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(2) as pool: pool.submit(abs, 1).result()
    """
    run(tmp_path, program)
    [first] = set(recorded(tmp_path)) - set(journals)
    run(tmp_path, program)
    [second] = set(recorded(tmp_path)) - set(journals)
    assert first != second
    assert [journal.read_text() for journal in journals] == ["mine"] * 3


def test_a_child_of_multiprocessing_writes_nothing(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import threadsafe_timeout.auto
        import multiprocessing, sys
        from concurrent.futures import ThreadPoolExecutor
        def work(number):
            with ThreadPoolExecutor(2) as pool: return list(pool.map(abs, range(number)))
        if __name__ == "__main__":
            work(3)
            for method in ("spawn", "fork"):
                child = multiprocessing.get_context(method).Process(target=work, args=(5,))
                child.start()
                child.join()
                assert child.exitcode == 0
        """,
    )
    [folder] = recorded(tmp_path)
    assert status(folder)["totals"]["done"] == 3


@pytest.mark.parametrize("hindrance", ["open('.threadsafe_timeout', 'w').close()", "os.rmdir(os.getcwd())"])
def test_where_it_cannot_write_one_line_says_so(tmp_path: Path, hindrance: str) -> None:
    done = run(
        tmp_path,
        f"""
        import os, tempfile
        os.chdir(tempfile.mkdtemp(dir="."))
        {hindrance}
        import threadsafe_timeout.auto
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool: print(sum(pool.map(abs, range(5))))
        """,
    )
    assert done.stdout == "10\n"
    assert [WARNING in line for line in done.stderr.splitlines()] == [True], done.stderr


class Listener:
    """Hears what the recorder hears of tasks that end."""

    def __init__(self, notes: Notes) -> None:
        self.ending = notes.ending


class Counter:
    """Hears of all."""

    def __init__(self) -> None:
        self.heard: deque[object] = deque()

    def ending(self, task: object, error: BaseException | None) -> None:
        self.heard.append(task)


@pytest.fixture
def notes() -> Iterator[Notes]:
    notes = Notes()
    listener = Listener(notes)
    observer.attach(listener)
    yield notes
    observer.detach(listener)
    assert not observer._resting


def test_the_pool_does_not_call_for_more_tasks_than_have_a_line(notes: Notes) -> None:
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(abs, range(300)))
        assert observer.ending_well is None
        assert isinstance(pool.submit(int, "no number").exception(), ValueError)
        pool.submit(abs, 1).result()  # which has no line; the worker is done with the one before
        assert [note.outcome for note in notes.take_tasks()] == ["done"] * 200 + ["failed"]
        assert observer.ending_well == notes.ending
        pool.submit(abs, 1).result()
        pool.submit(abs, 1).result()  # the worker is done with the one before
        assert notes.take_tasks()


def test_another_observer_hears_of_every_task(notes: Notes) -> None:
    counter = Counter()
    observer.attach(counter)
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(abs, range(500)))
    finally:
        observer.detach(counter)
    assert len(counter.heard) == 500
    assert len(notes.tasks) <= 202  # two workers may both have looked


def test_what_is_taken_in_between_does_not_leave_it_resting(notes: Notes) -> None:
    """The recorder takes the notes after a worker has seen that there are enough, and before that one has it rest."""
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(abs, range(250)))
    notes.take_tasks()
    observer.rest(notes.ending, notes._is_full)
    assert observer.ending_well == notes.ending


USES_A_POOL = """
import threadsafe_timeout.auto
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool: pool.submit(abs, 1).result()
"""
SAVES = """
from threadsafe_timeout import CheckpointWriter
with CheckpointWriter(".threadsafe_timeout/own.jsonl") as writer: writer.save("a", 1)
"""


@pytest.mark.parametrize("program", [USES_A_POOL, SAVES], ids=["the files of a run", "a journal"])
def test_git_passes_over_the_folder_that_was_made(tmp_path: Path, program: str) -> None:
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    for _ in range(2):
        run(tmp_path, program)
    told = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["??", "program.py"]


def test_a_folder_that_was_there_is_its_owners(tmp_path: Path) -> None:
    (tmp_path / ".threadsafe_timeout").mkdir()
    for program in (USES_A_POOL, SAVES):
        run(tmp_path, program)
    assert sorted(one.name for one in (tmp_path / ".threadsafe_timeout").iterdir()) == ["own.jsonl", "own.jsonl.lock", "runs"]


def test_a_folder_of_the_programs_is_not_left_out_for_its_journal(tmp_path: Path) -> None:
    run(tmp_path, SAVES.replace(".threadsafe_timeout", "results"))
    assert sorted(one.name for one in (tmp_path / "results").iterdir()) == ["own.jsonl", "own.jsonl.lock"]
