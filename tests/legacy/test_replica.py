"""The legacy replica: the facts it was written from, held against real HTTP, processes and files."""

from __future__ import annotations

import fcntl
import importlib
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest
from threadsafe_timeout_legacy.replica import VERSIONS, replica_path, replica_script

from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.testing.fake_llm import FakeLLM

TASK = {"task_type": "simple_task", "prompt_type": "baseline"}
RESULT_KEYS = {
    "success", "success_level", "execution_time", "error", "tool_calls", "turns", "workflow_score", "phase2_score",
    "quality_score", "final_score", "task_type", "prompt_type", "difficulty", "is_flawed", "flaw_type",
    "tool_success_rate", "format_error_count", "format_issues", "api_issues", "conversation_history",
    "execution_history", "required_tools", "executed_tools", "tool_coverage_rate", "task_instance", "_log_data",
    "ai_error_category", "ai_error_reason", "ai_confidence",
}
Load = Callable[[str], ModuleType]


def environment(version: str, llm: FakeLLM, minute: float) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, replica_path(version))),
        "PYTHONUNBUFFERED": "1",
        "LEGACY_MINUTE_SECONDS": str(minute),
        "LEGACY_BASE_URL": llm.base_url,
        "LEGACY_API_KEY": "unused",
    }


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load(version: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a module of one version under its top-level name; forget all of the replica's modules afterwards. A legacy
    minute is a minute: what is answered at all is answered in time."""
    monkeypatch.setenv("LEGACY_MINUTE_SECONDS", "60")
    names = {file.stem for folder in replica_path(version) for file in folder.glob("*.py")}
    monkeypatch.setattr(sys, "path", [*map(str, replica_path(version)), *sys.path])
    for name in names:
        sys.modules.pop(name, None)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def parameters(function: Any) -> list[str]:
    return [
        name if parameter.default is parameter.empty else f"{name}={parameter.default!r}"
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
    ]


def test_the_runners_signatures(load: Load, version: str) -> None:
    module = load("batch_test_runner")
    runner = module.BatchTestRunner
    assert parameters(module.TestTask) == [
        "model", "task_type", "prompt_type", "difficulty='easy'", "is_flawed=False", "flaw_type=None",
        "task_instance=None", "timeout=60", "tool_success_rate=0.8", "required_tools=None",
    ]
    added = ["idealab_key_index=None", "is_subprocess=False"] if version == "last" else []
    assert parameters(runner) == [
        "debug=False", "silent=False", "use_adaptive=False", "save_logs=False", "enable_database_updates=True",
        "use_ai_classification=False", "checkpoint_interval=0", *added,
    ]
    assert parameters(runner.run_concurrent_batch) == ["tasks", "workers=20", "qps=20.0"]
    assert parameters(runner.run_adaptive_concurrent_batch) == ["tasks", "initial_workers=20", "initial_qps=50.0"]
    assert parameters(runner._run_single_test_safe) == ["task"]
    assert parameters(runner._checkpoint_save) == ["results", "task_model=None", "force=False"]
    single = list(inspect.signature(runner.run_single_test).parameters)
    assert single[1:9] == ["model", "task_type", "prompt_type", "is_flawed", "flaw_type", "timeout",
                           "tool_success_rate", "difficulty"]
    assert "timeout=30" in parameters(runner.run_single_test)


def test_the_executors_signatures(load: Load) -> None:
    executor = load("interactive_executor").InteractiveExecutor
    assert parameters(executor)[:4] == ["tool_registry", "llm_client=None", "max_turns=10", "success_rate=0.8"]
    assert list(inspect.signature(executor).parameters)[4:] == ["model", "prompt_type", "silent"]
    assert parameters(executor.execute_interactive) == [
        "initial_prompt", "task_instance", "workflow=None", "prompt_type='baseline'"
    ]
    assert parameters(executor._get_llm_response) == ["conversation", "state"]
    assert parameters(executor._handle_tool_searches) == ["queries", "state"]
    for name in ("_extract_tool_searches", "_extract_tool_info_requests", "_parse_tool_calls"):
        assert parameters(getattr(executor, name)) == ["response"]


def test_what_binds_at_import_and_what_inside_functions(load: Load) -> None:
    runner, smart = load("batch_test_runner"), load("smart_batch_runner")
    for name in ("ThreadPoolExecutor", "as_completed", "Lock", "Semaphore", "InteractiveExecutor", "TestRecord",
                 "EnhancedCumulativeManager"):
        assert name in vars(runner)
    for name in ("BatchTestRunner", "TestTask", "ProcessPoolExecutor", "ThreadPoolExecutor", "as_completed"):
        assert name in vars(smart)
    assert {"OpenAI", "AzureOpenAI"} <= set(vars(load("api_client_manager")))
    assert not {"get_client_for_model", "get_qps_limiter", "OpenAI"} & set(vars(load("interactive_executor")))
    assert {"ThreadPoolExecutor", "TimeoutError"} <= set(
        runner.BatchTestRunner._run_single_test_safe.__code__.co_varnames
    )


def test_a_task_timeout_is_the_models_whatever_was_asked_for(load: Load, version: str) -> None:
    make = load("batch_test_runner").TestTask
    models = ["qwen2.5-7b", "qwen2.5-32b", "gpt-4o-mini", "DeepSeek-V3", "DeepSeek-R1-0528"]
    seconds = [600] * 5 if version == "last" else [60, 90, 120, 300, 600]
    assert [make(model, **TASK, timeout=7).timeout for model in models] == seconds


def test_the_replica_knows_nothing_of_this_library(version: str) -> None:
    files = [file for folder in replica_path(version) for file in folder.glob("*.py")]
    assert len(files) > 10
    assert not [file.name for file in files if "threadsafe" in file.read_text()]
    assert replica_script(version) in files
    with pytest.raises(ValueError, match="2025-08-16"):
        replica_path("1999")


@contextmanager
def executor_on(llm: FakeLLM, load: Load) -> Iterator[Any]:
    with openai.OpenAI(base_url=llm.base_url, api_key="unused") as client:
        module = load("interactive_executor")
        yield module.InteractiveExecutor({}, client, silent=True), module.ExecutionState([])


ASK = [{"role": "user", "content": "case task-000\nRequired tools: network_fetcher"}]


@pytest.mark.slow
def test_a_hang_is_given_up_after_the_clients_own_retries(
    load: Load, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEGACY_MINUTE_SECONDS", "0.5")
    with FakeLLM(mix={"hang": 1}) as llm, executor_on(llm, load) as (executor, state):
        assert executor._get_llm_response(ASK, state) is None
        assert state.api_issues == ["Request timed out."]
        assert getattr(state, "timeout_occurred", None) is (True if version == "last" else None)
        until = _clock.monotonic() + 120
        while len(llm.requests()) < 3 and _clock.monotonic() < until:  # the server may read the last one after its client left
            threading.Event().wait(0.01)
        assert len(llm.requests()) == 3


def test_a_429_is_slept_on_and_tried_again(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    with FakeLLM(mix={"storm429": 1}, storm=3, minute=0.05) as llm, executor_on(llm, load) as (executor, state):
        module = load("interactive_executor")
        monkeypatch.setattr(module, "time", type("Slept", (), {"sleep": slept.append}))
        assert "<tool_search>" in executor._get_llm_response(ASK, state)
        assert len(llm.requests()) == 4  # the client's three, then ours
    assert len(slept) == 1
    assert 0.5 <= slept[0] <= 10
    assert "429" in state.api_issues[0]


def test_any_other_error_is_raised(load: Load) -> None:
    with FakeLLM(mix={"error500": 1}, minute=0.05) as llm, executor_on(llm, load) as (executor, state):
        executor.llm_client = executor.llm_client.with_options(max_retries=0)
        with pytest.raises(openai.InternalServerError):
            executor._get_llm_response(ASK, state)
        assert len(llm.requests()) == 1


def test_an_exception_is_a_record_but_a_base_exception_kills_the_batch(load: Load) -> None:
    module = load("batch_test_runner")
    runner = module.BatchTestRunner(silent=True, enable_database_updates=False)
    tasks = [module.TestTask("m", **TASK) for _ in range(3)]

    def failing(error: BaseException) -> Callable[[object], None]:
        def run(task: object) -> None:
            raise error

        return run

    runner._run_single_test_safe = failing(ValueError("no luck"))
    results = runner.run_concurrent_batch(tasks, workers=2, qps=0)
    assert [(result["error"], result["success"]) for result in results] == [("no luck", False)] * 3
    assert set(results[0]) >= RESULT_KEYS

    class Stop(BaseException):
        pass

    runner._run_single_test_safe = failing(Stop())
    with pytest.raises(Stop):
        runner.run_concurrent_batch(tasks, workers=2, qps=0)


def test_failures_are_classified_on_the_main_thread_under_the_lock(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, classifier = load("batch_test_runner"), load("ai_error_classifier")
    runner = module.BatchTestRunner(silent=True, enable_database_updates=False, use_ai_classification=True)
    seen: list[tuple[threading.Thread, bool]] = []

    class Classifier:
        def classify(self, result: dict[str, Any]) -> tuple[str, str, float]:
            seen.append((threading.current_thread(), runner.classification_lock.locked()))
            return "other_errors", "because", 0.5

    monkeypatch.setattr(classifier, "AIErrorClassifier", Classifier)
    runner._run_single_test_safe = lambda task: load("batch_records").failure_record({**TASK}, "x", 0.0, "other")
    results = runner.run_concurrent_batch([module.TestTask("m", **TASK)], workers=1, qps=0)
    assert seen == [(threading.current_thread(), True)]
    assert results[0]["ai_error_reason"] == "because"


def test_the_adaptive_batch_puts_rate_limited_tasks_back(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGACY_MINUTE_SECONDS", "0.01")
    module, records = load("batch_test_runner"), load("batch_records")
    runner = module.BatchTestRunner(silent=True, enable_database_updates=False)
    runs: list[int] = []  # list.append is atomic

    def run(task: Any) -> dict[str, Any]:
        again = id(task) in runs
        runs.append(id(task))
        result: dict[str, Any] = records.failure_record(
            {**TASK}, "invalid" if again else "Error code: 429", 0.0, "other"
        )
        return result

    runner._run_single_test_safe = run
    tasks = [module.TestTask("m", **TASK) for _ in range(5)]
    results = runner.run_adaptive_concurrent_batch(tasks, initial_workers=2)
    assert [result["error"] for result in results] == ["invalid"] * 5
    assert len(runs) == 10


def test_a_lock_waited_for_in_vain_is_unlinked(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGACY_MINUTE_SECONDS", "0.01")
    locks = load("file_lock_manager").FileLockManager(tmp_path / "database.json")
    with locks.lock_path.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="could not lock"), locks.acquire():
            pytest.fail("two holders")
    assert not locks.lock_path.exists()


BATCH = """
import json, sys
from batch_test_runner import BatchTestRunner, TestTask
from smart_batch_runner import make_tasks
tasks = make_tasks("DeepSeek-R1-0528", 6, seed=3) + [TestTask("gpt-4o-mini", "basic_task", "baseline")]
results = BatchTestRunner(checkpoint_interval=2).run_concurrent_batch(tasks, workers=4, qps=0)
json.dump(results, open("results.json", "w"))
"""


def test_a_good_batch_end_to_end(version: str, tmp_path: Path) -> None:
    with FakeLLM(minute=0.2) as llm:
        command = [sys.executable, "-c", BATCH]
        ran = subprocess.run(command, cwd=tmp_path, env=environment(version, llm, 60), timeout=240, check=True,
                             capture_output=True, text=True)
        assert {request.task for request in llm.requests()} >= {f"task-{number:03d}" for number in range(6)}
        assert any(request.path.endswith("/embeddings") for request in llm.requests())
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == 7
    assert all(set(result) >= RESULT_KEYS for result in results)
    assert all(result["turns"] >= 4 for result in results)  # search, info, calls, closing
    assert ran.stdout.count("[CHECKPOINT]") == 4
    database = json.loads((tmp_path / "pilot_bench_cumulative_results" / "master_database.json").read_text())
    assert set(database) == {"version", "created_at", "last_updated", "test_groups", "models", "summary"}
    assert database["summary"]["total_tests"] == 7
    node = database["models"]["gpt-4o-mini"]["by_prompt_type"]["baseline"]["by_tool_success_rate"]["0.8"]
    assert node["by_difficulty"]["easy"]["by_task_type"]["basic_task"]["total"] == 1


@contextmanager
def stalling(version: str, minute: float, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The program with eight good tasks and one that trickles."""
    output = folder / "output"
    with FakeLLM(mix={"trickle": 1, "good": 8}, minute=minute) as llm, output.open("wb") as out:
        command = [sys.executable, str(replica_script(version)), "--num-tasks", "9", "--workers", "9", "--qps", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment(version, llm, minute), stdout=out,
                                   stderr=subprocess.STDOUT)
        try:
            yield process, output
        finally:
            process.kill()
            process.wait()


def wait_for(text: str, output: Path, process: subprocess.Popen[bytes]) -> None:
    until = _clock.monotonic() + 120
    while text not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert _clock.monotonic() < until, output.read_text()
        threading.Event().wait(0.02)


def still_runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        return True
    return False


@pytest.mark.slow
def test_both_versions_stall_by_themselves(tmp_path: Path) -> None:
    """The version of the incident never returns; the last one returns without the task, and does not exit either."""
    folders = {version: tmp_path / version for version in VERSIONS}
    databases = {version: folders[version] / "pilot_bench_cumulative_results" for version in VERSIONS}
    for folder in folders.values():
        folder.mkdir()
    with (
        stalling("2025-08-16", 2.5, folders["2025-08-16"]) as (first, first_output),
        stalling("last", 0.5, folders["last"]) as (last, last_output),
    ):
        wait_for("[8/9]", last_output, last)
        assert not databases["last"].exists()
        wait_for("[8/9]", first_output, first)
        wait_for("[WARN] batch timeout", first_output, first)  # 10.5 legacy minutes: the task's 605 s are over as well
        wait_for("All done: 8 results", last_output, last)  # an hour in legacy time
        assert still_runs(first)
        assert still_runs(last)
        assert "All done" not in first_output.read_text()
        assert not databases["2025-08-16"].exists()
        saved = json.loads((databases["last"] / "master_database.json").read_text())
        assert saved["summary"]["total_tests"] == 8
