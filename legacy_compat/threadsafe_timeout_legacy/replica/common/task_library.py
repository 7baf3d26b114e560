"""The tools, task types and prompt strategies of the benchmark, and the tasks it makes of them."""

from __future__ import annotations

import random
from typing import Any

TASK_TYPES = ("simple_task", "basic_task", "data_pipeline", "api_integration", "multi_stage_pipeline")
PLAIN_PROMPTS = ("baseline", "optimal", "cot")
FLAW_TYPES = (
    "sequence_disorder",
    "tool_misuse",
    "parameter_error",
    "missing_step",
    "redundant_operations",
    "logical_inconsistency",
    "semantic_drift",
)
PROMPT_TYPES = (*PLAIN_PROMPTS, *(f"flawed_{flaw}" for flaw in FLAW_TYPES))
DIFFICULTIES = ("very_easy", "easy", "medium")

TOOLS = {
    "file_operations_reader": "read a file from disk",
    "file_operations_writer": "write a file to disk",
    "data_processing_parser": "parse csv, json or xml data",
    "data_processing_validator": "validate records against a schema",
    "data_processing_transformer": "transform data from one format to another",
    "network_fetcher": "fetch data from an http service",
    "network_poster": "post data to an http service",
    "network_authenticator": "authenticate against a service",
    "computation_calculator": "calculate statistics",
    "utility_notifier": "notify a channel",
}
_STEPS = {"simple_task": 1, "basic_task": 2, "data_pipeline": 3, "api_integration": 3, "multi_stage_pipeline": 4}


def make_instance(task_type: str, rng: random.Random, name: str) -> dict[str, Any]:
    """A task of the library. `name` is in its description, and so in the prompt."""
    required = rng.sample(sorted(TOOLS), _STEPS.get(task_type, 2))
    return {
        "id": f"{task_type}_{name}",
        "task_type": task_type,
        "description": f"Handle the input of case {name} as a {task_type.replace('_', ' ')}.",
        "inputs": {"source": f"/data/{name}.in"},
        "expected_outputs": {"target": f"/data/{name}.out"},
        "required_tools": required,
    }


def flaw_of(prompt_type: str) -> str | None:
    return prompt_type.removeprefix("flawed_") if prompt_type.startswith("flawed_") else None


def make_workflow(required: list[str], flaw_type: str | None) -> list[str]:
    """The order of tools a prompt suggests; a flawed prompt suggests a wrong one."""
    if flaw_type == "sequence_disorder":
        return required[::-1]
    if flaw_type == "missing_step":
        return required[:-1]
    if flaw_type == "redundant_operations":
        return [tool for tool in required for _ in range(2)]
    return list(required)


def make_prompt(instance: dict[str, Any], prompt_type: str, required: list[str], workflow: list[str]) -> str:
    lines = [
        f"Task: {instance['description']}",
        f"Required tools: {', '.join(required)}",
        "Find tools with <tool_search>query</tool_search>, read about one with <tool_info>name</tool_info>,",
        "run one with <tool_call>name</tool_call>. Say that the task is completed when it is.",
    ]
    if prompt_type == "cot":
        lines.append("Think step by step.")
    if prompt_type != "baseline":
        lines.append(f"Suggested workflow: {' -> '.join(workflow)}")
    return "\n".join(lines)
