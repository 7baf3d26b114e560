"""Checkpoints: every finished task is on disk before it is reported as done.

    with CheckpointWriter("run.jsonl") as checkpoint:
        checkpoint.save("task-1", {"score": 1.0})

    load_checkpoint("run.jsonl")["task-1"].result

The file has one JSON line per event, each with a checksum. Threads that save at the same time share one fsync. See
docs/checkpoints.md. Start with `_writer`, then `_journal` (the file) and `_run` (going on where it was).
"""

from __future__ import annotations

from threadsafe_timeout.checkpoint._errors import (
    CheckpointClosed,
    CheckpointConfigMismatch,
    CheckpointCorrupt,
    CheckpointError,
    CheckpointInUse,
    CheckpointLockTimeout,
    CheckpointNotFound,
    CheckpointSaveError,
    CheckpointUnavailable,
    CheckpointVersionError,
    UnserializableResult,
)
from threadsafe_timeout.checkpoint._fingerprint import Ordinals, config_hash, task_fingerprint, task_keys
from threadsafe_timeout.checkpoint._function import CheckpointedFunction, checkpointed
from threadsafe_timeout.checkpoint._records import Checkpoint, Record, iter_records, load_checkpoint
from threadsafe_timeout.checkpoint._run import finished_records, open_run
from threadsafe_timeout.checkpoint._values import RecordedError
from threadsafe_timeout.checkpoint._writer import CheckpointWriter

__all__ = [
    "Checkpoint",
    "CheckpointClosed",
    "CheckpointConfigMismatch",
    "CheckpointCorrupt",
    "CheckpointError",
    "CheckpointInUse",
    "CheckpointLockTimeout",
    "CheckpointNotFound",
    "CheckpointSaveError",
    "CheckpointUnavailable",
    "CheckpointVersionError",
    "CheckpointWriter",
    "CheckpointedFunction",
    "Ordinals",
    "Record",
    "RecordedError",
    "UnserializableResult",
    "checkpointed",
    "config_hash",
    "finished_records",
    "iter_records",
    "load_checkpoint",
    "open_run",
    "task_fingerprint",
    "task_keys",
]
