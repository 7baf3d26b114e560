"""What one task's conversation has come to, and what the benchmark makes of it."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from typing import Any

from task_library import TOOLS

_TAG = r"<{0}>\s*(.*?)\s*</{0}>"


def tagged(tag: str, response: str) -> list[str]:
    """What stands in each `<tag>…</tag>` of a response."""
    return [found for found in re.findall(_TAG.format(tag), response, re.DOTALL) if found]


@dataclass
class ExecutionState:
    required_tools: list[str]
    start_time: float = field(default_factory=time.time)
    turns: int = 0
    task_completed: bool = False
    format_error_count: int = 0
    tool_calls: list[str] = field(default_factory=list)
    executed_tools: list[str] = field(default_factory=list)
    execution_history: list[dict[str, Any]] = field(default_factory=list)
    conversation_history: list[dict[str, Any]] = field(default_factory=list)
    format_issues: list[str] = field(default_factory=list)
    api_issues: list[str] = field(default_factory=list)
    searched: dict[str, list[str]] = field(default_factory=dict)
    error: str | None = None


def rank_tools(query: str) -> list[str]:
    """The three tools whose name and description share the most words with the query."""
    words = set(re.findall(r"\w+", query.lower()))
    shared = {
        name: len(words & set(f"{name.replace('_', ' ')} {description}".split())) for name, description in TOOLS.items()
    }
    return sorted(TOOLS, key=lambda name: -shared[name])[:3]


def run_tool(state: ExecutionState, name: str, success_rate: float) -> str:
    """Simulate one call, and say what the model gets to read."""
    known = name in TOOLS
    success = known and random.random() < success_rate
    state.tool_calls.append(name)
    state.execution_history.append({"tool": name, "success": success, "turn": state.turns})
    if success:
        state.executed_tools.append(name)
        return f"{name}: ok"
    return f"{name}: {'operation failed' if known else 'no such tool'}"


def coverage(state: ExecutionState) -> float:
    required = set(state.required_tools)
    return len(required & set(state.executed_tools)) / len(required) if required else float(state.task_completed)


def evaluate(state: ExecutionState) -> dict[str, Any]:
    """The result of a conversation, however it ended."""
    rate = coverage(state)
    in_order = [tool for tool in dict.fromkeys(state.executed_tools) if tool in state.required_tools]
    ordered = in_order == [tool for tool in state.required_tools if tool in in_order]
    level = "failure"
    if state.task_completed and rate > 0:
        level = "full_success" if rate == 1.0 else "partial_success"
    workflow_score = rate if ordered else rate * 0.5
    phase2_score = rate * (1.0 if state.task_completed else 0.5)
    quality_score = max(0.0, phase2_score - 0.1 * state.format_error_count)
    return {
        "success": level != "failure",
        "success_level": level,
        "execution_time": time.time() - state.start_time,
        "error": state.error,
        "tool_calls": state.tool_calls,
        "turns": state.turns,
        "workflow_score": workflow_score,
        "phase2_score": phase2_score,
        "quality_score": quality_score,
        "final_score": 0.4 * workflow_score + 0.4 * phase2_score + 0.2 * quality_score,
        "format_error_count": state.format_error_count,
        "format_issues": state.format_issues,
        "api_issues": state.api_issues,
        "conversation_history": state.conversation_history,
        "execution_history": state.execution_history,
        "executed_tools": state.executed_tools,
        "tool_coverage_rate": rate,
    }
