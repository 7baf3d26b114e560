"""Whether anybody can still ask a future for its outcome.

Nobody can if all that refers to it is this library, and variables that the functions which are running do not read any
more. That is looked up: the collector knows the objects that refer to a future, the frames their variables, and
`liveness` which of these are still read. Everything else (an attribute, a closure, a queue, another thread's variable)
counts as somebody who may ask.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from threading import get_ident
from types import AsyncGeneratorType, CellType, CoroutineType, FrameType, GeneratorType, MethodType
from typing import Any

from threadsafe_timeout._introspection.frames import current_frames, frames_of_others

__all__ = ["may_be_fetched"]

_PACKAGE = "threadsafe_timeout"
_CONTAINERS = (list, dict, tuple, set, frozenset, deque, CellType)  # of which, in turn, only dead variables may know
_DEPTH = 5  # containers in containers; deeper ones count as read
# Whose variables are an object's while it does not run, by the names of their frame and of whether it runs.
_SUSPENDABLE = {
    GeneratorType: ("gi_frame", "gi_running"),
    CoroutineType: ("cr_frame", "cr_running"),
    AsyncGeneratorType: ("ag_frame", "ag_running"),
}


def may_be_fetched(futures: Sequence[object], frame: FrameType, internal: Sequence[object]) -> bool:
    """Whether the outcome of any of `futures` may still be asked for, once `frame` (of this thread) goes on.

    `internal`: the containers of this library that hold them.
    """
    if sys.implementation.name != "cpython":
        return True
    with frames_of_others():
        return _Search(futures, frame, internal).finds_a_reader()


class _Search:
    def __init__(self, futures: Sequence[object], frame: FrameType, internal: Sequence[object]) -> None:
        self._mine = list(_outwards(frame))
        self._ignored = {id(one) for one in (futures, internal, *internal)}
        self._holders = {id(future): future for future in futures}  # what leads to a future, and the futures
        self._globals_read = False  # whether a module's variables lead there

    def finds_a_reader(self) -> bool:
        return (
            self._known_elsewhere()
            or any(map(self._reads, self._mine))
            or self._another_thread_has_one()
            or self._one_is_returned()
        )

    def _known_elsewhere(self) -> bool:
        """Collect the containers that lead to a future. True if anything but containers does."""
        self._ignored |= {id(self._holders), id(self.__dict__)}
        frontier: tuple[Any, ...] = tuple(self._holders.values())  # a tuple: no other is made for the call
        for _ in range(_DEPTH):
            self._ignored.add(id(frontier))
            referrers = gc.get_referrers(*frontier)
            self._ignored.add(id(referrers))
            reached: list[Any] = []
            for referrer in referrers:
                if id(referrer) in self._ignored or id(referrer) in self._holders or self._is_harmless(referrer):
                    continue
                if not issubclass(type(referrer), _CONTAINERS):
                    return True
                reached.append(referrer)
            if not reached:
                return False
            self._holders.update((id(one), one) for one in reached)
            self._ignored.add(id(reached))
            frontier = tuple(reached)
        return True

    def _is_harmless(self, referrer: Any) -> bool:
        # By type(), not isinstance(): a proxy answers that by asking for what it stands for.
        kind = type(referrer)
        if kind is FrameType:
            return True  # one that has ended, of a traceback: those that run keep their variables elsewhere
        if kind in _SUSPENDABLE:
            return getattr(referrer, _SUSPENDABLE[kind][0]) in self._mine  # it runs, and is looked at with the others
        if kind is MethodType:  # a timer's, to a method that is not for users
            function = referrer.__func__
            return _is_ours(getattr(function, "__module__", "")) and function.__name__.startswith("_")
        if kind is dict and _is_main_program(referrer) and self._runs_module(referrer):
            self._globals_read = True
            return True  # its names are looked at one by one
        return _is_ours(kind.__module__)

    def _runs_module(self, names: dict[str, Any]) -> bool:
        return any(frame.f_locals is names for frame in self._mine if not _has_own_variables(frame))

    def _reads(self, frame: FrameType) -> bool:
        """Whether what `frame` still reads leads to a future."""
        if _is_ours(str(frame.f_globals.get("__name__"))) or not (names := self._named(frame)):
            return False
        from threadsafe_timeout._pool.liveness import names_mentioned, still_read

        if not names.isdisjoint(still_read(frame.f_code, frame.f_lasti)):
            return True
        return not _has_own_variables(frame) and not names.isdisjoint(names_mentioned(frame.f_code))

    def _named(self, frame: FrameType) -> set[str]:
        """The variables of `frame` that lead to a future."""
        if not _has_own_variables(frame) and not self._globals_read:
            return set()
        return {name for name, _ in self._held(frame)}

    def _held(self, frame: FrameType) -> list[tuple[str, int]]:
        variables = frame.f_locals
        found = [(name, id(value)) for name, value in variables.items() if id(value) in self._holders]
        if sys.version_info < (3, 13) and _has_own_variables(frame) and sys.getrefcount(variables) <= 3:
            # A copy that was made for this look. Without this, the frame would keep it and all that is in it.
            variables.clear()
        return found

    def _one_is_returned(self) -> bool:
        """Whether what one of my functions is about to return may be, or lead to, a future. It is on the function's
        stack, where nothing can look: so there is one more reference to it than all those that are seen."""
        from threadsafe_timeout._pool.liveness import on_stack_at, returns_what_it_has

        returning = [
            frame
            for frame in self._mine
            if _has_own_variables(frame)
            and not _is_ours(str(frame.f_globals.get("__name__")))
            and returns_what_it_has(frame.f_code, frame.f_lasti)
        ]
        if not returning:
            return False
        if any(self._named(frame) & on_stack_at(frame.f_code, frame.f_lasti) for frame in returning):
            return True
        in_variables = Counter(self._values_of_variables())
        for one in self._holders.values():
            # (In a generator, the variable would be an object's.)
            if sys.getrefcount(one) - _OWN > in_variables[id(one)] + _referred_to_by_objects(one):
                return True
        return False

    def _values_of_variables(self) -> Iterator[int]:
        """The ids of what leads to a future, once for each variable of a running function that has it. (Those of
        closures are cells, which are objects.)"""
        others = current_frames()
        others.pop(get_ident(), None)
        for top in (self._mine[0], *others.values()):
            for frame in _outwards(top):
                code = frame.f_code
                if _has_own_variables(frame):
                    shared = {*code.co_cellvars, *code.co_freevars}
                    yield from (one for name, one in self._held(frame) if name not in shared)

    def _another_thread_has_one(self) -> bool:
        others = current_frames()
        others.pop(get_ident(), None)
        return any(
            self._named(frame)
            for top in others.values()
            for frame in _outwards(top)
            if not _is_ours(str(frame.f_globals.get("__name__")))
        )


def _own_references() -> int:
    """How many references of those that `sys.getrefcount` counts are those of the variable it is called with."""
    one = object()
    return sys.getrefcount(one)


_OWN = _own_references()


def _referred_to_by_objects(one: object) -> int:
    seen = 0
    for referrer in gc.get_referrers(one):
        kind = type(referrer)
        if kind in _SUSPENDABLE and getattr(referrer, _SUSPENDABLE[kind][1]):
            continue  # it is among the functions that run
        seen += [id(referent) for referent in gc.get_referents(referrer)].count(id(one))
    return seen


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _has_own_variables(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)  # else they are a module's or a class's


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in (_PACKAGE, f"{_PACKAGE}_patches")


def _is_main_program(names: dict[str, Any]) -> bool:
    """Whether these are the variables of the program, to which nobody types another line."""
    main = sys.modules.get("__main__")
    interactive = hasattr(sys, "ps1") or sys.flags.interactive or "get_ipython" in names
    return main is not None and vars(main) is names and not interactive
