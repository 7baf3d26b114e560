"""Names, keys and reasons that a model made up: harmless where a person reads them, and as they are in attributes."""

from __future__ import annotations

import argparse
import logging
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from blocked import expire

from threadsafe_timeout import (
    CancelScope,
    CancelSource,
    DeadlineExceeded,
    PoolExhausted,
    ThreadPoolExecutor,
    deadline,
    sleep,
)
from threadsafe_timeout._text import escaped, nearest, shown
from threadsafe_timeout.checkpoint import (
    CheckpointConfigMismatch,
    CheckpointCorrupt,
    CheckpointWriter,
    command,
    load_checkpoint,
)

FORGED = "CRITICAL root: forged"
EVIL = [
    f"a\n{FORGED}", f"a\r\n{FORGED}", f"a\x85{FORGED}", f"a\u2028{FORGED}", f"a\u2029{FORGED}", f"a\x0b{FORGED}", "a\x1b[2J\x1b]0;t\x07",
    "a\x9b2J", "a\u202eb\u2066c", "\u200fa", "a\0b", "a\udc80", "a\x08\x08b", "a\x7f",
]  # fmt: skip


def harmless(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text) and not any(
        line.startswith(FORGED) for line in text.splitlines()
    )


@pytest.mark.parametrize("evil", EVIL)
def test_what_is_shown_is_one_harmless_line(evil: str) -> None:
    for text in (shown(evil), escaped(evil)):
        assert text.isprintable()
        assert len(text.splitlines()) == 1
    assert shown(evil)[0] in "'\""


@pytest.mark.parametrize("name", ["case 17", "模型-1", "é", "a'b", "back\\slash", "\U0001f600"])
def test_what_is_harmless_is_shown_as_it_is(name: str) -> None:
    assert shown(name) == name == escaped(name)


def test_a_long_name_is_cut() -> None:
    assert len(shown("x" * 10**6)) < 400


def test_what_was_meant_is_suggested() -> None:
    assert nearest("faild", ["failed", "timeout"]) == "; did you mean 'failed'?"
    assert nearest("Task-Timeout", ["task_timeout"]) == "; did you mean 'task_timeout'?"
    assert nearest("xyzzy", ["failed"]) == ""


@pytest.mark.parametrize("evil", EVIL)
def test_errors(evil: str) -> None:
    where = ("file.py", 1, "f")
    for error, attributes in (
        (DeadlineExceeded(evil, 1.0, 1.0, evil), {"name": evil, "reason": evil}),
        (PoolExhausted("pool" + evil, 1, 0, ((evil, where),)), {"pool": "pool" + evil, "holders": ((evil, where),)}),
        (CheckpointConfigMismatch("p" + evil, "a", evil, (evil,)), {"path": "p" + evil, "found": evil, "fields": (evil,)}),
        (CheckpointCorrupt("p" + evil, 1, 0, "reason"), {"path": "p" + evil}),
    ):
        for one in (error, pickle.loads(pickle.dumps(error))):
            assert harmless(str(one))
            assert {name: getattr(one, name) for name in attributes} == attributes


def test_scopes_and_tokens() -> None:
    for evil in EVIL:
        source = CancelSource()
        source.cancel(evil)
        scope = CancelScope(name=evil, token=source.token)
        with scope:
            pass
        assert harmless(repr(scope) + repr(source.token))
        assert (scope.name, source.token.reason) == (evil, evil)
        with pytest.raises(DeadlineExceeded) as caught, deadline(0.001, name=evil):
            sleep(30)
        assert harmless(str(caught.value))
        assert caught.value.name == evil


@pytest.mark.parametrize("evil", EVIL)
def test_a_pool_tells_of_its_tasks(evil: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []
    gate = threading.Lock()
    gate.acquire()

    def acquire() -> None:  # no interrupt strikes in what is called so: it gets where it is to be stuck
        expire()
        with gate:
            pass

    with (
        caplog.at_level(logging.INFO, "threadsafe_timeout"),
        CheckpointWriter(tmp_path / "run.jsonl") as writer,
        ThreadPoolExecutor(1, "pool" + evil, grace=0.02, max_abandoned=0, checkpoint=writer) as pool,
    ):
        pool.on_event(events.append)
        one = pool.with_options(name=evil, key=f"key{evil}").submit(acquire)
        with pytest.raises(DeadlineExceeded) as caught:
            one.result(120)
        with pytest.raises(PoolExhausted) as exhausted:
            pool.submit(acquire)
        health = repr(pool.health())
        gate.release()
        pool.shutdown()
        pool._crew.events.flush(120)
    for text in (str(caught.value), str(exhausted.value), health):
        assert harmless(text)
    assert caught.value.name == evil
    assert exhausted.value.holders[0][0] == f"{evil} (key key{evil})"
    assert {event.task for event in events if event.task} == {evil}
    told = [record for record in caplog.records if getattr(record, "event", None)]
    assert {record.event for record in told} >= {"overdue", "interrupting", "abandoned", "exhausted"}
    for record in told:
        assert harmless(record.getMessage())
        if record.event != "exhausted":
            assert (record.task, record.key) == (evil, f"key{evil}")
    assert list(load_checkpoint(tmp_path / "run.jsonl")) == [f"key{evil}"]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: object) -> str:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        command.run(parser.parse_args([str(argument) for argument in arguments]))
        said = capsys.readouterr()
        return said.out + said.err

    path, other = tmp_path / "run.jsonl", tmp_path / "other.jsonl"
    for name, status in ((path, "failed"), (other, "timeout")):
        with CheckpointWriter(name, mode="fast") as writer:
            for evil in EVIL:
                writer.started(evil)
                writer.save(evil, {"error": evil}, status=status + evil)
                writer.save(f"{name.stem}{evil}", ValueError(evil), status="failed")
    for said in (call("show", path, "-n", 100), call("diff", path, other), call("show", tmp_path / f"no\n{FORGED}")):
        assert harmless(said)
    assert len(call("diff", path, other).splitlines()) == 3 * len(EVIL) + 1
