"""What the tasks of an `AsyncPool` are doing, as a picture taken at one moment, from any thread."""

from __future__ import annotations

import math
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from threadsafe_timeout._introspection.frames import (
    frames_awaited,
    frames_of_others,
    let_go,
    place_of_frame,
    users_frame,
    users_place_in,
)
from threadsafe_timeout._pool.health import PoolHealth, WorkerHealth, WorkerState, deadline_of
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.engines._async_slots import Slot
from threadsafe_timeout.engines._loop_watch import task_on

if TYPE_CHECKING:
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["Seen", "health_of", "look"]

_MOST_FRAMES = 30


class Seen(NamedTuple):
    """A task that has a slot. Of its `stack` the innermost frames, the innermost last; `suspended`: these are what it
    awaits, and not what the thread of its loop is in."""

    health: WorkerHealth
    slot: Slot
    stack: list[Place]
    suspended: bool


def health_of(crew: AsyncCrew) -> PoolHealth:
    """The picture. Free slots are not in it: nothing waits in them."""
    seen = sorted((one.health for one in look(crew)), key=lambda one: one.worker)
    pending = sum(not task.done() for task in list(crew.pending))
    return PoolHealth(crew.prefix, crew.width, pending, tuple(seen))


def look(crew: AsyncCrew, most: int | None = None) -> list[Seen]:
    """Its tasks; of more than `most`, those in trouble and those that have run for longest."""
    running = sorted(crew.running, key=lambda task: not task._scope._cancelled)
    tasks = [*list(crew.abandoned), *running][:most]
    held: list[FrameType] = []
    with frames_of_others(crew.ident) as frames:
        try:
            return _look(crew, tasks, frames, held)
        finally:
            let_go(held)


def _look(crew: AsyncCrew, tasks: list[AsyncTask], frames: dict[int, FrameType], held: list[FrameType]) -> list[Seen]:
    can_be_looked_at = bool(frames) or crew.in_loop()
    top = frames.get(crew.ident)
    on_thread = task_on(top, tasks)
    found = []
    for task in tasks:
        slot, coroutine = task._slot, task._running
        if slot is None:  # it has ended just now
            continue
        stack: list[FrameType] = []
        if task is on_thread:
            stack, where = _down_to(task._scope._frame, top), users_frame(top)
        else:
            stack = frames_awaited(coroutine) if can_be_looked_at else []
            held += stack
            where = users_place_in(reversed(stack))
        places = [place_of_frame(frame) for frame in stack[-_MOST_FRAMES:]]
        found.append(Seen(_health(task, slot, where), slot, places, task is not on_thread))
    return found


def _down_to(block: FrameType | None, frame: FrameType | None) -> list[FrameType]:
    """From the function that the block has called on to the frame."""
    found = []
    while frame is not None and frame is not block:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


def _health(task: AsyncTask, slot: Slot, where: Place | None) -> WorkerHealth:
    scope, now, elapsed = task._scope, _clock.monotonic(), task.elapsed()
    deadline = deadline_of(scope) if scope._state else math.inf
    progress = getattr(scope, "_progress", None)
    return WorkerHealth(
        slot.name, _state(task, slot), task._task_name(), task._options.key, _clock.wall_time() - elapsed, elapsed,
        None if deadline == math.inf else deadline - now, None if progress is None else now - progress, where,
    )  # fmt: skip


def _state(task: AsyncTask, slot: Slot) -> WorkerState:
    if slot.abandoned:
        return "abandoned"
    if not task._scope._cancelled:
        return "running"
    return "interrupting" if task._insisting else "overdue"
