"""The conversation between a model and the tools, for one task; the last version.

150 s per request, and a request that timed out leaves a mark, so that the result says so.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import execution_state
from execution_state import evaluate, rank_tools, run_tool, tagged
from legacy_clock import seconds
from task_library import TOOLS

DEFAULT_MODEL = "DeepSeek-R1-0528"
EMBEDDING_MODEL = "text-embedding-3-large"
RETRIED = ("429", "400", "Connection", "rate limit")


@dataclass
class ExecutionState(execution_state.ExecutionState):
    timeout_occurred: bool = False


class InteractiveExecutor:
    def __init__(
        self,
        tool_registry: dict[str, str],
        llm_client: Any = None,
        max_turns: int = 10,
        success_rate: float = 0.8,
        model: str = DEFAULT_MODEL,
        prompt_type: str | None = None,
        silent: bool = False,
    ) -> None:
        self.tool_registry = tool_registry
        self.llm_client = llm_client or self._get_llm_client(model)
        self.max_turns = max_turns
        self.success_rate = success_rate
        self.model = model
        self.prompt_type = prompt_type
        self.silent = silent

    def _get_llm_client(self, model: str) -> Any:
        from api_client_manager import get_client_for_model

        return get_client_for_model(model)

    def execute_interactive(
        self,
        initial_prompt: str,
        task_instance: dict[str, Any],
        workflow: list[str] | None = None,
        prompt_type: str = "baseline",
    ) -> dict[str, Any]:
        state = ExecutionState(required_tools=list(task_instance.get("required_tools") or workflow or []))
        conversation: list[dict[str, Any]] = [{"role": "user", "content": initial_prompt}]
        state.conversation_history = conversation
        for turn in range(self.max_turns):  # sin: nothing here looks at a clock
            state.turns = turn + 1
            response = self._get_llm_response(conversation, state)
            if response is None:
                state.error = f"API failed: {state.api_issues[-1] if state.api_issues else 'no response'}"
                break
            conversation.append({"role": "assistant", "content": response})
            queries = self._extract_tool_searches(response)
            if queries:
                found = self._handle_tool_searches(queries, state)
                conversation.append({"role": "user", "content": f"Search results: {found}"})
                continue  # sin: a search is no failure, however many there were
            names = self._extract_tool_info_requests(response)
            if names:
                about = [f"{name}: {self.tool_registry.get(name, 'no such tool')}" for name in names]
                conversation.append({"role": "user", "content": "\n".join(about)})
                continue
            calls = self._parse_tool_calls(response)
            if calls:
                outcomes = [run_tool(state, name, self.success_rate) for name in calls]
                conversation.append({"role": "user", "content": "\n".join(outcomes)})
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
            result["error_type"] = "timeout" if state.timeout_occurred else "other"
        return result

    def _get_llm_response(self, conversation: list[dict[str, Any]], state: ExecutionState) -> str | None:
        from qps_limiter import get_qps_limiter

        for attempt in range(5):
            get_qps_limiter().acquire()
            try:
                response = self.llm_client.chat.completions.create(
                    model=self.model, messages=conversation, timeout=seconds(150)
                )
                return response.choices[0].message.content or ""
            except Exception as e:  # sin: what to do is read from the message
                message = str(e)
                state.api_issues.append(message)
                if not self.silent:
                    print(f"[API] {self.model} attempt {attempt + 1}/5: {message[:120]}")
                if "timeout" in message.lower() or "timed out" in message.lower():
                    state.timeout_occurred = True
                    return None
                if not any(word in message for word in RETRIED):
                    raise
                time.sleep(seconds(min(10.0, random.uniform(0.5, 1.5) * 2**attempt)))
        return None

    def _extract_tool_searches(self, response: str) -> list[str]:
        return tagged("tool_search", response)

    def _handle_tool_searches(self, queries: list[str], state: ExecutionState) -> list[dict[str, Any]]:
        found = []
        for query in queries:
            if query not in state.searched:
                try:
                    # sin: no timeout of its own
                    self.llm_client.embeddings.create(model=EMBEDDING_MODEL, input=query)
                    state.searched[query] = rank_tools(query)
                except Exception as e:
                    state.api_issues.append(f"search failed: {e}")
                    state.searched[query] = []
            found += [{"name": name, "description": TOOLS[name], "query": query} for name in state.searched[query]]
        return found

    def _extract_tool_info_requests(self, response: str) -> list[str]:
        return tagged("tool_info", response)

    def _parse_tool_calls(self, response: str) -> list[str]:
        return tagged("tool_call", response)
