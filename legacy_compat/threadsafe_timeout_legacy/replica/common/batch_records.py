"""The dicts a batch returns, and the lines it prints about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enhanced_cumulative_manager import is_timeout_error

if TYPE_CHECKING:
    from batch_test_runner import TestTask


def task_fields(task: TestTask) -> dict[str, Any]:
    return {
        "task_type": task.task_type,
        "prompt_type": task.prompt_type,
        "difficulty": task.difficulty,
        "is_flawed": task.is_flawed,
        "flaw_type": task.flaw_type,
        "tool_success_rate": task.tool_success_rate,
        "required_tools": list(task.required_tools or []),
        "task_instance": task.task_instance,
    }


def failure_record(fields: dict[str, Any], error: str, execution_time: float, error_type: str) -> dict[str, Any]:
    """A result for a test that has none of its own."""
    return {
        "success": False,
        "success_level": "failure",
        "execution_time": execution_time,
        "error": error,
        "error_type": error_type,
        "tool_calls": [],
        "turns": 0,
        "workflow_score": 0.0,
        "phase2_score": 0.0,
        "quality_score": 0.0,
        "final_score": 0.0,
        "format_error_count": 0,
        "format_issues": [],
        "api_issues": [],
        "conversation_history": [],
        "execution_history": [],
        "executed_tools": [],
        "tool_coverage_rate": 0.0,
        "_log_data": None,
        "ai_error_category": None,
        "ai_error_reason": None,
        "ai_confidence": 0.0,
        **fields,
    }


def is_rate_limited(result: dict[str, Any]) -> bool:
    text = f"{result.get('error')}".lower()
    return not result["success"] and ("429" in text or "rate limit" in text)


def progress_line(number: int, total: int, model: str, result: dict[str, Any]) -> str:
    mark = "✅" if result["success"] else "❌"
    line = (
        f"[{number}/{total}] {mark} {model} {result['task_type']} {result['prompt_type']} "
        f"{result['success_level']} ({result['execution_time']:.1f}s)"
    )
    return f"{line} {result['error'][:100]}" if result.get("error") else line


def print_summary(results: list[dict[str, Any]], total: int) -> None:
    succeeded = sum(result["success"] for result in results)
    timeouts = sum(is_timeout_error(result.get("error")) for result in results)
    print(f"Batch done: {len(results)}/{total} results, {succeeded} succeeded, {timeouts} timeouts")
