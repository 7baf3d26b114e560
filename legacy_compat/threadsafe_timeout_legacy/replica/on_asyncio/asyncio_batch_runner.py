"""The batch of 2025-08-16 with its loop on asyncio: what its author would write, with this library from the start.

Coroutines on an `AsyncPool` take the place of two threads for each task, and one `AsyncOpenAI` that of a client for
each. The tasks, the conversation, the results and the database are those of the other modules. Needs the directories
of `replica_path("2025-08-16")` on the path; its options are those of smart_batch_runner.py that it knows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from typing import Any

from api_client_manager import DEFAULT_MODEL
from batch_records import failure_record, task_fields
from batch_test_runner import BatchTestRunner, TestTask
from execution_state import ExecutionState, evaluate, rank_tools, run_tool
from interactive_executor import EMBEDDING_MODEL, RETRIED, InteractiveExecutor
from legacy_clock import seconds
from openai import AsyncOpenAI
from smart_batch_runner import make_tasks
from task_library import TOOLS, flaw_of, make_prompt, make_workflow

import threadsafe_timeout
from threadsafe_timeout import AsyncPool, guard_interactive
from threadsafe_timeout.checkpoint import open_run

JOURNAL = os.path.join(".threadsafe_timeout", "smart_batch_runner.jsonl")


class AsyncInteractiveExecutor(InteractiveExecutor):
    """The conversation, awaiting the model."""

    async def execute_interactive(  # type: ignore[override]
        self,
        initial_prompt: str,
        task_instance: dict[str, Any],
        workflow: list[str] | None = None,
        prompt_type: str = "baseline",
    ) -> dict[str, Any]:
        state = ExecutionState(required_tools=list(task_instance.get("required_tools") or workflow or []))
        conversation: list[dict[str, Any]] = [{"role": "user", "content": initial_prompt}]
        state.conversation_history = conversation
        for turn in range(self.max_turns):
            state.turns = turn + 1
            response = await self._get_llm_response(conversation, state)
            if response is None:
                state.error = f"API failed: {state.api_issues[-1] if state.api_issues else 'no response'}"
                break
            conversation.append({"role": "assistant", "content": response})
            answer = await self._answer(response, state)
            if answer is not None:
                conversation.append({"role": "user", "content": answer})
                continue
            if "completed" in response.lower():
                state.task_completed = True
                break
            state.format_error_count += 1
            state.format_issues.append(f"turn {turn + 1}: no action")
            conversation.append({"role": "user", "content": "No action found. Use the tags."})
        else:
            state.error = f"Task not completed within {self.max_turns} turns"
        result = evaluate(state)
        if state.error:
            result["error_type"] = "other"
        return result

    async def _answer(self, response: str, state: ExecutionState) -> str | None:
        """What the tools that the model asks for say; None if it asks for none."""
        queries = self._extract_tool_searches(response)
        if queries:
            return f"Search results: {await self._handle_tool_searches(queries, state)}"
        names = self._extract_tool_info_requests(response)
        if names:
            return "\n".join(f"{name}: {self.tool_registry.get(name, 'no such tool')}" for name in names)
        calls = self._parse_tool_calls(response)
        return "\n".join(run_tool(state, name, self.success_rate) for name in calls) if calls else None

    async def _get_llm_response(self, conversation: list[dict[str, Any]], state: ExecutionState) -> str | None:  # type: ignore[override]
        for attempt in range(5):
            try:
                response = await self.llm_client.chat.completions.create(
                    model=self.model, messages=conversation, timeout=seconds(60)
                )
                return response.choices[0].message.content or ""
            except Exception as e:
                message = str(e)
                state.api_issues.append(message)
                if "timeout" in message.lower() or "timed out" in message.lower():
                    return None
                if not any(word in message for word in RETRIED):
                    raise
                await asyncio.sleep(seconds(min(10.0, random.uniform(0.5, 1.5) * 2**attempt)))
        return None

    async def _handle_tool_searches(self, queries: list[str], state: ExecutionState) -> list[dict[str, Any]]:  # type: ignore[override]
        found = []
        for query in queries:
            if query not in state.searched:
                try:
                    await self.llm_client.embeddings.create(model=EMBEDDING_MODEL, input=query)
                    state.searched[query] = rank_tools(query)
                except Exception as e:
                    state.api_issues.append(f"search failed: {e}")
                    state.searched[query] = []
            found += [{"name": name, "description": TOOLS[name], "query": query} for name in state.searched[query]]
        return found


class AsyncBatch:
    """Runs the tasks; the results go the way of the legacy runner's."""

    def __init__(self, client: AsyncOpenAI, options: argparse.Namespace) -> None:
        self.client = client
        self.options = options
        self.runner = BatchTestRunner(checkpoint_interval=options.checkpoint_interval)
        self.results: list[dict[str, Any]] = []

    async def run_test(self, task: TestTask) -> dict[str, Any]:
        instance = task.task_instance or {}
        required = list(task.required_tools or [])
        workflow = make_workflow(required, task.flaw_type or flaw_of(task.prompt_type))
        executor = AsyncInteractiveExecutor(
            TOOLS, self.client, success_rate=task.tool_success_rate, model=task.model, prompt_type=task.prompt_type
        )
        prompt = make_prompt(instance, task.prompt_type, required, workflow)
        result = await executor.execute_interactive(prompt, instance, workflow, task.prompt_type)
        nothing = {"_log_data": None, "ai_error_category": None, "ai_error_reason": None, "ai_confidence": 0.0}
        return {**result, **task_fields(task), **nothing}

    async def run(self, tasks: list[TestTask]) -> int:
        config = {"seed": self.options.seed, "tasks": len(tasks)}
        writer, finished = open_run(JOURNAL, config=config, retry=())
        with writer:
            async with AsyncPool(self.options.workers, checkpoint=writer, name="batch") as pool:
                futures = {}
                for task in tasks:
                    key = (task.task_instance or {})["id"]
                    if key in finished:
                        self._take(task, finished[key].result, 0.0)
                        continue
                    submit = pool.with_options(timeout=task.timeout, key=key, name=key).submit
                    futures[submit(self.run_test, task)] = task, time.time()
                async for future in pool.as_completed(futures):
                    task, began = futures[future]
                    error = future.exception()
                    self._take(task, future.result() if error is None else error, time.time() - began)
        self.runner._finish(self.results, len(tasks))
        return len(self.results)

    def _take(self, task: TestTask, outcome: Any, took: float) -> None:
        if isinstance(outcome, BaseException):
            kind = "timeout" if "timed out" in str(outcome) else "exception"
            outcome = failure_record(task_fields(task), str(outcome), took, kind)
        self.results.append(outcome)
        self.runner._checkpoint_save([outcome], task.model)


async def run_batch(options: argparse.Namespace) -> int:
    base_url = os.environ.get("LEGACY_BASE_URL", "http://127.0.0.1:8089/v1")
    key = os.environ.get("LEGACY_API_KEY", "unused")
    async with AsyncOpenAI(api_key=key, base_url=base_url, timeout=seconds(600)) as client:
        return await AsyncBatch(client, options).run(make_tasks(DEFAULT_MODEL, options.num_tasks, options.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-tasks", type=int, default=100)
    parser.add_argument("--workers", type=int, default=20, help="coroutines at a time")
    parser.add_argument("--qps", type=float, default=0.0, choices=[0.0], help="any number: there is no limiter")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--checkpoint-interval", type=int, default=0, metavar="N")
    options = parser.parse_args()
    # Its own loop saves, resumes and guards: the patch for the threaded runner has nothing to do here.
    threadsafe_timeout.install(patches=["-legacy_runner"])
    guard_interactive(AsyncInteractiveExecutor)
    print(f"Running {options.num_tasks} tasks with {options.workers} coroutines on {DEFAULT_MODEL}", flush=True)
    count = asyncio.run(run_batch(options))
    print(f"All done: {count} results", flush=True)


if __name__ == "__main__":
    main()
