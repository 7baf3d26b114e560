"""Counts results into the database. It keeps counters, not records."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from storage_adapter import StorageAdapter


@dataclass
class TestRecord:
    """What the database is told about one test."""

    model: str
    task_type: str
    prompt_type: str
    difficulty: str = "easy"
    tool_success_rate: float = 0.8
    success: bool = False
    success_level: str = "failure"
    execution_time: float = 0.0
    turns: int = 0
    final_score: float = 0.0
    tool_coverage_rate: float = 0.0
    error: str | None = None
    ai_error_category: str | None = None

    @classmethod
    def from_result(cls, model: str, result: dict[str, Any]) -> TestRecord:
        known = {field.name for field in fields(cls)} - {"model"}
        return cls(model=model, **{name: result[name] for name in known if name in result})


def is_timeout_error(error: str | None) -> bool:
    """Whether the statistics count an error as a timeout: by its words alone."""
    text = (error or "").lower()
    return "test timeout after" in text or ("timeout after" in text and ("seconds" in text or "minutes" in text))


_COUNTERS = ("total", "success", "full_success", "partial_success", "failure", "timeout_errors", "other_errors")


def _child(parent: dict[str, Any], level: str, key: object) -> dict[str, Any]:
    child: dict[str, Any] = parent.setdefault(level, {}).setdefault(str(key), {})
    return child


def _count(node: dict[str, Any], record: TestRecord) -> None:
    for name in _COUNTERS:
        node.setdefault(name, 0)
    total = node["total"] = node["total"] + 1
    node["success"] += bool(record.success)
    node[record.success_level if record.success_level in _COUNTERS else "failure"] += 1
    if record.error:
        node["timeout_errors" if is_timeout_error(record.error) else "other_errors"] += 1
    if record.ai_error_category:
        categories = node.setdefault("ai_error_categories", {})
        categories[record.ai_error_category] = categories.get(record.ai_error_category, 0) + 1
    for name in ("execution_time", "turns", "final_score", "tool_coverage_rate"):
        average = node.get(f"avg_{name}", 0.0)
        node[f"avg_{name}"] = average + (getattr(record, name) - average) / total


class EnhancedCumulativeManager:
    """Collects records; `save_database` counts them in."""

    def __init__(self, storage: StorageAdapter | None = None) -> None:
        self.storage = storage or StorageAdapter()
        self.pending: list[TestRecord] = []

    def add_test_result(self, record: TestRecord) -> None:
        self.pending.append(record)

    def save_database(self) -> bool:
        if not self.pending:
            return True
        try:
            self.storage.update(self._merge)
        except Exception as e:  # sin: the records stay in memory, and the batch says that it is done
            print(f"[ERROR] could not save the database: {e}")
            return False
        self.pending = []
        return True

    def _merge(self, database: dict[str, Any]) -> None:
        for record in self.pending:
            self._add(database, record)

    def _add(self, database: dict[str, Any], record: TestRecord) -> None:
        model = database["models"].setdefault(record.model, {"first_test_time": datetime.now().isoformat()})
        model["last_test_time"] = datetime.now().isoformat()
        _count(model.setdefault("overall_stats", {}), record)
        node = _child(model, "by_prompt_type", record.prompt_type)
        _count(node, record)
        for level, key in (
            ("by_tool_success_rate", record.tool_success_rate),
            ("by_difficulty", record.difficulty),
            ("by_task_type", record.task_type),
        ):
            node = _child(node, level, key)
            _count(node, record)
        group = f"{record.model}_{record.prompt_type}_{record.difficulty}"
        _count(database["test_groups"].setdefault(group, {}), record)
        summary = database["summary"]
        summary["total_tests"] += 1
        summary["total_success" if record.success else "total_failure"] += 1
        if record.model not in summary["models_tested"]:
            summary["models_tested"].append(record.model)
