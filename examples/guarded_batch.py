"""A batch on the pool, each finished task saved at once. Kill it and start it again: it goes on where it was.

    python guarded_batch.py
"""

from __future__ import annotations

import random
from concurrent.futures import as_completed

from threadsafe_timeout import DeadlineExceeded, Outcome, ThreadPoolExecutor, sleep
from threadsafe_timeout.checkpoint import open_run


def work(number: int) -> float:
    """Most take a moment; some would take for ever."""
    seconds = random.Random(number).choice([0.05, 0.1, 3600])
    sleep(seconds)
    return seconds


def main() -> None:
    journal, finished = open_run("guarded_batch.jsonl", config={"version": 1}, retry={"timeout"})

    def save(key: str, outcome: Outcome) -> object:
        if isinstance(outcome.error, DeadlineExceeded):
            journal.save(key, str(outcome.error), "timeout")
        if outcome.error is not None:
            raise outcome.error
        journal.save(key, outcome.result)
        return outcome.result

    with ThreadPoolExecutor(8, task_timeout=1, grace=0.5) as pool:
        futures = {}
        for number in range(30):
            key = f"task-{number}"
            if key not in finished:
                submit = pool.with_options(name=key, settle=lambda outcome, key=key: save(key, outcome)).submit
                futures[submit(work, number)] = key
        for future in as_completed(futures):
            print(futures[future], future.exception() or future.result())
    journal.close(ended=True)


if __name__ == "__main__":
    main()
