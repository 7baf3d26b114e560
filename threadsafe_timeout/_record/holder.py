"""Who held the GIL while the interpreter stood still, as far as that can be known afterwards.

- A thread that has computed all that time held it (a catastrophic regular expression).
- Else it was a wait in C with the GIL (`sleep` through `ctypes.PyDLL`). Each thread that waits for the GIL uses the
  processor a little, as the one that looks here did. The holder has used less, but it has run since the last look,
  so more than a thread that has been waiting for something else. Of several such threads the holder most likely goes
  on now, unless it was faster than this look.

Without the times of threads (not on Linux) it is not known.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._pool.events import Event, Events, describe
from threadsafe_timeout._pool.telling import thread_position
from threadsafe_timeout._record.at_work import async_crews_at_work, crews_at_work
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._text import Place, place, shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import is_ours

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._pool.worker import Worker
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_slots import Slot
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["Times", "look", "tell"]

_MUCH = 0.05  # the share of the time that a thread has computed which held the GIL all along, on a very busy machine
_TIMES = 5  # and how many times as much it has computed as one that waited for the GIL
_LITTLE = 0.25  # the share of what waiting for the GIL takes that one uses which did not wait for it
_MOMENT = 0.05  # seconds, in which a thread that was let go moves
_NAMED = 5  # suspects


class Suspect(NamedTuple):
    """A thread, as it was when the interpreter went on."""

    thread: threading.Thread
    worker: Worker | Slot | None
    task: TaskFuture | AsyncTask | None
    name: str
    where: Place | None


Times = dict[threading.Thread, float]


def look(workers: Times | None = None) -> Times:
    """How long each thread has computed so far; of `workers` and of this one, what is known."""
    found: Times = {}
    for thread in threading.enumerate():
        seconds = _clock.thread_time(thread.native_id)
        if seconds is not None:
            found[thread] = seconds
    if workers is not None:
        me = threading.get_ident()
        found |= {one: seconds for one, seconds in workers.items() if one.ident == me or one.ident in _around.workers}
    return found


def tell(before: Times, stood: float, written: str | None) -> None:
    """Warn that the interpreter stood still for so long; the stacks were `written` there."""
    suspects = _suspects(before, stood)
    known = suspects[0] if len(suspects) == 1 else None
    events = _events_of(known)
    text = (
        f"the interpreter stood still for {stood:.1f} s: a call of C held the GIL, and no deadline could be met. "
        f"{_in_words(suspects)}. To be able to stop such a call, run the task in a process of its own "
        '(isolate="process"), or the program with: threadsafe-timeout run --supervise'
    )
    if written is not None:
        text += f". The stacks meanwhile were written to {shown(written)}"
    task = known.task if known is not None else None
    event = Event(
        "stalled", events.pool if events is not None else "", known.name if known is not None and task else None,
        task._options.key if task is not None else None, known.thread.name if known is not None else None, stood,
        f"the interpreter stood still for {stood:.1f} s", known.where if known is not None else None,
    )  # fmt: skip
    if events is not None:
        events.put(logging.WARNING, text, event)
        events.tell()


def _suspects(before: Times, stood: float) -> list[Suspect]:
    # At once: they have hardly moved. What has been waiting for the GIL goes on as soon as it is given away in here.
    now, me = look(), threading.current_thread()
    places = _positions()
    grown = {thread: seconds - before.get(thread, 0.0) for thread, seconds in now.items() if not is_ours(thread)}
    longest, waiting = max(grown.values(), default=0.0), now.get(me, 0.0) - before.get(me, 0.0)
    if longest >= max(_MUCH * stood, _TIMES * waiting):
        return [_suspect(thread) for thread, seconds in grown.items() if seconds >= longest / 2]
    quiet = [_suspect(thread) for thread, seconds in grown.items() if 0 < seconds < _LITTLE * waiting]
    pause = threading.Lock()
    pause.acquire()
    _clock.SystemClock().wait(pause, _MOMENT)
    later = _positions()
    moving = [one for one in quiet if places.get(one.thread.ident) != later.get(one.thread.ident)]
    return moving or [one for one in quiet if one.task is not None] or quiet


def _positions() -> dict[int | None, tuple[int, int]]:
    with frames_of_others() as frames:
        return {ident: (id(frame), frame.f_lasti) for ident, frame in frames.items()}


def _suspect(thread: threading.Thread) -> Suspect:
    worker: Any = _around.workers.get(thread.ident or -1) or _slot_on(thread)
    task = worker.task if worker is not None else None
    where, _ = thread_position(thread.ident)
    return Suspect(thread, worker, task, thread.name if task is None else task._task_name(), where)


def _slot_on(thread: threading.Thread) -> Slot | None:
    """If it is that of an event loop, and a coroutine of an `AsyncPool` runs in it: its slot."""
    crews = [crew for crew in async_crews_at_work() if crew.ident == thread.ident]
    return next((one.slot for crew in crews for one in crew.look(crew.width) if not one.suspended), None)


def _events_of(known: Suspect | None) -> Events | None:
    """Where the event goes: to the pool whose task it was, or else to one that has tasks."""
    if known is not None and known.task is not None:
        return known.task._crew.events
    crew: Crew | None = getattr(known.worker, "crew", None) if known is not None else None
    if crew is not None:
        return crew.events
    crews = [crew for crew in crews_at_work() if not crew.inner]
    crews.sort(key=lambda crew: not crew.running())
    every: list[Crew | AsyncCrew] = [*crews, *async_crews_at_work()]
    return every[0].events if every else None


def _in_words(suspects: Iterable[Suspect]) -> str:
    names = [_called(one) for one in suspects]
    if not names:
        return "Which task it was is not known"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ("It was " if len(names) == 1 else "It was one of these: ") + ", ".join(names[:_NAMED]) + more


def _called(one: Suspect) -> str:
    text = f"thread {shown(one.thread.name)}"
    if one.task is not None:
        text = f"task {describe(one.name, one.task._options.key)} in {text}"
    elif one.worker is not None:
        return f"a task in {text}, which has ended since"
    return text if one.where is None else f"{text} (now at {place(one.where)})"
