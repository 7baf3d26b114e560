"""`save="tasks"` in the process of the tests: its journal, and a kill of the run."""

from __future__ import annotations

from pathlib import Path

from threadsafe_timeout.checkpoint import _program_run, load_checkpoint

JOURNAL = Path("run.tasks.jsonl")


def killed() -> None:
    """What a kill leaves: the journal has no end, and the lock is free."""
    run, _program_run._run = _program_run._run, None
    assert run is not None
    run.writer.close()
    run._run_lock.release()


def statuses() -> list[tuple[str, str]]:
    return sorted((str(key).partition(":")[0], record.status) for key, record in load_checkpoint(JOURNAL).items())
