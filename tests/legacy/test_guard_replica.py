"""The replica of the legacy runner, with models that never come to an end: ended, counted, and no call after it."""

from __future__ import annotations

from collections import Counter

import pytest
from blocked import LONG
from test_legacy_runner import STEADY, database, journal, prepare, started

from threadsafe_timeout.checkpoint import load_checkpoint
from threadsafe_timeout.testing.fake_llm import FakeLLM

# The server answers fast and the runner has time: what is looked at is who ends a loop, not when.
SERVER_MINUTE = 0.03
SLOWLY = STEADY + "import os\nos.environ['LEGACY_MINUTE_SECONDS'] = '60'\n"
MIX = {"search": 2, "paraphrase": 2, "cycle": 1, "alternate": 2, "cut": 2, "empty": 2, "good": 1}
# LLM calls until the guard sees it, and what the result says. All have ten turns to lose.
ENDED = {
    "search": (4, "search_loop"),
    "paraphrase": (4, "search_loop"),
    "cycle": (4, "search_loop"),
    "alternate": (7, "search_loop"),
    "cut": (3, "no_action_loop"),
    "empty": (5, "no_action_loop"),
}


def chat_requests(server) -> Counter:
    return Counter(one.task for one in server.requests() if "chat" in one.path and one.task != "classifier")


@pytest.mark.parametrize("version", ["2025-08-16", "last"])
def test_every_loop_is_ended_and_no_call_is_made_after_it(version, tmp_path):
    script = prepare(tmp_path, version)
    (tmp_path / "src" / "sitecustomize.py").write_text(SLOWLY)
    with FakeLLM(mix=MIX, seed=5, minute=SERVER_MINUTE) as server:
        with started(script, tmp_path, server, path=tmp_path / "src", llm_timeout=LONG) as process:
            assert process.wait(120) == 0, (tmp_path / "out.txt").read_text()
        asked = chat_requests(server)
        behaviours = {task: server.behaviour(task) for task in asked}
    said = (tmp_path / "out.txt").read_text()
    for task, behaviour in behaviours.items():
        if behaviour in ENDED:
            assert asked[task] == ENDED[behaviour][0], (task, behaviour, said[-2000:])
    checkpoint = load_checkpoint(journal(tmp_path))
    looped = [record.result for record in checkpoint.values() if record.status == "loop"]
    assert len(looped) == sum(MIX.values()) - MIX["good"]
    assert Counter(result["error_type"] for result in looped) == Counter(
        kind for behaviour, (_, kind) in ENDED.items() for _ in range(MIX[behaviour])
    )
    for result in looped:
        assert result["success"] is False
        assert result["tool_coverage_rate"] is not None, "the executor's own evaluation ran"
        assert result["conversation_history"], "with all that was said before"
        assert result["error_type"].replace("_", " ").capitalize() in result["error"]
    summary = database(tmp_path)["summary"]
    assert summary["total_tests"] == sum(MIX.values())
    counts = counters(database(tmp_path))
    assert counts["timeout_errors"] == 0, "a loop is not counted as a timeout"
    assert counts["other_errors"] >= len(looped)
    assert "6 answers ended in an unclosed <tool_call>" in said


def counters(value) -> Counter:
    """The counters of the deepest levels of the database, added up."""
    found: Counter = Counter()
    if isinstance(value, dict):
        deeper = sum((counters(one) for one in value.values()), Counter())
        if deeper:
            return deeper
        found.update({name: value[name] for name in ("timeout_errors", "other_errors") if isinstance(value.get(name), int)})
    return found


def test_a_mended_run_does_its_work(tmp_path):
    """What the stop sequence cut is mended: the tools run, and the task ends with the runner's turns."""
    script = prepare(tmp_path, "last")
    (tmp_path / "src" / "sitecustomize.py").write_text(
        SLOWLY + "os.environ['THREADSAFE_TIMEOUT_GUARD_REPAIR'] = 'cut-tags'\n"
        "os.environ['THREADSAFE_TIMEOUT_GUARD_LIMITS'] = 'repeats=off'\n"
    )
    with FakeLLM(mix={"cut": 1}, seed=5, minute=SERVER_MINUTE) as server:
        with started(script, tmp_path, server, path=tmp_path / "src", llm_timeout=LONG) as process:
            assert process.wait(120) == 0, (tmp_path / "out.txt").read_text()
        asked = chat_requests(server)
    assert set(asked.values()) == {10}
    records = load_checkpoint(journal(tmp_path)).values()
    assert all(record.result["executed_tools"] for record in records)
    assert "120 of them were mended" in (tmp_path / "out.txt").read_text()
