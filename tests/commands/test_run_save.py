"""`threadsafe-timeout run --save`: runners that know of no saving are killed, and go on where they were."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paces import at_some_pace
from saved_programs import PROGRAMS

from threadsafe_timeout.checkpoint import iter_records, load_checkpoint
from threadsafe_timeout.cli import main
from threadsafe_timeout.testing.fake_llm import FakeLLM

pytestmark = pytest.mark.usefixtures("nothing_set")
EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = [sys.executable, "-m", "threadsafe_timeout", "run", "--save"]
LONG_ONES = [pytest.mark.stress, pytest.mark.long]
TEN = [0, *(pytest.param(seed, marks=LONG_ONES if seed > 3 else pytest.mark.stress) for seed in range(1, 10))]


@contextmanager
def started(*arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*RUN, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environ},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[bytes]) -> bytes:
    process.send_signal(signal.SIGKILL)
    return process.communicate(timeout=120)[0]


def to_its_end(process: subprocess.Popen[bytes]) -> list[str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


def finished(journal: Path) -> set[Any]:
    return {key for key, record in load_checkpoint(journal).items() if record.status == "done"}


def assert_nothing_finished_began_again(journal: Path) -> None:
    done = set()
    for record in iter_records(journal):
        assert record.key not in done
        if record.status == "done":
            done.add(record.key)


@pytest.mark.parametrize("seed", TEN)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_killed_runner_goes_on(name: str, seed: int) -> None:
    code, number, wide, results = PROGRAMS[name]
    Path("runner.py").write_text(code, encoding="utf-8")
    journal = Path(".threadsafe_timeout/runner.tasks.jsonl")
    let_go = random.Random(f"{name} {seed}").randrange(1, number - wide)
    with started("runner.py") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"." * let_go)
        began = [process.stdout.readline() for _ in range(let_go + 1)]
        began += kill(process).splitlines()
    assert let_go < len(began) <= let_go + wide
    before = finished(journal)
    with started("runner.py") as process:
        *again, last = to_its_end(process)
    assert json.loads(last) == results
    assert_nothing_finished_began_again(journal)
    inner = {key for key in before if not str(key).startswith("evaluate:")}
    whole = len(before) - len(inner)  # outer tasks, with their three
    assert len(inner) <= let_go
    assert len(inner) >= let_go - wide  # those whose record was being written
    assert len(again) == number - len(inner)
    assert whole * 3 <= len(inner)


COUNTED = """
from concurrent.futures import ThreadPoolExecutor
from threadsafe_timeout.checkpoint import checkpointed

def double(number):
    return 2 * number

def no_data(number):
    return object()

@checkpointed("other.jsonl", key=str)
def kept(number):
    return number

with ThreadPoolExecutor(2) as pool:
    for function, count in ((double, 3), (no_data, 2)):
        list(pool.map(function, range(count)))
kept(1)
"""


def test_what_is_saved_is_counted_in_the_files_of_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    """However it is saved. A task whose result is no data is not."""
    Path("runner.py").write_text(COUNTED, encoding="utf-8")
    with started("--set", "summary=on", "runner.py") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    assert "5 done, 0 failed, 0 timed out, 4 saved; " in err.decode()
    [run] = Path(".threadsafe_timeout/runs").iterdir()
    assert json.loads((run / "status.json").read_text())["totals"]["saved"] == 4
    ticks = [line for line in map(json.loads, (run / "events.jsonl").read_text().splitlines()) if line["kind"] == "tick"]
    assert ticks[-1]["saved"] == 4
    assert main(["report", "-o", "-"]) == 0
    page = capsys.readouterr().out
    assert "3 finished tasks are in the journal" in page
    assert "before it was killed" not in page


def test_a_run_that_ended_is_begun_anew() -> None:
    code, number, _, _ = PROGRAMS["map"]
    Path("runner.py").write_text(code, encoding="utf-8")
    for _ in range(2):
        with started("runner.py") as process:
            assert len(to_its_end(process)) == number + 1


@pytest.mark.parametrize("seed", TEN)
def test_the_example_on_threads(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saves by itself what it wants to, and is not disturbed. Its tasks have a second, in which on a busy machine not
    all of them are done."""

    def example(pace: int) -> None:
        (tmp_path / str(pace)).mkdir()
        monkeypatch.chdir(tmp_path / str(pace))
        the_example_on_threads(seed, pace)

    at_some_pace(example)


def the_example_on_threads(seed: int, pace: int) -> None:
    example = (EXAMPLES / "guarded_batch.py").read_text(encoding="utf-8")
    assert "task_timeout=1," in example
    Path("guarded_batch.py").write_text(example.replace("task_timeout=1,", f"task_timeout={pace},"), encoding="utf-8")
    with started("guarded_batch.py") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(random.Random(seed).randrange(1, 28))]
        lines += kill(process).decode().splitlines()
    before = finished(Path("guarded_batch.jsonl"))
    assert {line.split()[0] for line in lines if line.split()[1:] in (["0.05"], ["0.1"])} <= before
    with started("guarded_batch.py") as process:
        rest = {line.split()[0] for line in to_its_end(process)}
    assert not rest & before
    assert_nothing_finished_began_again(Path(".threadsafe_timeout/guarded_batch.tasks.jsonl"))
    for number in range(30):
        seconds = random.Random(number).choice([0.05, 0.1, 3600])
        record = load_checkpoint("guarded_batch.jsonl")[f"task-{number}"]
        assert record.status == ("timeout" if seconds == 3600 else "done")
        assert seconds in (3600, record.result)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(10))
def test_the_example_on_asyncio(seed: int) -> None:
    """Its tasks are saved by their keys, as it says; `--save` leaves them alone."""
    shutil.copy(EXAMPLES / "async_batch.py", ".")
    with FakeLLM(mix={"good": 1}, seed=seed) as server:
        environ = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "unused"}
        with started("async_batch.py", **environ) as process:
            assert process.stdout is not None
            for _ in range(random.Random(seed).randrange(1, 28)):
                process.stdout.readline()
            kill(process)
        before = finished(Path("async_batch.jsonl"))
        with started("async_batch.py", **environ) as process:
            rest = {line.partition(" ")[0] for line in to_its_end(process)}
    assert not rest & before
    assert_nothing_finished_began_again(Path("async_batch.jsonl"))
    assert len(finished(Path("async_batch.jsonl"))) == 30
    assert not list(Path().glob(".threadsafe_timeout/*.jsonl"))


CHILD = """
import multiprocessing, sys
from concurrent.futures import ThreadPoolExecutor

def square(number):
    return number * number

def squares(numbers, queue):
    with ThreadPoolExecutor(1) as pool:
        queue.put(list(pool.map(square, numbers)))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.SimpleQueue()
    squares([1, 2], queue)
    child = context.Process(target=squares, args=([2, 3], queue))
    child.start()
    print(queue.get(), queue.get())
    child.join()
    sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.stress), pytest.param("forkserver", marks=pytest.mark.stress)])
def test_a_child_process_saves_nothing(method: str) -> None:
    Path("runner.py").write_text(CHILD, encoding="utf-8")
    with started("runner.py", method, PYTHONWARNINGS="ignore") as process:
        assert to_its_end(process) == ["[1, 4] [4, 9]"]
    (journal,) = Path(".threadsafe_timeout").glob("*.jsonl")
    assert [record.result for record in load_checkpoint(journal).values()] == [1, 4]
    assert load_checkpoint(journal).ended


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str], keeps_sigint: None) -> None:
    assert main(["run", "--save", "--set", "save=task", "main.py"]) == 2
    assert capsys.readouterr().err.startswith("threadsafe-timeout: --set: save: must be one of tasks, off, got 'task'")
