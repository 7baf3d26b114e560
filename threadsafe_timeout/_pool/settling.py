"""Settling: giving an outcome to tasks that another thread has claimed and has no time for.

They stand in `crew.owed`. A worker that is started for it settles them before it does anything else, one by one; while
one of them holds it up, another worker is started for the rest, within bounds. Where no thread is to be had, the thread
that would have started it settles them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._pool.worker import Worker

__all__ = ["drawn", "is_settled_soon", "settle_all", "settle_owed"]


def settle_owed(worker: Worker) -> None:
    """What a worker that was started for it does first."""
    crew, hand = worker.crew, worker.hand
    while True:
        with crew.lock:
            if not crew.owed:
                crew.settling.discard(worker)
                crew._gone.notify_all()
                return
            hand.extend(islice(drawn(crew.owed), 1))
            # The callbacks of this one's future may wait for one that is still owed.
            if crew.owed and not is_settled_soon(crew):
                with suppress(RuntimeError):  # no thread to be had: then they are settled one after the other
                    crew._start_worker(settle_owed, retire=True)
        hand[0].settle_owed()
        hand.clear()


def settle_all(crew: Crew) -> None:
    """The same, without a worker."""
    while True:
        with crew.lock:
            if not crew.owed:
                return
            task = crew.owed.popleft()
        task.settle_owed()


def is_settled_soon(crew: Crew) -> bool:
    """Whether a thread is about to look for outcomes to settle. One that is settling may wait for something, maybe
    for one of them; but there is a limit to how many there are. The caller holds `lock`."""
    return len(crew.settling) > crew.width or any(not one.hand for one in crew.settling)


def drawn(source: deque[TaskFuture]) -> Iterator[TaskFuture]:
    """Its tasks, taken from it one by one. With `extend` and `islice` around it, all of it runs in C."""
    return iter(source.popleft, None)  # which never comes
