"""What the pools and their workers are doing, as plain data: for the status, and for the events of each second."""

from __future__ import annotations

import os
from types import FrameType
from typing import Any

from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.crew import Crew
from threadsafe_timeout._pool.health import WorkerHealth, health_of
from threadsafe_timeout._text import Place

__all__ = ["all_crews", "pool_line", "totals", "worker_lines"]

_RUNGS = {"idle": 0, "running": 0, "overdue": 1, "interrupting": 2, "abandoned": 3}
_QUIET = 5.0  # seconds without progress, after which the stack is worth its room
_MOST_FRAMES = 30
# What a thread waits in, by the file of its innermost frames (without its folder and `.py`).
_PHASES = {
    "sleep": ("sleep", "time"),
    "lock": ("threading", "queue", "locks", "_base", "thread"),
    "network": ("socket", "ssl", "selectors", "http_client", "httpcore", "urllib3", "client", "connection", "sync"),
    "process": ("subprocess", "popen_fork", "processes"),
}
_PHASE_OF = {file: phase for phase, files in _PHASES.items() for file in files}
_LOOKED_AT = 4  # frames


def all_crews() -> list[Crew]:
    """The pools that have been given tasks, in the order of their names."""
    while True:
        try:
            return sorted((crew for crew in _exit.crews if crew.submitted), key=lambda crew: crew.prefix)
        except RuntimeError:  # a pool was made or dropped meanwhile
            continue


def pool_line(crew: Crew, unlisted: int) -> dict[str, Any]:
    effective = sum(not task.overdue for task in crew.running())
    return {**crew.stats(), "width": crew.width, "saved": 0, "effective": effective, "unlisted": unlisted}


def totals(pools: dict[str, dict[str, Any]]) -> dict[str, int]:
    """The counts of all pools together. (What fails in time is not what times out.)"""
    def add(name: str) -> int:
        return sum(int(pool[name]) for pool in pools.values())

    timed_out, abandoned = add("timed_out"), add("abandoned")
    return {
        "submitted": add("submitted"), "done": add("completed"),
        "failed": max(0, add("failed") + abandoned - timed_out), "timed_out": timed_out, "loops": add("loops"),
        "abandoned": abandoned, "cancelled": add("cancelled"),
        "pending": add("pending"), "running": add("running"), "saved": add("saved"),
    }  # fmt: skip


def worker_lines(crew: Crew, now: float) -> list[dict[str, Any]]:
    """Each worker, and what it is in; `now` is in seconds since the epoch."""
    with crew.lock:
        idents = {worker.thread.name: worker.thread.ident or -1 for worker in (*crew.workers, *list(crew.abandoned))}
    workers = health_of(crew).workers
    busy = [idents[one.worker] for one in workers if one.state != "idle" and one.worker in idents]
    stacks: dict[int, list[Place]] = {}
    if busy:
        with frames_of_others(*busy) as frames:
            for ident in busy:
                stacks[ident] = _stack(frames.get(ident))
    return [_worker_line(crew, one, stacks.get(idents.get(one.worker, -1), []), now) for one in workers]


def _worker_line(crew: Crew, one: WorkerHealth, stack: list[Place], now: float) -> dict[str, Any]:
    line: dict[str, Any] = {"pool": crew.prefix, "worker": one.worker, "state": one.state, "rung": _RUNGS[one.state]}
    if one.state == "idle":
        return line
    quiet = one.last_progress if one.last_progress is not None else one.elapsed or 0.0
    line |= {
        "task": one.task, "key": one.key, "phase": _phase(stack), "started": one.started, "elapsed": one.elapsed,
        "deadline_left": one.deadline_left, "idle": quiet, "phase_since": now - quiet, "where": one.where,
    }  # fmt: skip
    if one.state != "running" or quiet > _QUIET:
        line["stack"] = stack
    return {name: value for name, value in line.items() if value is not None}


def _stack(frame: FrameType | None) -> list[Place]:
    """The innermost frames, the innermost last, without the values of variables."""
    found: list[Place] = []
    while frame is not None and len(found) < _MOST_FRAMES:
        code = frame.f_code
        found.append((code.co_filename, frame.f_lineno or code.co_firstlineno, code.co_qualname))
        frame = frame.f_back
    return found[::-1]


def _phase(stack: list[Place]) -> str:
    for file, _, _ in reversed(stack[-_LOOKED_AT:]):
        phase = _PHASE_OF.get(os.path.basename(file).removesuffix(".py"))
        if phase is not None:
            return phase
    return "python" if stack else "starting"
