"""Reads and writes the results database."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from file_lock_manager import FileLockManager

DATABASE_PATH = Path("pilot_bench_cumulative_results") / "master_database.json"


def empty_database() -> dict[str, Any]:
    now = datetime.now().isoformat()
    return {
        "version": "3.0",
        "created_at": now,
        "last_updated": now,
        "test_groups": {},
        "models": {},
        "summary": {"total_tests": 0, "total_success": 0, "total_failure": 0, "models_tested": []},
    }


class StorageAdapter:
    def __init__(self, path: Path = DATABASE_PATH) -> None:
        self.path = Path(path)
        self.lock = FileLockManager(self.path)

    def load(self) -> dict[str, Any]:
        try:
            database: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return database
        except Exception:  # sin: a damaged file counts as none, and the next save replaces it
            return empty_database()

    def update(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Read, change, write whole, under the lock. Nothing is synced to the disk."""
        with self.lock.acquire():
            database = self.load()
            change(database)
            database["last_updated"] = datetime.now().isoformat()
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(database, indent=2, ensure_ascii=False), encoding="utf-8")
            temporary.replace(self.path)
