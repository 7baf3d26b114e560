"""What happens to a pool's tasks and threads, told to the log and to whoever asked: one `Event` per rung of the ladder.

Guarantees:

- Each event gives one log line and one call of every callback, in the order in which things happened.
- They are given out by a thread that is there only while there is something to tell, and never under the pool's locks:
  neither a callback nor a log handler that is stuck (behind a full pipe, say) holds up a deadline or a task.
- A callback that raises is logged and does no harm.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing.daemon_thread import DaemonThread, in_pieces

if TYPE_CHECKING:
    from threadsafe_timeout._pool.options import Outcome

__all__ = ["Event", "EventKind", "Events", "Listener"]

logger = logging.getLogger("threadsafe_timeout")

EventKind = Literal[
    "overdue", "timed_out", "interrupting", "abandoned", "processes", "late", "respawned", "exhausted", "interrupted",
    "limit", "loop", "blocked", "overran", "stalled",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a task, or to the thread that ran it.

    `kind` is one of

    - `overdue`: the task was cancelled and has not ended
    - `timed_out`: a deadline has ended the task; or it passed before the task could start
    - `interrupting`: it has not ended after another `grace`
    - `abandoned`: its thread was given up and replaced
    - `processes`: processes that the task had started, with these `pids`, were killed
    - `late`: an abandoned thread returned after all; no future gets its `outcome`
    - `respawned`: a worker died of `error` and was replaced
    - `exhausted`: more threads are abandoned than `max_abandoned`
    - `interrupted`: Ctrl-C came while the task was running
    - `limit`: the pool was left after the only wait for the task had expired; the task is cancelled
    - `loop`: a guard ended the loop of the task's conversation; `reason` says which
    - `overran`: the task ended by itself after its deadline; its outcome counts, and `reason` says how late it is
    - `stalled`: the interpreter stood still: a call of C held the GIL, that of this task if it is known (else None)
    - `blocked`: only of an `AsyncPool`: the task (None: something else) keeps the event loop from running

    `task` is the task's name, `key` the key of its saved result, `worker` the name of its thread, `elapsed` the seconds
    since it started. `where` is the file, line and function of your code that the thread was in; `stack` the whole
    stack, without the values of variables.
    """

    kind: EventKind
    pool: str
    task: str | None = None
    key: str | int | None = None
    worker: str | None = None
    elapsed: float | None = None
    reason: str | None = None
    where: tuple[str, int, str] | None = None
    stack: str = field(default="", repr=False)
    outcome: Outcome | None = None
    error: BaseException | None = None
    pids: tuple[int, ...] = ()


class Listener:
    """The handle of a callback given to `on_event`; `unregister()` ends it. Also a context manager."""

    __slots__ = ("_callback", "_events")

    def __init__(self, events: Events, callback: Callable[[Event], object]) -> None:
        self._events = events
        self._callback = callback

    def __call__(self, event: Event) -> None:
        try:
            self._callback(event)
        except Exception:
            logger.exception("threadsafe-timeout: an on_event callback failed; the other callbacks still run")

    def unregister(self) -> None:
        """Call it no more; a call that has begun may still be running."""
        with self._events.lock:
            self._events.listeners = tuple(one for one in self._events.listeners if one is not self)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.unregister()


class Events:
    """The events of one pool, on their way out."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        # Re-entrant: a finaliser may run while its thread holds it, and shut a pool down.
        self.lock = threading.RLock()
        self.listeners: tuple[Listener, ...] = ()  # replaced under lock
        self._told = threading.Condition(self.lock)
        # Appended to without the lock, by threads that hold others; taken from with it.
        self._pending: deque[tuple[int, str, Event]] = deque()
        self._teller: threading.Thread | None = None  # guarded by lock

    def listen(self, callback: Callable[[Event], object]) -> Listener:
        listener = Listener(self, callback)
        with self.lock:
            self.listeners = (*self.listeners, listener)
        return listener

    def wanted(self, level: int) -> bool:
        """Whether anybody would hear of an event with this log level."""
        observed = _observer.event is not None or _observer.told is not None
        return observed or bool(self.listeners) or logger.isEnabledFor(level)

    def put(self, level: int, text: str, event: Event) -> None:
        """Have `event` logged as `text` and given to the callbacks by the next who calls `tell()` or `tell_here()`."""
        self._pending.append((level, text, event))
        if (hear := _observer.event) is not None:
            hear(event)

    def tell(self) -> None:
        """Have what was put told soon, by another thread."""
        with self.lock:
            if not self._begin():
                return
            self._teller = DaemonThread(self._tell_all, f"{self.pool}-events")
            try:
                self._teller.start()
                return
            except RuntimeError:  # none to be had, or the interpreter is going down
                self._teller = threading.current_thread()
        self._tell_all()

    def tell_here(self) -> None:
        """Tell it in this thread, which has nothing else to do."""
        with self.lock:
            if not self._begin():
                return
            self._teller = threading.current_thread()
        self._tell_all()

    def _begin(self) -> bool:
        """Whether there is something to tell, and nobody does. The caller holds `lock`."""
        # A thread that is not alive any more was ended by an exception that was thrown at it.
        return bool(self._pending) and (self._teller is None or not self._teller.is_alive())

    def _tell_all(self) -> None:
        while True:
            with self.lock:
                if not self._pending:
                    self._teller = None
                    self._told.notify_all()
                    return
                level, text, event = self._pending.popleft()
            try:
                logger.log(
                    level, "threadsafe-timeout: %s", text, exc_info=event.error,
                    extra={
                        "event": event.kind, "pool": event.pool, "task": event.task, "key": event.key,
                        "elapsed": event.elapsed, "where": event.where,
                    },
                )  # fmt: skip
                for listener in self.listeners:
                    listener(event)
                if _observer.told is not None:
                    _observer.told(event)
            except BaseException:  # a callback's SystemExit, something thrown at this thread: the others are still told
                logger.exception("threadsafe-timeout: telling of an event was cut short")
            del event

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put has been told, at most `timeout` seconds."""
        self.tell()
        with self.lock:
            return in_pieces(lambda piece: self._told.wait_for(self._is_quiet, piece), timeout)

    def _is_quiet(self) -> bool:
        return self._teller is None


def full_name(task: str, key: Any) -> str:
    """What a task is called, as it is."""
    return task if key is None or str(key) == task else f"{task} (key {key})"


def describe(task: str, key: Any) -> str:
    """The same for people, as in a log line."""
    return shown(full_name(task, key))
