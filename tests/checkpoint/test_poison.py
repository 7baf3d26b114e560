"""Tasks that bring the program down, from the view of the journal: which are suspected, marked, refused, tried again.

Earlier starts of the program are made up: they are this process, at another time. `supervised` says how they ended.
"""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from threadsafe_timeout import TaskPoisoned, ThreadPoolExecutor
from threadsafe_timeout._processes import lives as _lives
from threadsafe_timeout._processes.lives import End, Thread
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint import (
    CheckpointWriter,
    checkpointed,
    iter_records,
    load_checkpoint,
    open_run,
)
from threadsafe_timeout.checkpoint._run import check_retry
from threadsafe_timeout.cli import main

ME = threading.get_native_id(), threading.get_ident()
FIVE = {name: Thread(number, 1000 + number) for number, name in enumerate("abcde")}
END = End(1, 0.0, 9.0, "it stalled")

Ends = Callable[..., list[dict[str, object]]]


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    """Have this process be the next start after those ends; what it tells the supervisor."""
    before = _lives.supervised, _lives.earlier, _lives.patience, _lives.tell

    def say(*ends: End) -> list[dict[str, object]]:
        told: list[dict[str, object]] = []
        _lives.remember(ends, 1000.0, told.append)
        return told

    yield say
    _lives.supervised, _lives.earlier, _lives.patience, _lives.tell = before


def life(path: Path, *keys: str, **more: Any) -> End:
    """One start of the program, in which these tasks began, each in a thread of its own, and did not end."""
    since = _clock.wall_time()
    _lives.supervised = True
    with CheckpointWriter(path) as writer:
        for key in keys:
            thread = threading.Thread(target=writer.started, args=[key])
            thread.start()
            thread.join(120)
        writer.close()
    return End(os.getpid(), since, _clock.wall_time(), "it stalled")._replace(**more)


def statuses(path: Path) -> dict[Any, str]:
    return {key: record.status for key, record in load_checkpoint(path).items()}


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (END, "abcde"),
        (END._replace(held=True, busy=[2]), "c"),
        (END._replace(held=True, busy=[99]), ""),
        (END._replace(held=True, waiting=[0, 1, 2], resting=[1003]), "e"),
        (END._replace(held=True, waiting=[0, 1, 2, 3, 4]), ""),
        (END._replace(crashed=1003, resting=[1000]), "d"),
        (END._replace(crashed=99, resting=[1000, 1001, 1002, 1003]), "e"),
        (END._replace(crashed=99, resting=[1000, 1001, 1002, 1003, 1004]), "abcde"),
    ],
)
def test_which_are_suspected(end: End, found: str) -> None:
    assert _lives.suspects(end, FIVE) == frozenset(found)


def test_a_task_whose_thread_is_not_known_is_not_ruled_out() -> None:
    assert _lives.suspects(END._replace(held=True, waiting=[0], busy=[1]), {**FIVE, "f": None}) == {"b", "f"}


@pytest.mark.parametrize(
    ("found", "guilty"),
    [
        (["a"], ""), (["a", "a"], "a"), (["a", "b", "a"], "a"), (["abc", "cde"], "c"), (["abc", "bcd"], ""),
        (["abc", "", "cde"], ""), (["ab", "bc", "c"], "bc"), (["abc", "abc", "abc"], ""), ([], ""),
    ],
)  # fmt: skip
def test_which_are_found_guilty(found: list[str], guilty: str) -> None:
    assert _lives.twice([frozenset(one) for one in found]) == frozenset(guilty)


def test_one_that_was_in_flight_twice_is_marked_and_refused(path: Path, supervised: Ends) -> None:
    ends = [life(path, "a", "b"), life(path, "b", "c")]
    told = supervised(*ends)
    with CheckpointWriter(path) as writer:
        assert statuses(path) == {"a": "started", "b": "poison", "c": "started"}
        with ThreadPoolExecutor(2, checkpoint=writer) as pool:
            by_key = pool.with_options(key=lambda name: name)
            good, bad = by_key.submit(str.upper, "a"), by_key.submit(str.upper, "b")
            assert good.result(120) == "A"
            error = bad.exception(120)
        with pytest.raises(TaskPoisoned):
            writer.started("b")
    assert isinstance(error, TaskPoisoned)
    assert (error.key, error.path, error.ended, error.name) == ("b", str(path), ("it stalled", "it stalled"), "b")
    assert "retry=poison" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert {one["poison"] for one in told} == {"b"}
    assert statuses(path) == {"a": "done", "b": "poison", "c": "started"}


def test_the_mark_outlasts_the_supervisor(path: Path, supervised: Ends) -> None:
    supervised(life(path, "a"), life(path, "a"))
    CheckpointWriter(path).close()
    supervised()
    writer, finished = open_run(path)
    assert "a" not in finished
    with pytest.raises(TaskPoisoned, match="2 times"):
        writer.started("a")
    writer.close()
    writer, finished = open_run(path, retry={"failed"})
    assert finished["a"].status == "poison"
    writer.close()
    writer, finished = open_run(path, retry={"poison"})
    writer.started("a")
    writer.save("a", 1)
    writer.close()
    CheckpointWriter(path).started("a")
    assert [record.status for record in iter_records(path) if record.key == "a"] == [
        "started", "started", "poison", "started", "done", "started",
    ]  # fmt: skip


def test_what_this_supervisor_has_seen_is_not_forgiven(path: Path, supervised: Ends) -> None:
    """Else `--set retry=poison` would have it run at every restart."""
    supervised(life(path, "a"), life(path, "a"))
    writer, _ = open_run(path, retry={"poison"})
    with pytest.raises(TaskPoisoned):
        writer.started("a")
    writer.close()
    writer, _ = open_run(path, retry={"poison"})
    with pytest.raises(TaskPoisoned):
        writer.started("a")
    writer.close()
    assert statuses(path) == {"a": "poison"}


def test_one_that_had_its_outcome_is_not_suspected(path: Path, supervised: Ends) -> None:
    first = life(path, "a", "b")
    with CheckpointWriter(path) as writer:
        writer.save("b", 1)
        writer.close()
    supervised(first._replace(until=_clock.wall_time()), life(path, "a"))
    CheckpointWriter(path).close()
    assert statuses(path) == {"a": "poison", "b": "done"}


def test_one_that_ended_after_the_stall_was_found_is(path: Path, supervised: Ends) -> None:
    """It was ended by the SIGTERM."""
    first = life(path, "a")
    with CheckpointWriter(path) as writer:
        writer.save("a", 1, "failed")
        writer.close()
    supervised(first, life(path, "a"))
    CheckpointWriter(path).close()
    assert statuses(path) == {"a": "poison"}


def test_tasks_of_another_process_are_not_suspected(path: Path, supervised: Ends) -> None:
    supervised(*[life(path, "a", pid=1)] * 2)
    CheckpointWriter(path).close()
    assert statuses(path) == {"a": "started"}


def test_the_suspects_of_a_stall_run_one_at_a_time(path: Path, supervised: Ends) -> None:
    names = [f"t{number}" for number in range(8)]
    supervised(life(path, *names[:5]))
    at_once, most, lock = set[str](), [0, 0], threading.Lock()
    together = threading.Event()  # set once an innocent one has run beside a suspect

    def run(name: str) -> str:
        with lock:
            at_once.add(name)
            suspects = len(at_once & {*names[:5]})
            most[0] = max(most[0], suspects)
            if suspects and len(at_once) > suspects:
                together.set()
        together.wait(120)
        with lock:
            at_once.discard(name)
        return name

    with CheckpointWriter(path) as writer, ThreadPoolExecutor(8, checkpoint=writer, task_timeout=100) as pool:
        futures = [pool.with_options(key=name).submit(run, name) for name in names]
        assert [future.result(120) for future in futures] == names
    assert most[0] == 1


def test_the_time_that_a_suspect_waits_is_not_its_own(path: Path, supervised: Ends) -> None:
    """And one that has had its turn for long is not waited for: it may wait for the other one."""
    supervised(life(path, "a", "b"))
    _lives.patience = 1.0
    begun, over = threading.Event(), threading.Event()

    def first() -> bool:
        begun.set()
        return over.wait(120)

    def second() -> float:
        over.set()
        scope = _around.current_scope()
        assert scope is not None
        return scope.deadline - scope._entered_at

    with CheckpointWriter(path) as writer, ThreadPoolExecutor(2, checkpoint=writer) as pool:
        one = pool.with_options(key="a").submit(first)
        assert begun.wait(120)
        assert pool.with_options(key="b", timeout=60).submit(second).result(120) > 60
        assert one.result(120)


def test_a_suspect_that_waits_can_be_cancelled(path: Path, supervised: Ends) -> None:
    supervised(life(path, "a", "b"))
    inside, over = threading.Event(), threading.Event()

    def run() -> None:
        inside.set()
        over.wait(120)

    with CheckpointWriter(path) as writer, ThreadPoolExecutor(2, checkpoint=writer) as pool:
        first = pool.with_options(key="a").submit(run)
        assert inside.wait(120)
        second = pool.with_options(key="b").submit(run)
        while not second.running():
            inside.wait(0.01)
        second.cancel()
        assert isinstance(second.exception(120), TimeoutError)
        over.set()
        first.result(120)


def test_a_function_that_is_checkpointed(path: Path, supervised: Ends) -> None:
    function = checkpointed(path, key=lambda name: name)(str.upper)
    supervised(life(path, "a"), life(path, "a"))
    with pytest.raises(TaskPoisoned):
        function("a")
    assert function("b") == "B"
    function.close()
    kept = checkpointed(path, key=lambda name: name, retry={"failed"})(str.upper)
    with pytest.raises(TaskPoisoned):
        kept("a")
    kept.close()
    assert statuses(path) == {"a": "poison", "b": "done"}


def test_the_command_shows_and_exports_it(
    path: Path, supervised: Ends, capsys: pytest.CaptureFixture[str]
) -> None:
    supervised(life(path, "a"), life(path, "a", how="it was killed by SIGSEGV"))
    CheckpointWriter(path).close()
    assert main(["checkpoint", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "poison         1" in shown
    assert "it has brought the program down: it stalled; it was killed by SIGSEGV" in shown
    assert main(["checkpoint", "export", str(path), "--to", "json", "--status", "poison"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["key"], record["status"]) == ("a", "poison")
    assert main(["checkpoint", "compact", str(path)]) == 0
    assert statuses(path) == {"a": "poison"}


def test_a_word_that_is_nearly_it_is_refused() -> None:
    with pytest.raises(ValueError, match="poison"):
        check_retry({"poisson"})


def test_without_a_supervisor_nothing_is_written_of_threads(path: Path, supervised: Ends) -> None:
    with CheckpointWriter(path) as writer:
        writer.started("a")
    assert b'"thread"' not in path.read_bytes()
    _lives.supervised = True
    with CheckpointWriter(path) as writer:
        writer.started("b")
    assert b'"thread":[%d,%d]' % ME in path.read_bytes()
