"""One task in a hundred brings the program down: `run --supervise` marks it, and the others have their results.

The stalls are as long as a busy machine needs: a start whose stall is seen too early is started again, and restarts are
many. But a task that is innocent is never marked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from poison_programs import BAD, KEYED, LEGACY, SAVED, program

from threadsafe_timeout._processes.lives import End
from threadsafe_timeout._supervision import threads
from threadsafe_timeout._supervision.heart import Heart
from threadsafe_timeout._supervision.threads import Sample
from threadsafe_timeout.checkpoint import load_checkpoint

STALLS = ("waits with the GIL", "computes with the GIL", "deadlock")
STACKS = """Fatal Python error: Segmentation fault

Thread 0x0000000000000010 (most recent call first):
  File "{stdlib}/threading.py", line 359 in wait
  File "/elsewhere/runner.py", line 3 in ask

Current thread 0x0000000000000011 [ask_1] (most recent call first):
  File "{stdlib}/ctypes/__init__.py", line 517 in string_at

Thread 0x0000000000000012 (most recent call first):
  <no Python frame>

Thread 0x0000000000000013 (most recent call first):
  File "/site-packages/threadsafe_timeout_patches/sleep.py", line 20 in sleep
  File "/elsewhere/runner.py", line 3 in ask

Thread 0x0000000000000014 (most recent call first):
  File "/site-packages/threadsafe_timeout/_pool/task_scope.py", line 20 in run_in_scope

Thread 0x0000000000000015 (most recent call first):
  File "/site-packages/threadsafe_timeout/checkpoint/_writer.py", line 263 in _commit

Thread 0x0000000000000016 (most recent call first):
  File "/site-packages/threadsafe_timeout/checkpoint/_values.py", line 20 in dumps

Extension modules: _ctypes (total: 1)
"""
pytestmark = [
    pytest.mark.usefixtures("nothing_set"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc"),
]


def supervise(
    code: str, *options: str, number: int = 100, bad: int = 37, name: str = "runner.py"
) -> tuple[int, list[object], str]:
    """Its status, what it has told, and its errors."""
    Path(name).write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "threadsafe_timeout", "run", "--supervise", *options, name, str(number), str(bad)],
        capture_output=True, text=True, timeout=280, env={**os.environ, "PYTHONUNBUFFERED": "1"}, check=False,
    )  # fmt: skip
    last = done.stdout.splitlines()[-1:]
    return done.returncode, json.loads(last[0]) if last else [], done.stderr


def statuses(path: Path) -> dict[str, int]:
    return dict(load_checkpoint(path).counts())


def journal() -> Path:
    (found,) = Path(".threadsafe_timeout").glob("runner.tasks*.jsonl")
    return found


@pytest.mark.parametrize(
    "bad", [pytest.param(name, marks=[] if name == "crashes" else [pytest.mark.stress]) for name in BAD]
)
def test_one_in_a_hundred(bad: str) -> None:
    stall = ["--stall", "4", "--restarts", "20"] if bad in STALLS else []
    status, told, errors = supervise(program(bad, SAVED), "--save", *stall)
    assert (status, told) == (0, [99, ["TaskPoisoned"]]), errors
    assert statuses(journal()) == {"done": 99, "poison": 1}
    assert "; poison 1: ask(37) (ask:" in errors.splitlines()[-1]
    assert "is marked poison" in errors


def test_what_stacks_tell() -> None:
    stacks = STACKS.format(stdlib=sysconfig.get_path("stdlib"))
    assert threads.crashed_thread(stacks) == 0x11
    assert threads.resting(stacks) == [0x10, 0x13, 0x15]
    assert threads.crashed_thread(stacks.partition("\n")[2]) is None
    assert threads.resting("") == []


def test_what_two_looks_at_threads_tell() -> None:
    before = {1: Sample(1.0, 100), 2: Sample(5.0, 10), 3: Sample(0.0, 10), 5: Sample(0.0, 0)}
    after = {1: Sample(1.1, 200), 2: Sample(5.9, 10), 3: Sample(0.0, 12), 4: Sample(0.0, 99)}
    end = threads.of_samples(End(9, 0.0, 1.0, "it stalled"), before, after, 1.0)
    assert (end.held, end.busy, end.waiting) == (True, [2], [1])
    end = threads.of_samples(end, before, {3: after[3]}, 1.0)
    assert (end.held, end.busy, end.waiting) == (False, [], [])


def test_what_a_program_says_between_its_beats() -> None:
    reading, writing = os.pipe()
    try:
        heart = Heart(reading, 8)
        for part in (b"..", b'{"poison": "a.b"}\n', b'..{"poi', b'son": "..c"}\n.', b"no json\n", b"."):
            os.write(writing, part)
            heart.listen(0)
        assert heart.told == [{"poison": "a.b"}, {"poison": "..c"}]
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.stress
@pytest.mark.parametrize("bad", ["waits with the GIL", "is killed"])
def test_tasks_with_keys(bad: str) -> None:
    status, told, errors = supervise(program(bad, KEYED), "--stall", "4", "--restarts", "20")
    assert (status, told[1]) == (0, ["TaskPoisoned"]), errors
    assert statuses(Path("keyed.jsonl")) == {"done": 99, "poison": 1}
    assert load_checkpoint("keyed.jsonl")["37"].status == "poison"
    assert "; poison 1: 37; last exit status 0" in errors.splitlines()[-1]


@pytest.mark.stress
def test_the_legacy_runner() -> None:
    """Its own record says so, and nothing else of it is changed."""
    status, told, errors = supervise(program("crashes", LEGACY), name="batch_test_runner.py")
    assert (status, told) == (0, [99, ["poison"]]), errors
    assert statuses(Path(".threadsafe_timeout/batch_test_runner.jsonl")) == {"done": 99, "poison": 1}


@pytest.mark.stress
def test_it_is_tried_again_if_that_is_asked_for() -> None:
    code = program("crashes", SAVED)
    assert supervise(code, "--save", number=12, bad=3)[1] == [11, ["TaskPoisoned"]]
    mended = code.replace(BAD["crashes"], "return")
    assert supervise(mended, "--save", "--set", "resume=always", number=12, bad=3)[1] == [11, ["TaskPoisoned"]]
    again = supervise(mended, "--save", "--set", "resume=always", "--set", "retry=poison", number=12, bad=3)
    assert again[1] == [12, []]
    assert statuses(journal()) == {"done": 12}
