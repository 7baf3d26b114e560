"""The guard ends an interactive loop the way the executor already knows, with the executor's own result."""

from __future__ import annotations

import logging

import pytest
from blocked import LONG, expire

from threadsafe_timeout import deadline, guard_interactive, guarded, sleep
from threadsafe_timeout.testing import MockClock


class State:
    def __init__(self) -> None:
        self.timeout_occurred = False
        self.turns = 0


class Executor:
    """A small executor with the loop of the legacy one."""

    def __init__(self, answers, max_turns=10):
        self.answers = list(answers)
        self.max_turns = max_turns
        self.state = State()

    def execute_interactive(self, prompt):
        results = []
        for _ in range(self.max_turns):
            response = self._get_llm_response([prompt], self.state)
            if response is None:
                break
            self.state.turns += 1
            if "<tool_search>" in response:
                results += self._handle_tool_searches([response], self.state)
                continue
            if "completed" in response:
                break
        return {"turns": self.state.turns, "found": len(results), "error": None}

    def _get_llm_response(self, conversation, state):
        answer = self.answers.pop(0) if self.answers else "completed"
        if callable(answer):
            return answer()
        return answer

    def _handle_tool_searches(self, queries, state):
        return ["result"] * len(queries)


SEARCH = "<tool_search>how to {}</tool_search>"


def fresh():
    """A class of its own for each test: a guard stays on the class it was put on."""
    return type("Executor", (Executor,), dict(vars(Executor)))


def test_a_search_loop_is_ended_and_the_result_says_why(caplog):
    caplog.set_level(logging.WARNING, "threadsafe_timeout")
    executor = guard_interactive(fresh())([SEARCH.format(n) for n in range(10)])
    result = executor.execute_interactive("go")
    assert result["error_type"] == "search_loop"
    assert result["turns"] == 3, "what was done before is in the executor's own result"
    assert result["found"] == 3
    assert executor.state.timeout_occurred is False
    assert any(getattr(record, "event", "") == "search_loop" for record in caplog.records)


def test_searches_between_other_turns_are_no_loop():
    answers = [SEARCH.format(1), SEARCH.format(2), SEARCH.format(3), "thinking"] * 2 + ["completed"]
    result = guard_interactive(fresh())(answers).execute_interactive("go")
    assert "error_type" not in result
    assert result["turns"] == 9


def test_a_search_together_with_a_call_is_no_search_turn():
    answers = [SEARCH.format(n) + "<tool_call>reader</tool_call>" for n in range(6)] + ["completed"]
    assert "error_type" not in guard_interactive(fresh())(answers).execute_interactive("go")


def test_observe_logs_and_lets_go_on(caplog, monkeypatch):
    from threadsafe_timeout import _settings

    caplog.set_level(logging.WARNING, "threadsafe_timeout")
    monkeypatch.setattr(_settings, "_settings", _settings.Settings(loop_guard="observe"))
    result = guard_interactive(fresh())([SEARCH.format(n) for n in range(6)]).execute_interactive("go")
    assert "error_type" not in result
    assert any("observed only" in record.getMessage() for record in caplog.records)


def test_a_stuck_turn_is_cut_off_at_the_deadline():
    # Its time is up in the second turn, and not before.
    executor = guard_interactive(fresh(), timeout=LONG)([SEARCH.format(1), lambda: expire() or sleep(LONG)])
    result = executor.execute_interactive("go")
    assert result["error_type"] == "timeout"
    assert result["turns"] == 1
    assert "timeout after" in result["error"].lower()
    assert executor.state.timeout_occurred is True


def test_stuck_tools_are_cut_off_too():
    cls = fresh()
    cls._handle_tool_searches = lambda self, queries, state: sleep(30)
    result = guard_interactive(cls, timeout=0.1)([SEARCH.format(1), "completed"]).execute_interactive("go")
    assert result["error_type"] == "timeout"


def test_the_task_has_time_left_to_evaluate():
    """The guard ends a little before the deadline of the task around it: its result is not lost to that one."""
    with MockClock() as clock, deadline(100):
        executor = guard_interactive(fresh(), timeout=300)([lambda: clock.jump(99) or sleep(200)])
        result = executor.execute_interactive("go")
    assert result["error_type"] == "timeout"


def test_an_instance_can_be_guarded_and_a_class_decorated():
    assert guard_interactive(Executor([SEARCH.format(n) for n in range(9)])).execute_interactive("go")["turns"] == 3
    decorated = guarded(max_consecutive_searches=1)(fresh())
    assert decorated([SEARCH.format(n) for n in range(9)]).execute_interactive("go")["turns"] == 1
    assert "error_type" not in Executor([SEARCH.format(n) for n in range(9)]).execute_interactive("go")


def test_a_missing_method_is_named():
    with pytest.raises(AttributeError, match="execute_interactive"):
        guard_interactive(object())
    with pytest.raises(ValueError, match="timeout"):
        guard_interactive(fresh(), timeout=-1)
    for name, value in {"learn": "maybe", "conversation": 3, "experience": 3, "polls": "sleep", "execute": 3}.items():
        with pytest.raises(TypeError, match=name):
            guard_interactive(fresh(), **{name: value})


def test_a_conversation_that_is_not_there_is_told(caplog):
    guard_interactive(fresh(), conversation="messages")([SEARCH.format(1)]).execute_interactive("go")
    told = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "guard_unread"]
    assert len(told) == 1
    assert "conversation='messages' of guard_interactive gives no list of messages for a Executor" in told[0]
