"""The command line: makes the tasks, starts the runner."""

from __future__ import annotations

import argparse
import inspect
import random
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from typing import Any

from api_client_manager import DEFAULT_MODEL
from batch_test_runner import BatchTestRunner, TestTask
from task_library import DIFFICULTIES, PROMPT_TYPES, TASK_TYPES, flaw_of, make_instance


def make_tasks(model: str, num_tasks: int, seed: int) -> list[TestTask]:
    """Every task type with every prompt strategy, as often as it takes; the same ones for the same seed."""
    rng = random.Random(seed)
    pairs = [(task_type, prompt_type) for task_type in TASK_TYPES for prompt_type in PROMPT_TYPES]
    tasks = []
    for number in range(num_tasks):
        task_type, prompt_type = pairs[number % len(pairs)]
        instance = make_instance(task_type, rng, f"task-{number:03d}")
        flaw = flaw_of(prompt_type)
        tasks.append(
            TestTask(
                model,
                task_type,
                prompt_type,
                difficulty=DIFFICULTIES[number // len(pairs) % len(DIFFICULTIES)],
                is_flawed=flaw is not None,
                flaw_type=flaw,
                task_instance=instance,
                required_tools=instance["required_tools"],
            )
        )
    rng.shuffle(tasks)
    return tasks


def run_model(model: str, options: argparse.Namespace, is_subprocess: bool = False) -> int:
    """Run one model's tasks; how many results there are. Also what a child process runs."""
    extra: dict[str, Any] = {}
    if "is_subprocess" in inspect.signature(BatchTestRunner).parameters:
        extra["is_subprocess"] = is_subprocess
    runner = BatchTestRunner(
        use_adaptive=options.adaptive,
        use_ai_classification=options.classifier,
        checkpoint_interval=options.checkpoint_interval,
        silent=options.silent,
        **extra,
    )
    tasks = make_tasks(model, options.num_tasks, options.seed)
    if runner.use_adaptive:
        return len(runner.run_adaptive_concurrent_batch(tasks, options.workers, options.qps))
    return len(runner.run_concurrent_batch(tasks, options.workers, options.qps))


def run_models(models: list[str], options: argparse.Namespace) -> int:
    """One model here; several side by side in an inner pool, of threads or of child processes."""
    if len(models) == 1:
        return run_model(models[0], options)
    pool = ProcessPoolExecutor if options.processes else ThreadPoolExecutor
    with pool(max_workers=len(models)) as executor:
        futures = [executor.submit(run_model, model, options, options.processes) for model in models]
        return sum(future.result() for future in as_completed(futures))  # sin: no timeout here either


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help=f"may be given several times (default {DEFAULT_MODEL})")
    parser.add_argument("--num-tasks", type=int, default=100, help="tasks per model (default %(default)s)")
    parser.add_argument("--workers", type=int, default=20, help="threads per model (default %(default)s)")
    parser.add_argument("--qps", type=float, default=20.0, help="per legacy second (default %(default)s; 0: any)")
    parser.add_argument("--seed", type=int, default=42, help="which tasks there are (default %(default)s)")
    parser.add_argument("--checkpoint-interval", type=int, default=0, metavar="N", help="save every N results")
    parser.add_argument("--classifier", action="store_true", help="ask a model why a test failed")
    parser.add_argument("--adaptive", action="store_true", help="adapt the number of workers to rate limits")
    parser.add_argument("--processes", action="store_true", help="several models: a child process for each")
    parser.add_argument("--silent", action="store_true", help="print no line per test")
    return parser.parse_args(argv)


def main() -> None:
    options = parse_arguments()
    models = options.model or [DEFAULT_MODEL]
    print(f"Running {options.num_tasks} tasks with {options.workers} workers on {', '.join(models)}", flush=True)
    count = run_models(models, options)
    print(f"All done: {count} results", flush=True)
    sys.exit(0)  # sin: does not help: the interpreter still joins every worker thread


if __name__ == "__main__":
    main()
