"""Where the pool, the journal and the LLM clients say what happens, to those who record it.

An observer is an object that has some of the methods below, by their names. `attach` has it called from then on. Each
name here is None unless an attached observer has such a method: to look is all it costs then. The methods are quick
and raise nothing; those marked so are called under locks of the pool, and take none themselves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import Context

from threadsafe_timeout._typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from typing import TypeAlias

    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.events import Event
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["Ending", "LLMCall", "attach", "detach", "not_when_stirred", "rest", "rouse", "when_stirred"]


class LLMCall(Protocol):
    """A call of an LLM client."""

    attempts: int
    """How often it was sent so far."""
    known: bool
    """For the observer: whether it has begun before."""


class Ending(Protocol):
    """What is known of a task as it ends. (Not a second name of the observer's: another may be attached in between.)"""

    def finished(self, error: BaseException | None) -> object:
        """The future has its outcome now."""


_Hears: TypeAlias = "Callable[[TaskFuture | AsyncTask, BaseException | None], Ending | None]"

# A worker of this pool begins.
began: Callable[[Crew], object] | None = None
# An `AsyncPool` gets its first task.
opened: Callable[[AsyncCrew], object] | None = None
# A task is about to be run in this context, by the worker or the event loop that calls.
starting: Callable[[TaskFuture | AsyncTask, Context], object] | None = None
# A task is about to have its outcome: the error, or None. What is returned hears of it when the future has it.
ending: _Hears | None = None
# The same, for a task that has ended well and is not saved: the hot path. Those that rest do not hear of it.
ending_well: _Hears | None = None
# What `on_event` callbacks hear of. Called under locks of the pool.
event: Callable[[Event], object] | None = None
# The same, a little later, by the thread that calls them, under no lock.
told: Callable[[Event], object] | None = None
# A result is on disk, after so many seconds; or could not be saved: the error.
saved: Callable[[float, BaseException | None], object] | None = None
# An LLM client begins to work on a call for this thread, or to read a piece of its answer; and has ended.
llm_begins: Callable[[LLMCall], object] | None = None
llm_ends: Callable[[LLMCall], object] | None = None
# A guarded executor begins to run its tools, after so many turns in a row that only search (0: not after one); and has
# ended. The first is the same object both times.
tools_begin: Callable[[object, int], object] | None = None
tools_end: Callable[[object], object] | None = None
# A call of an LLM client has returned, after so many seconds, or failed.
llm_called: Callable[[float, BaseException | None], object] | None = None
# A guard has ended a loop, of this kind and in these words, that is in no pool's task.
looped: Callable[[str, str], object] | None = None
# The process is left at once, with this status.
leaving: Callable[[int], object] | None = None
# A pool gets a task. Called under its lock. None unless somebody sleeps until then, see `when_stirred`.
stirred: Callable[[Crew | AsyncCrew], object] | None = None

_lock = threading.Lock()
_attached: tuple[object, ...] = ()  # replaced under _lock
_resting: frozenset[_Hears] = frozenset()  # replaced under _lock
_sleepers: dict[Callable[[Crew | AsyncCrew], object], None] = {}  # each step is one call of C


def attach(one: object) -> None:
    """Have `one` hear of what happens."""
    with _lock:
        _set((*(other for other in _attached if other is not one), one))


def detach(one: object) -> None:
    """It hears of nothing more; a call that has begun may still be running."""
    with _lock:
        _set(tuple(other for other in _attached if other is not one))


def rest(hears: _Hears, wanted: Callable[[], bool]) -> None:
    """Have this `ending` of an observer's not called for tasks that end well, until `rouse`, if `wanted()` is so.

    Asked under the lock that `rouse` takes: who rouses it, and makes that untrue before, is not missed. If the lock is
    taken, nothing is done: the next task is soon there.
    """
    global _resting
    if _lock.acquire(blocking=False):
        try:
            if wanted():
                _resting |= {hears}
                _set_endings()
        finally:
            _lock.release()


def rouse(hears: _Hears) -> None:
    """Have it called again."""
    global _resting
    with _lock:
        if hears in _resting:
            _resting -= {hears}
            _set_endings()


def when_stirred(wake: Callable[[Crew | AsyncCrew], object]) -> None:
    """Have that called when a pool gets a task; once."""
    global stirred
    _sleepers[wake] = None
    stirred = _stir  # after that: a pool that gets a task meanwhile calls it, or finds it here


def not_when_stirred(wake: Callable[[Crew | AsyncCrew], object]) -> None:
    """Take that back."""
    _sleepers.pop(wake, None)


def _stir(crew: Crew | AsyncCrew) -> None:
    global stirred
    stirred = None
    while True:
        try:
            wake, _ = _sleepers.popitem()
        except KeyError:
            return
        wake(crew)


def _set(observers: tuple[object, ...]) -> None:
    global _attached, began, opened, starting, event, told, saved, leaving, looped
    global llm_begins, llm_ends, llm_called, tools_begin, tools_end
    _attached = observers
    began, opened, starting = _to_all("began"), _to_all("opened"), _to_all("starting")
    _set_endings()
    event, told = _to_all("event"), _to_all("told")
    saved, leaving, looped = _to_all("saved"), _to_all("leaving"), _to_all("looped")
    llm_begins, llm_ends, llm_called = _to_all("llm_begins"), _to_all("llm_ends"), _to_all("llm_called")
    tools_begin, tools_end = _to_all("tools_begin"), _to_all("tools_end")


def _to_all(name: str) -> Callable[..., object] | None:
    methods = _methods(name)
    if len(methods) < 2:
        return methods[0] if methods else None

    def call_all(*args: object) -> None:
        for method in methods:
            method(*args)

    return call_all


class _Endings(tuple[Ending, ...]):
    """What several have noted."""

    __slots__ = ()

    def finished(self, error: BaseException | None) -> None:
        for one in self:
            one.finished(error)


def _set_endings() -> None:
    global _resting, ending, ending_well
    methods: list[_Hears] = _methods("ending")
    _resting = _resting.intersection(methods)
    ending, ending_well = _ending(methods), _ending([one for one in methods if one not in _resting])


def _ending(methods: list[_Hears]) -> _Hears | None:
    if len(methods) < 2:
        return methods[0] if methods else None

    def note_all(task: TaskFuture | AsyncTask, error: BaseException | None) -> Ending:
        notes = [method(task, error) for method in methods]
        return _Endings(note for note in notes if note is not None)

    return note_all


def _methods(name: str) -> list[Callable[..., Any]]:
    return [getattr(one, name) for one in _attached if hasattr(one, name)]


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is not there any more may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)
