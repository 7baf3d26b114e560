"""How earlier starts of this program ended, under `run --supervise`, and which of its tasks are to be suspected of it.

The supervisor writes what it has seen of the threads of a start that stalled or crashed; the next start reads that. The
journal says which task ran in which of the threads (`checkpoint/_poison`). Guarantees:

- A task is suspected if the thread that is to blame is known, and ran it.
- If which thread it was is not known, each task is suspected that was in flight and cannot be ruled out.
- If another thread is known to be to blame, none is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

__all__ = ["End", "Thread", "earlier", "patience", "remember", "supervised", "suspects", "tell", "twice"]

K = TypeVar("K", bound=Hashable)


class Thread(NamedTuple):
    """The two numbers of a thread: what the system knows it by, and what Python (so faulthandler) does."""

    native: int
    ident: int


class End(NamedTuple):
    """One start of the program that did not end by itself."""

    pid: int
    since: float  # seconds since the epoch, when it was started
    until: float  # when it was found to have stalled, or to be gone
    how: str  # in words: "it stalled"
    crashed: int | None = None  # the ident of the thread that the system ended it in
    held: bool = False  # whether something held the interpreter, which other threads asked for
    busy: Sequence[int] = ()  # the native ids of the threads that computed then
    waiting: Sequence[int] = ()  # of those that asked for the interpreter
    resting: Sequence[int] = ()  # the idents of those that stood in a wait that gives the interpreter away


# What the supervisor has said at this start. Set once, before the program begins.
supervised = False
earlier: tuple[End, ...] = ()
patience = 0.0  # how many seconds without movement count as a stall
tell: Callable[[dict[str, object]], object] = dict  # has the supervisor know of something, for its summary


def remember(ends: Sequence[End], seconds: float, hears: Callable[[dict[str, object]], object]) -> None:
    """This process is supervised; these starts were before it."""
    global supervised, earlier, patience, tell
    supervised, earlier, patience, tell = True, tuple(ends), seconds, hears


def suspects(end: End, in_flight: Mapping[K, Thread | None]) -> frozenset[K]:
    """Which of the tasks that were in flight may be what ended it. The thread of a task may not be known."""
    crashed = frozenset(key for key, thread in in_flight.items() if thread is not None and thread.ident == end.crashed)
    if crashed:
        return crashed
    if end.held and end.busy:
        return frozenset(key for key, thread in in_flight.items() if thread is None or thread.native in end.busy)
    return frozenset(
        key for key, thread in in_flight.items()
        if thread is None or (thread.native not in end.waiting and thread.ident not in end.resting)
    ) or (frozenset() if end.held else frozenset(in_flight))  # fmt: skip


def twice(found: Sequence[frozenset[K]]) -> frozenset[K]:
    """Of the suspects of each end, those that are found guilty: the only one twice, or the only one in common of two
    ends in a row."""
    alone = [next(iter(one)) for one in found if len(one) == 1]
    guilty = {key for key in alone if alone.count(key) > 1}
    for before, after in itertools.pairwise(found):
        if len(both := before & after) == 1:
            guilty |= both
    return frozenset(guilty)
