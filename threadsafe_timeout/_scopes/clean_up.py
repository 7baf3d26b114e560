"""Clean-up: code that handles a cancellation has one `grace` in which its calls work.

Guarantees, for code that runs in a `finally`, an `except` or an `__exit__` because of a scope's `Cancelled`:

- Its calls work for `grace` seconds from the first delivery of that scope's `Cancelled` in this thread (or, in a
  coroutine, in this task). Then they raise again, and what it waits in ends.
- Scopes that were entered before the delivery are kept out meanwhile, as by a shield; later ones bind. A scope further
  out, that is cancelled while an inner one's clean-up runs, is kept out for a grace at most. Then its own `Cancelled`
  is delivered, and the grace of that begins: a nest of deadlines whose clean-ups all hang is over two graces after the
  outermost deadline.
- The next attempt of a retry loop is refused. So is the handler of that refusal, if it stands where an earlier refusal
  was handled: a loop gets no request out of each round. A handler further out, which runs for the first time, may
  clean up.
- A finaliser (`__del__`, `weakref.finalize`) and a generator that is being closed count as clean-up, whatever is being
  handled: they run where their object dies, which may be anywhere. So does a coroutine that handles `CancelledError`.
- What a clean-up starts (a thread, a task of a pool, a coroutine in another loop) has what is left of its grace.
- LLM requests are refused throughout: they ask with `always=True`.

What decides is `sys.exception()`: what this thread is handling, with its context, its cause, and a group's members.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._introspection.frames import users_frame
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = [
    "NOBODY", "SHORTEST", "CleanUp", "Deliveries", "Evidence", "cleans_up_until", "configure", "deliver", "evidence",
    "found_at", "grace_seconds",
]  # fmt: skip

_LONGEST_CHAIN = 100  # exceptions looked through; each costs about a microsecond
_DEEPEST = 2_000  # frames
SHORTEST = 0.05  # seconds between two cancellations of an asyncio task, whatever the grace: its loop has others to run
_FINALISERS: frozenset[CodeType] = frozenset({weakref.finalize.__call__.__code__})
_NEVER = float("-inf")

_here = threading.local()
_grace: float | None = None  # seconds; None: the setting


def configure(*, grace: float | None) -> None:
    """Set the grace of scopes that have none of their own (None: the `grace` setting)."""
    global _grace
    _grace = grace


def grace_seconds() -> float:
    """The grace of scopes that have none of their own."""
    if _grace is not None:
        return _grace
    from threadsafe_timeout._settings import settings  # with what it needs, so not before the first cancellation

    return settings().grace


class CleanUp:
    """What one thread, or asyncio task, may do since the first `Cancelled` of one scope was delivered there."""

    __slots__ = ("_first", "around", "attempt", "frames", "ident", "places", "until", "where")

    def __init__(
        self, until: float, around: frozenset[CancelScope], frames: set[FrameType], first: Cancelled,
        where: Place | None,
    ) -> None:  # fmt: skip
        self.ident = threading.get_ident()
        self.where = where  # in the program's code: where the cancellation found this thread
        self.until = until
        self.around = around  # the scopes that were entered before the delivery
        # What ran then: what was called since is not the code that the cancellation found at work.
        self.frames = frames
        # The frames, and with them their variables, live as long as the exception's traceback keeps them, no longer.
        self._first = weakref.ref(first, self._swallowed)
        self.attempt = 1  # one more for each refusal that was no part of handling an earlier one
        # Where clean-up was done, and after which refusal: the frame that handles, and the instruction it is at.
        self.places: dict[tuple[FrameType, int], int] = {}

    def allows(self, attempt: int, path: Iterable[BaseException]) -> bool:
        """Whether who handles the refusal number `attempt`, by `path` from what is handled now, may clean up."""
        allowed = attempt == 1
        for exc in path:
            frame = exc.__traceback__.tb_frame if exc.__traceback__ is not None else None
            if frame is not None and frame in self.frames:
                allowed |= self.places.setdefault((frame, frame.f_lasti), attempt) == attempt
        return allowed

    def _swallowed(self, _: object) -> None:
        """The first `Cancelled` is gone: of what ran then, what still runs may have to clean up."""
        mine = threading.get_ident() == self.ident
        # Called by C code that no Python code has called, at the end of a thread, it has no frame below its own.
        self.frames &= set(_stack(sys._getframe().f_back, None)) if mine else set()

    def forget(self) -> None:
        """Let go of the frames, and of what they hold."""
        self.frames, self.places = set(), {}


class Deliveries(dict[object, CleanUp]):
    """Whom the `Cancelled` of a cancelled scope was delivered to, and since when. False until it was."""

    __slots__ = ("cancelled_at", "grace")

    def __init__(self, cancelled_at: float, grace: float) -> None:
        super().__init__()
        self.cancelled_at = cancelled_at
        self.grace = grace

    def here(self) -> CleanUp | None:
        """The first delivery in this thread, if there was one."""
        ident = threading.get_ident()
        return next((clean_up for clean_up in list(self.values()) if clean_up.ident == ident), None)

    def place(self) -> Place | None:
        """Where in the program's code that was."""
        first = self.here()
        return None if first is None else first.where


NOBODY = Deliveries(float("inf"), 0.0)  # of every scope that is not cancelled


def deliver(scope: CancelScope, around: Iterable[CancelScope], frame: FrameType | None) -> Cancelled:
    """The `Cancelled` to be raised in this thread, at `frame`; the grace of its clean-up begins with the first one."""
    exc = Cancelled._of(scope)
    deliveries, who = scope._delivered, _who()
    clean_up = deliveries.get(who)
    if clean_up is None:
        until = _clock.monotonic() + deliveries.grace
        clean_up = CleanUp(until, frozenset(around), set(_stack(frame, scope._frame)), exc,
                           getattr(_here, "place", None) or users_frame(frame))
        deliveries[who] = clean_up
    elif not any(_clean_up_of(exc) is clean_up for exc, _ in _chain(sys.exception())):
        clean_up.attempt += 1
    exc._clean_up, exc._attempt, exc._where = clean_up, clean_up.attempt, clean_up.where
    return exc


@contextmanager
def found_at(place: Place | None) -> Iterator[None]:
    """In this block a cancellation that is delivered has found this thread there: in a coroutine, say, whose event loop
    has ended since."""
    _here.place = place
    try:
        yield
    finally:
        _here.place = None


def cleans_up_until(scope: CancelScope | None, ident: int) -> float:
    """Until when the thread `ident` may be cleaning up after `scope` or one around it; for other threads to ask."""
    latest = _NEVER
    while scope is not None:
        for clean_up in list(scope._delivered.values()):
            if clean_up.ident == ident:
                latest = max(latest, clean_up.until)
        scope = scope._parent
    return latest


class Evidence:
    """That the calling thread cleans up, and after what."""

    __slots__ = ("_around", "_asynchronous", "_handled", "_since", "_who")

    def __init__(
        self,
        around: list[CancelScope],
        handled: list[tuple[CancelScope, CleanUp]],
        since: frozenset[FrameType] | None,
        asynchronous: bool,
    ) -> None:
        self._who = _who()
        self._around = around
        self._handled = handled
        self._since = since  # what runs since a finaliser, or the end of a generator, began
        self._asynchronous = asynchronous

    def keeps_out_until(self, scope: CancelScope) -> float:
        """Until when `scope`, one around, is kept out; in the past if it is not. Also for other threads to ask."""
        own = scope._delivered.get(self._who)
        longest = scope._delivered.cancelled_at + scope._delivered.grace if own is None else own.until
        until = _NEVER
        for handled, clean_up in self._handled:
            if scope in clean_up.around:
                # The scopes inside the one that is being left end with it. Those outside have bounds of their own.
                inside = scope in self._around[: self._around.index(handled) + 1]
                until = max(until, clean_up.until if inside else min(clean_up.until, longest))
        if self._since is not None and scope._frame not in self._since and not scope._once:
            until = max(until, longest)
        if self._asynchronous and not scope._once:
            task = scope._task_cancellation
            if task is None:
                until = max(until, longest)
            elif task.asked_at is not None:
                until = max(until, task.asked_at + scope._delivered.grace)
        return until

    def precedes(self, scope: CancelScope) -> bool:
        """Whether `scope`, one around, was there when the clean-up began."""
        if any(scope in clean_up.around for _, clean_up in self._handled):
            return True
        return self._since is not None and scope._frame not in self._since


def evidence(around: list[CancelScope]) -> Evidence | None:
    """Whether this thread cleans up after one of the scopes `around`, one of which is cancelled. Takes no lock."""
    now, ident, frame = _clock.monotonic(), threading.get_ident(), sys._getframe(1)
    handled: dict[int, tuple[CancelScope, CleanUp]] = {}
    since: frozenset[FrameType] | None = None
    asynchronous = False
    cancelled_error = _cancelled_error()
    for exc, path in _chain(sys.exception()):
        clean_up = _clean_up_of(exc)
        if clean_up is not None:
            scope = exc.scope  # type: ignore[attr-defined]  # it has one
            current = clean_up.ident == ident and clean_up.until > now and scope in around
            if current and clean_up.allows(exc._attempt, path):  # type: ignore[attr-defined]  # it has one
                handled[id(clean_up)] = scope, clean_up
        elif isinstance(exc, GeneratorExit):
            since = since or _frames_since(frame, exc)
        elif cancelled_error is not None and isinstance(exc, cancelled_error):
            asynchronous = True
    if not handled and since is None:
        since = _finaliser(frame)
    if not handled and since is None and not asynchronous:
        return None
    return Evidence(around, list(handled.values()), since, asynchronous)


def _chain(handled: BaseException | None) -> Iterator[tuple[BaseException, tuple[BaseException, ...]]]:
    """What is being handled, and all that it came from, each with the path to it."""
    if handled is None:
        return
    todo: list[tuple[BaseException, tuple[BaseException, ...]]] = [(handled, (handled,))]
    seen = {id(handled)}
    for exc, path in todo:
        yield exc, path
        members: tuple[BaseException | None, ...] = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
        for link in (exc.__context__, exc.__cause__, *members):
            if link is not None and id(link) not in seen and len(seen) < _LONGEST_CHAIN:
                seen.add(id(link))
                todo.append((link, (*path, link)))


def _clean_up_of(exc: BaseException) -> CleanUp | None:
    return exc._clean_up if isinstance(exc, (Cancelled, DeadlineExceeded)) else None


def _who() -> object:
    """The asyncio task that runs, or else what stands for this thread. (Its ident is given to other threads later.)"""
    asyncio = sys.modules.get("asyncio")
    get_loop = getattr(asyncio, "_get_running_loop", None)  # while it is being imported it has none
    loop = get_loop() if get_loop is not None else None
    task = asyncio.current_task(loop) if asyncio is not None and loop is not None else None
    if task is not None:
        return task
    try:
        return _here.who
    except AttributeError:
        _here.who = who = object()
        return who


def _cancelled_error() -> type[BaseException] | None:
    exceptions = sys.modules.get("asyncio.exceptions")
    found: Any = getattr(exceptions, "CancelledError", None)
    return found  # type: ignore[no-any-return]  # a class, or None


def _stack(frame: FrameType | None, last: FrameType | None) -> Iterator[FrameType]:
    """The frames from `frame` outwards, up to `last`."""
    for _ in range(_DEEPEST):
        if frame is None:
            return
        yield frame
        if frame is last:
            return
        frame = frame.f_back


def _frames_since(frame: FrameType | None, exc: GeneratorExit) -> frozenset[FrameType] | None:
    """The frames from `frame` out to the generator that `exc` closes; None if that does not run."""
    closing = exc.__traceback__.tb_frame if exc.__traceback__ is not None else None
    frames = frozenset(_stack(frame, closing))
    return frames if closing in frames else None


def _finaliser(frame: FrameType | None) -> frozenset[FrameType] | None:
    """The frames from `frame` out to the innermost finaliser; None if there is none."""
    frames = []
    for one in _stack(frame, None):
        frames.append(one)
        if one.f_code.co_name == "__del__" or one.f_code in _FINALISERS:
            return frozenset(frames)
    return None
