"""Runs benchmark tests in threads; the last version."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Lock, Semaphore
from typing import Any

from batch_records import failure_record, is_rate_limited, print_summary, progress_line, task_fields
from enhanced_cumulative_manager import EnhancedCumulativeManager, TestRecord
from interactive_executor import InteractiveExecutor
from legacy_clock import seconds
from task_library import TOOLS, flaw_of, make_instance, make_prompt, make_workflow

TASK_TIMEOUT = 600


@dataclass
class TestTask:
    """One test to run. It has no id, and equal ones occur many times."""

    __test__ = False  # a class called Test… is not one of pytest's

    model: str
    task_type: str
    prompt_type: str
    difficulty: str = "easy"
    is_flawed: bool = False
    flaw_type: str | None = None
    task_instance: dict[str, Any] | None = None
    timeout: float = 60
    tool_success_rate: float = 0.8
    required_tools: list[str] | None = None

    def __post_init__(self) -> None:
        self.timeout = seconds(TASK_TIMEOUT)  # sin: whatever the caller asked for


class BatchTestRunner:
    def __init__(
        self,
        debug: bool = False,
        silent: bool = False,
        use_adaptive: bool = False,
        save_logs: bool = False,
        enable_database_updates: bool = True,
        use_ai_classification: bool = False,
        checkpoint_interval: int = 0,
        idealab_key_index: int | None = None,
        is_subprocess: bool = False,
    ) -> None:
        self.debug = debug
        self.silent = silent or is_subprocess  # a child leaves the talking to its parent
        self.use_adaptive = use_adaptive
        self.save_logs = save_logs
        self.enable_database_updates = enable_database_updates
        self.use_ai_classification = use_ai_classification
        self.checkpoint_interval = checkpoint_interval
        self.idealab_key_index = idealab_key_index
        self.is_subprocess = is_subprocess
        self.pending_results: list[tuple[str, dict[str, Any]]] = []  # guarded by checkpoint_lock
        self.checkpoint_lock = Lock()
        self.classification_lock = Lock()
        self.api_slots = Semaphore(500)
        self._classifier: Any = None

    def run_concurrent_batch(self, tasks: list[TestTask], workers: int = 20, qps: float = 20.0) -> list[dict[str, Any]]:
        self._set_qps(qps)
        results: list[dict[str, Any]] = []
        batch_timeout = seconds(min(max(65 * len(tasks), 3600), 4 * 3600))
        executor = ThreadPoolExecutor(max_workers=workers)
        try:
            futures = {executor.submit(self._run_single_test_safe, task): task for task in tasks}
            for future in as_completed(futures, timeout=batch_timeout):
                self._collect(results, futures[future], future, len(tasks))
        except TimeoutError as e:
            self._say(f"[WARN] batch timeout, {len(tasks) - len(results)} tasks have no result: {e}")
        finally:
            executor.shutdown(wait=False)  # sin: does not wait, and leaves the threads to go on calling
        self._finish(results, len(tasks))
        return results

    def run_adaptive_concurrent_batch(
        self, tasks: list[TestTask], initial_workers: int = 20, initial_qps: float = 50.0
    ) -> list[dict[str, Any]]:
        workers, qps = initial_workers, initial_qps
        queue = list(tasks)
        results: list[dict[str, Any]] = []
        while queue:
            batch, queue = queue[: workers * 2], queue[workers * 2 :]
            self._set_qps(qps)
            limited: list[TestTask] = []
            with ThreadPoolExecutor(max_workers=workers) as executor:
                futures = {executor.submit(self._run_single_test_safe, task): task for task in batch}
                for future in as_completed(futures):  # sin: no timeout at all
                    self._collect(results, futures[future], future, len(tasks), limited)
            queue += limited  # sin: again and again, as long as the server says 429
            if limited:
                workers, qps = max(1, workers // 2), max(1.0, qps / 2) if qps else 0.0
                self._say(f"[ADAPTIVE] rate limited, {len(limited)} tasks again, {workers} workers")
                time.sleep(seconds(5))
            else:
                workers, qps = min(workers + 5, 200), qps * 1.2
        self._finish(results, len(tasks))
        return results

    def run_single_test(
        self,
        model: str,
        task_type: str,
        prompt_type: str,
        is_flawed: bool = False,
        flaw_type: str | None = None,
        timeout: float = 30,
        tool_success_rate: float = 0.8,
        difficulty: str = "easy",
        task_instance: dict[str, Any] | None = None,
        required_tools: list[str] | None = None,
    ) -> dict[str, Any]:
        start_time = time.time()  # sin: `timeout` is never looked at
        fields: dict[str, Any] = {
            "task_type": task_type,
            "prompt_type": prompt_type,
            "difficulty": difficulty,
            "is_flawed": is_flawed,
            "flaw_type": flaw_type,
            "tool_success_rate": tool_success_rate,
            "required_tools": list(required_tools or []),
            "task_instance": task_instance,
        }
        try:
            instance = task_instance or make_instance(task_type, random.Random(), "unnamed")
            required = list(required_tools or instance.get("required_tools") or [])
            fields.update(required_tools=required, task_instance=instance)
            workflow = make_workflow(required, flaw_type or flaw_of(prompt_type))
            executor = InteractiveExecutor(
                TOOLS,
                llm_client=self._client_of_key(model),
                success_rate=tool_success_rate,
                model=model,
                prompt_type=prompt_type,
                silent=self.silent,
            )
            prompt = make_prompt(instance, prompt_type, required, workflow)
            with self.api_slots:
                result = executor.execute_interactive(
                    prompt, {**instance, "required_tools": required}, workflow, prompt_type
                )
            result.update(fields)
            result["_log_data"] = {"prompt": prompt, "result": dict(result)} if self.save_logs else None
            result.update(ai_error_category=None, ai_error_reason=None, ai_confidence=0.0)
            return result
        except Exception as e:  # sin: any error at all is a failed test
            if self.debug:
                print(f"[ERROR] test failed: {type(e).__name__}: {e}")
            return failure_record(fields, str(e), time.time() - start_time, "exception")

    def _run_single_test_safe(self, task: TestTask) -> dict[str, Any]:
        from concurrent.futures import ThreadPoolExecutor, TimeoutError

        start_time = time.time()
        limit = seconds(900)
        with ThreadPoolExecutor(max_workers=1) as executor:
            future = executor.submit(
                self.run_single_test,
                task.model,
                task.task_type,
                task.prompt_type,
                task.is_flawed,
                task.flaw_type,
                timeout=task.timeout,
                tool_success_rate=task.tool_success_rate,
                difficulty=task.difficulty,
                task_instance=task.task_instance,
                required_tools=task.required_tools,
            )
            try:
                return future.result(timeout=limit)
            except TimeoutError:
                future.cancel()
                executor.shutdown(wait=False, cancel_futures=True)
                # sin: and now the `with` is left, and waits for the stuck thread after all
                return failure_record(
                    task_fields(task), f"Test timeout after {limit:g} seconds", time.time() - start_time, "timeout"
                )

    def _checkpoint_save(
        self, results: list[dict[str, Any]], task_model: str | None = None, force: bool = False
    ) -> None:
        if not self.enable_database_updates:
            return
        with self.checkpoint_lock:
            self.pending_results += [(task_model or result.get("model") or "unknown", result) for result in results]
            if not self.pending_results or not (force or len(self.pending_results) >= self.checkpoint_interval > 0):
                return
            manager = EnhancedCumulativeManager()
            for model, result in self.pending_results:
                manager.add_test_result(TestRecord.from_result(model, result))
            if manager.save_database():
                self._say(f"[CHECKPOINT] saved {len(self.pending_results)} results")
                self.pending_results = []

    def _collect(
        self,
        results: list[dict[str, Any]],
        task: TestTask,
        future: Any,
        total: int,
        limited: list[TestTask] | None = None,
    ) -> None:
        """Take one finished future: on the main thread, classification included."""
        try:
            result = future.result()
        except Exception as e:
            self._say(f"[ERROR] test raised {type(e).__name__}: {e}")
            result = failure_record(task_fields(task), str(e), 0.0, "exception")
        if limited is not None and is_rate_limited(result):
            limited.append(task)
            return
        if self.use_ai_classification and not result["success"]:
            self._classify(result)
        results.append(result)
        self._say(progress_line(len(results), total, task.model, result))
        self._checkpoint_save([result], task.model)  # below its interval it only takes note

    def _classify(self, result: dict[str, Any]) -> None:
        from ai_error_classifier import AIErrorClassifier

        with self.classification_lock:  # sin: held for as long as the model likes
            self._classifier = self._classifier or AIErrorClassifier()
            category, reason, confidence = self._classifier.classify(result)
        result.update(ai_error_category=category, ai_error_reason=reason, ai_confidence=confidence)

    def _finish(self, results: list[dict[str, Any]], total: int) -> None:
        self._checkpoint_save([], force=True)
        if not self.silent:
            print_summary(results, total)

    def _client_of_key(self, model: str) -> Any:
        """A client with the key this runner was told to use; None leaves the choice to the executor."""
        from api_client_manager import get_client_for_model

        return None if self.idealab_key_index is None else get_client_for_model(model, self.idealab_key_index)

    def _set_qps(self, qps: float) -> None:
        from qps_limiter import get_qps_limiter

        get_qps_limiter().set_qps(qps)

    def _say(self, line: str) -> None:
        if not self.silent:
            print(line, flush=True)
