"""Notices that a coroutine blocks its event loop, and says where; past its deadline it is interrupted.

The library's timer thread asks the loop to answer: every `grace` seconds while tasks run, and soon after a task was
cancelled. A loop that has not answered by the next look is blocked. Then

- an `Event` of kind `blocked` is told, once for each time, with the task, its line and the stack;
- the tasks that are overdue are pursued: the one that runs is interrupted where that is safe (see `_interruption`).

Without running tasks nothing wakes up.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING

from threadsafe_timeout._introspection.frames import frames_awaited, frames_of_others, users_frame, users_place_in
from threadsafe_timeout._scopes.around import ACTIVE
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["LoopWatch", "place_of_coroutine", "task_on"]

_SOON = 0.05  # seconds: what a healthy loop gets to answer when a task of it is overdue


class LoopWatch:
    """The watch over the loop of one crew."""

    def __init__(self, crew: AsyncCrew, loop: asyncio.AbstractEventLoop) -> None:
        self._crew = crew
        self._loop = loop
        self._ident = get_ident()
        self._every = max(crew.grace, _SOON)
        # All guarded by _timer.lock:
        self._look: _timer.Entry | None = None
        self._look_at = float("inf")
        self._asked: float | None = None  # since when the loop has not answered
        self._told = False
        self._over = False

    def begin(self) -> None:
        """A task runs."""
        if self._look is None:
            self._arm(self._every)

    def hurry(self) -> None:
        """A task is overdue: look soon."""
        self._arm(_SOON)

    def end(self, *, for_good: bool = False) -> None:
        """No task runs; or none will. The timer thread may be in `_check`, and would look again otherwise."""
        with _timer.lock:
            self._over = self._over or for_good
            if self._look is not None:
                _timer.disarm(self._look)
            self._look, self._look_at = None, float("inf")

    def _arm(self, seconds: float) -> None:
        with _timer.lock:
            when = _clock.monotonic() + seconds
            if self._over or self._look_at <= when:
                return
            if self._look is not None:
                _timer.disarm(self._look)
            self._look, self._look_at = _timer.arm(when, self._check), when

    def _check(self) -> None:
        """In the timer thread."""
        with _timer.lock:
            self._look, self._look_at = None, float("inf")
            blocked = self._asked is not None
            tell, self._told = blocked and not self._told, blocked
            if not blocked:
                self._asked = _clock.monotonic()
        if blocked:
            self._arm(self._every)
            for task in self._crew.overdue_tasks():
                task._scope.interrupt()
            if tell:
                self._tell()
            return
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:
            return  # the loop was closed
        self._arm(_SOON if self._crew.overdue_tasks() else self._every)

    def _answer(self) -> None:
        """In the loop."""
        with _timer.lock:
            self._asked, told, self._told = None, self._told, False
        if told:
            for task in self._crew.overdue_tasks():
                task._scope.stand_down()
        if not self._crew.running:
            self.end()

    def _tell(self) -> None:
        with frames_of_others(self._ident) as frames:
            top = frames.get(self._ident)
            if top is None:
                return
            task = task_on(top, self._crew.running_tasks())
            where, stack = users_frame(top), _stack(top, task)
        since = 0.0 if self._asked is None else _clock.monotonic() - self._asked
        self._crew.blocked(task, where, stack, since)


def task_on(frame: FrameType | None, tasks: Iterable[AsyncTask]) -> AsyncTask | None:
    """The task whose block is on this stack. (None: a task that it has made, or another part of the program.)"""
    blocks = {task._scope._frame: task for task in tasks if task._scope._state is ACTIVE}
    while frame is not None:
        if frame in blocks:
            return blocks[frame]
        frame = frame.f_back
    return None


def _stack(top: FrameType, task: AsyncTask | None) -> str:
    """From the task's own function on, if there is one; without the values of variables."""
    entries = traceback.extract_stack(top)
    if task is not None:
        depth, frame = 0, top
        while frame is not task._scope._frame and frame.f_back is not None:
            depth, frame = depth + 1, frame.f_back
        entries = traceback.StackSummary.from_list(entries[len(entries) - depth :])
    return "".join(traceback.format_list(entries))


def place_of_coroutine(coroutine: object) -> tuple[Place | None, str]:
    """Where a suspended coroutine waits: the program's own innermost line, and the whole stack of awaits."""
    frames = frames_awaited(coroutine)
    places = [traceback.FrameSummary(one.f_code.co_filename, one.f_lineno, one.f_code.co_name) for one in frames]
    return users_place_in(reversed(frames)), "".join(traceback.format_list(places))
