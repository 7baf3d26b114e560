"""What a task does, while the run is recorded.

Its LLM calls, and the tools of a guarded executor, are noted on its worker by the thread that makes them; the recorder
only reads. The rest is told from the stack, see `snapshot`, where the recorder looks once a second.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from typing import TypeAlias

    from threadsafe_timeout._pool.observer import LLMCall
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._pool.worker import Worker
    from threadsafe_timeout.engines._async_slots import Slot
    from threadsafe_timeout.engines._async_task import AsyncTask

    Task: TypeAlias = TaskFuture | AsyncTask
    Place: TypeAlias = Worker | Slot

__all__ = ["Doing", "Seen", "Told", "Watching", "doing_of", "note_seen", "seconds_in", "seen_of"]

_MOST = 100  # steps at a time


class Step:
    """A call of an LLM client, or tools that run."""

    __slots__ = ("call", "searches", "since")

    def __init__(self, call: LLMCall | None, searches: int, since: float) -> None:
        self.call = call
        self.searches = searches
        self.since = since

    @property
    def kind(self) -> str:
        return "llm" if self.call is not None else "search" if self.searches else "tools"

    def in_words(self) -> str:
        return {"llm": "LLM call", "tools": "tools"}.get(self.kind, f"search ×{self.searches}")


class Doing:
    """What one task does, and what it has spent its time on."""

    __slots__ = ("_began", "_kind", "_spent", "_steps", "attempts", "calls", "number")

    def __init__(self, number: int) -> None:
        self.number = number  # of the task
        self.calls = 0
        self.attempts = 0  # the most of one call
        self._spent: dict[str, float] = {}
        self._steps: dict[object, Step] = {}  # the outermost first; a task's own threads may make several at a time
        self._began = 0.0  # the outermost
        self._kind = ""  # of that

    def begins(self, key: object, step: Step) -> None:
        if len(self._steps) >= _MOST:
            return
        if not self._steps:
            self._began, self._kind = step.since, step.kind
        self._steps[key] = step

    def ends(self, key: object) -> None:
        step = self._steps.pop(key, None)
        if step is None:
            return
        if step.call is not None:
            self.attempts = max(self.attempts, step.call.attempts)
        if not self._steps:
            self._spent[self._kind] = self._spent.get(self._kind, 0.0) + _clock.monotonic() - self._began

    def spent(self) -> dict[str, float]:
        """Seconds until now, by kind. What is inside of something else belongs to that."""
        found = self._spent.copy()
        if self._steps:
            found[self._kind] = found.get(self._kind, 0.0) + _clock.monotonic() - self._began
        return found

    def phase(self) -> tuple[str, float] | None:
        """In words, and since when (on the monotonic clock); None if it does nothing of the kind."""
        steps = list(self._steps.copy().values())  # a copy first: other threads go on
        if not steps:
            return None
        first, calls = steps[0], [step.call for step in steps if step.call is not None]
        words = [first.in_words()]
        if calls and first.call is None:
            words.append("LLM call")
        if calls and calls[-1].attempts > 1:
            words.append(f"attempt {calls[-1].attempts}")
        if len(calls) > 1:
            words.append(f"{len(calls)} at a time")
        return ", ".join(words), first.since

    def told(self) -> dict[str, Any]:
        """What `Told.take` takes."""
        phase, now = self.phase(), _clock.monotonic()
        told: dict[str, Any] = {"calls": self.calls, "attempts": self.attempts, "spent": self._spent.copy()}
        if phase is not None:
            told |= {"phase": phase[0], "since": now - phase[1], "kind": self._kind, "began": now - self._began}
        return told


class Told(Doing):
    """The same of a task in a process of its own, as that has told it."""

    __slots__ = ("_phase",)

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._phase: tuple[str, float] | None = None

    def take(self, told: dict[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError for what is none of it."""
        now = _clock.monotonic()
        calls, attempts = int(told["calls"]), int(told["attempts"])
        spent = {str(kind): float(seconds) for kind, seconds in told["spent"].items()}
        phase = (str(told["phase"]), now - float(told["since"])) if "phase" in told else None
        if phase is not None:
            self._kind, self._began = str(told["kind"]), now - float(told["began"])
        self.calls, self.attempts, self._spent, self._phase = calls, attempts, spent, phase

    def phase(self) -> tuple[str, float] | None:
        return self._phase

    def spent(self) -> dict[str, float]:
        found = self._spent.copy()
        if self._phase is not None:
            found[self._kind] = found.get(self._kind, 0.0) + _clock.monotonic() - self._began
        return found


class Seen:
    """What the recorder has seen one task in, each time it has looked."""

    __slots__ = ("number", "times")

    def __init__(self, number: int) -> None:
        self.number = number  # of the task
        self.times: Counter[str] = Counter()


def note_seen(worker: Place, phase: str) -> None:
    """It is in that, and has not noted it itself. Called by one thread at a time."""
    task = worker.task
    if task is None:
        return
    seen = worker.seen
    if seen is None or seen.number != task._number:
        seen = worker.seen = Seen(task._number)
    seen.times[phase] += 1


def seen_of(worker: Place, task: Task) -> Seen | None:
    """That of this task of its, if it was seen."""
    seen: Seen | None = worker.seen
    return seen if seen is not None and seen.number == task._number else None


def seconds_in(took: float, doing: Doing | None, seen: Seen | None) -> dict[str, float]:
    """What a task's time was spent in: what was noted, and the rest as often as it was seen in each."""
    found = doing.spent() if doing is not None else {}
    rest = took - sum(found.values())
    if seen is not None and rest > 0:
        times = seen.times.copy()
        for phase, number in times.items():
            found[phase] = found.get(phase, 0.0) + rest * number / times.total()
    return found


def worker_here() -> Place | None:
    """The worker, or slot, whose task this code works for: the thread's own, or that of a coroutine; or that of the
    task whose context this one was copied from."""
    scope = _around.current_scope()
    while scope is not None and getattr(scope, "task", None) is None:
        scope = scope._parent
    worker: Any = _around.workers.get(threading.get_ident())
    if scope is None or (worker is not None and scope._of_task):
        return worker  # type: ignore[no-any-return]
    task: Any = scope.task  # type: ignore[attr-defined]
    return task._crew.worker_of(task) if task is not None else worker  # type: ignore[no-any-return]


def doing_here() -> Doing | None:
    """That of the task at hand, a new one if it has none yet; None outside of tasks."""
    worker = worker_here()
    task = worker.task if worker is not None else None
    if worker is None or task is None:
        return None
    doing = worker.doing
    if doing is None or doing.number != task._number:
        doing = worker.doing = Doing(task._number)
    return doing  # type: ignore[no-any-return]


def doing_of(worker: Place, task: Task | None) -> Doing | None:
    """That of this task of its; None if it has not begun anything. An abandoned worker is in the last one it had."""
    doing = worker.doing
    if doing is None or (task is None and not worker.abandoned) or (task is not None and doing.number != task._number):
        return None
    return doing  # type: ignore[no-any-return]


class Watching:
    """What an observer hears of it."""

    def llm_begins(self, call: LLMCall) -> None:
        doing = doing_here()
        if doing is not None:
            doing.calls += not call.known
            call.known = True
            doing.begins(call, Step(call, 0, _clock.monotonic()))

    def llm_ends(self, call: LLMCall) -> None:
        _ends(call)

    def tools_begin(self, key: object, searches: int) -> None:
        doing = doing_here()
        if doing is not None:
            doing.begins(key, Step(None, searches, _clock.monotonic()))

    def tools_end(self, key: object) -> None:
        _ends(key)


def _ends(key: object) -> None:
    worker = worker_here()
    if worker is not None and worker.doing is not None:
        worker.doing.ends(key)  # also when the task was given up meanwhile
