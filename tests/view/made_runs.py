"""Folders of runs, made by the documented form of the files: for what a real run does not do when it is asked to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from threadsafe_timeout._processes import tree as _tree

# What a model, a task or an error may hold, and what must reach no terminal as it is.
HOSTILE = "<script>alert('1')</script> \"[bold]\" \x1b[31mred\x1b]0;title\x07 \u202egnp.exe\u2066 \r\nforged line"


def workers(number: int, now: float, **more: Any) -> list[dict[str, Any]]:
    """Workers that are in an LLM call, each in a task of its own."""
    return [
        {
            "pool": "batch", "worker": f"batch_{place}", "state": "running", "task": f"case-{place}", "key": f"case-{place}",
            "phase": "LLM call, attempt 2", "phase_since": now - 41, "started": now - 100 - place, "elapsed": 100.0 + place,
            "deadline_left": 500.0 - place, "idle": 1.0 + place, "rung": 0, "where": ["/srv/app/runner.py", 10 + place, "ask"],
            **more,
        }
        for place in range(number)
    ]  # fmt: skip


def make_run(
    status_dir: Path, *, now: float | None = None, pid: int | None = None, name: str | None = None,
    events: list[dict[str, Any]] | None = None, **status: Any,
) -> Path:  # fmt: skip
    """A run of this process, alive, that wrote its status now."""
    now = time.time() if now is None else now
    pid = os.getpid() if pid is None else pid
    about = _tree.status(pid)
    folder = status_dir / "runs" / (name or f"20260101-000000-{pid}")
    folder.mkdir(parents=True, mode=0o700)
    run = {"schema": 1, "t": now, "run": folder.name, "pid": pid, "program": "runner.py", "cwd": "/srv/app",
           "argv": ["runner.py"], "resume": "cd /srv/app && python runner.py", "journal": None, "settings": {}}  # fmt: skip
    whole = {
        **run, "start_time": about.started if about is not None else 1, "started": now - 723, "state": "running",
        "dump_signal": None, "rate": 1.2, "effective": [97.0, 50.0, 100.0],
        "totals": {"submitted": 1000, "done": 812, "failed": 3, "timed_out": 5, "loops": 2, "abandoned": 1, "cancelled": 0,
                   "pending": 180, "running": 3, "saved": 812},
        "pools": [{"pool": "batch", "width": 100, "workers": 100}], "workers": workers(3, now), "recent": [], **status,
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(whole))
    first = {"kind": "run", **run}
    (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [first, *(events or [])]))
    return folder
