"""Looking at the frames of other threads, without what that may do to them and to who looks.

- On 3.11 an allocation may start the garbage collector, whose callbacks are Python code that may give the GIL away.
  While `sys._current_frames()` does so it holds the lock on the list of threads, which a thread that begins or ends
  waits for (https://github.com/python/cpython/issues/106883; fixed in 3.11.9 the way it is done here). While `f_back`
  makes a frame object, the thread whose frame it is may return from it. From 3.12 on the collector runs between
  instructions only. Other people's profilers look, too: see `have_others_look_safely`.
- To look is to hold a reference. If the function returns meanwhile, its local variables live as long as the frame, and
  the thread that drops it last runs their finalisers: the program's code, which may block, in a thread of ours that
  must not.
  So what nobody else holds any more, when the look is over, is handed to a thread that is there for nothing else.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import compress, count, repeat
from operator import call, gt
from types import FrameType, TracebackType

from threadsafe_timeout._environment.surroundings import has_gil
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing.daemon_thread import DaemonThread
from threadsafe_timeout._typing import Any

__all__ = [
    "current_frames", "frames_awaited", "frames_of_others", "have_others_look_safely", "is_installed", "is_users",
    "let_go", "modules_being_run", "place_of_frame", "top_frames", "users_frame", "users_of", "users_place",
    "users_place_in",
]  # fmt: skip

_DEEPEST = 1000  # coroutines that await each other
_LOOK_FREEZES = sys.version_info < (3, 11, 9)
_lock = threading.RLock()  # one at a time: a second would find the collector disabled, and enabled under its hands
_switched_off = False  # whether a look has switched the collector off; guarded by _lock
_orphans: list[FrameType] = []  # to be let go of by another thread; single operations only, which are atomic
top_frames = sys._current_frames  # in C, whatever is in its place now. To be called in a block of `frames_of_others`


@contextmanager
def frames_of_others(*idents: int, whole: bool = False) -> Iterator[dict[int, FrameType]]:
    """In this block the top frames of all threads may be looked at, by ident, and `f_back` of those of `idents`, or of
    all if `whole`. Without the GIL there are none.

    The block itself must bind no frame to a name. What looks is a function: it has returned before the block is left,
    and it returns no frame.
    """
    global _switched_off
    if sys.version_info >= (3, 12):
        yield from _looking(idents, whole)
    else:
        with _lock:
            enabled = gc.isenabled()
            _switched_off = _switched_off or enabled
            gc.disable()
            try:
                yield from _looking(idents, whole)
            finally:
                if enabled:
                    gc.enable()
                    _switched_off = False
    if _orphans:
        _finish()


def _looking(idents: Iterable[int], whole: bool) -> Iterator[dict[int, FrameType]]:
    if not has_gil():
        yield {}  # what runs on meanwhile cannot be looked at: https://github.com/python/cpython/issues/118680
        return
    frames, held = top_frames(), list[FrameType]()
    try:
        for ident in frames if whole else idents:
            _collect(frames.get(ident), held)
        held += frames.values()
        yield frames
    finally:
        frames.clear()
        let_go(held)


def have_others_look_safely(until: ExitStack) -> None:
    """Until that is left, the collector does not run in anybody's `sys._current_frames()`, a profiler's for example,
    where that could freeze the process. For a time in which it runs often, or threads give the GIL away often."""
    if not _LOOK_FREEZES:
        return
    before = sys._current_frames

    def _current_frames() -> dict[int, FrameType]:
        enabled: list[bool] = []
        note: Any = partial(enabled.extend, map(call, (gc.isenabled,)))
        enable: Any = partial(any, map(call, compress((gc.enable,), enabled)))  # once, if it was enabled
        try:
            # In one call of C, in which no other thread runs, and without `_lock`: this may be in a signal's handler.
            return [*map(call, (note, gc.disable, before, enable))][2]  # type: ignore[no-any-return]
        finally:
            enable()

    def give_back() -> None:
        if sys._current_frames is _current_frames:
            sys._current_frames = before

    until.callback(give_back)
    sys._current_frames = _current_frames


def _collect(frame: FrameType | None, held: list[FrameType]) -> None:
    """All of a stack: who walks it holds one frame after the other."""
    while frame is not None:
        held.append(frame)
        frame = frame.f_back


def _alone(held: list[FrameType], fewer: int) -> Iterator[FrameType]:
    """Those of `held` that are referred to fewer times than that."""
    return compress(held, map(gt, repeat(fewer), map(sys.getrefcount, held)))


def _what_alone_counts() -> int:
    """The least number with which `_alone` yields what nothing but `held` refers to: versions may differ."""
    probe: list[Any] = [object()]
    return next(number for number in count() if any(_alone(probe, number)))


_ALONE = _what_alone_counts()


def let_go(held: list[FrameType]) -> None:
    """Empty `held`. What nobody else holds is for another thread to let go of. To be called in the block of
    `frames_of_others`, for other frames than those that it gives."""
    held[:] = {id(frame): frame for frame in held}.values()  # each once
    # Both steps in one call of C, in which no other thread runs: what is returned from between them would be ours.
    steps: tuple[Callable[[], None], ...] = (partial(_orphans.extend, _alone(held, _ALONE)), held.clear)
    any(map(call, steps))


def _finish() -> None:
    try:
        DaemonThread(_orphans.clear, "threadsafe-timeout-finaliser").start()
    except RuntimeError:
        pass  # no thread can be had: with the next look


def current_frames() -> dict[int, FrameType]:
    """The top frame of each thread, by its ident: for a caller that may run their finalisers."""
    with frames_of_others() as frames:
        return dict(frames)


def modules_being_run() -> set[int]:
    """The namespaces, by `id`, of the modules whose code this thread or another is running now. Without the GIL it is
    known of this thread only."""
    found = _namespaces_of_modules(sys._getframe())  # the top frame of this thread there is a generator's, alone
    with frames_of_others(whole=True) as frames:
        return found.union(*map(_namespaces_of_modules, frames.values()))


def _namespaces_of_modules(frame: FrameType) -> set[int]:
    stack = list[FrameType]()
    _collect(frame, stack)
    return {id(one.f_globals) for one in stack if one.f_code.co_name == "<module>"}


def _in_child() -> None:
    """This process was forked, perhaps while another thread was looking. That thread is not here, and ends nothing.
    (A fork cannot wait for a look: a look may wait for the timer's lock, which a fork holds.)"""
    global _lock, _switched_off
    _lock = threading.RLock()
    if _switched_off:
        _switched_off = False
        gc.enable()


if sys.version_info < (3, 12) and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def frames_awaited(coroutine: object) -> list[FrameType]:
    """The frames of a suspended coroutine and of what it awaits, the innermost last. In another thread than its own, in
    `frames_of_others()`."""
    frames: list[FrameType] = []
    while coroutine is not None and len(frames) < _DEEPEST:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        frame = frame or getattr(coroutine, "ag_frame", None)
        if frame is None:
            break
        frames.append(frame)
        coroutine = (
            getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
            or getattr(coroutine, "ag_await", None)
        )  # fmt: skip
    return frames


def place_of_frame(frame: FrameType) -> Place:
    code = frame.f_code
    return code.co_filename, frame.f_lineno or code.co_firstlineno, code.co_qualname


_OURS = frozenset({"threadsafe_timeout", "threadsafe_timeout_patches"})
# Packages that wait on behalf of the code that is of interest, besides the standard library.
_PLUMBING = _OURS | {
    "anthropic", "anyio", "h11", "httpcore", "httpcore2", "httpx", "httpx2", "openai", "requests", "urllib3", "wrapt",
}  # fmt: skip
_BEGINS = frozenset({"_bootstrap", "_bootstrap_inner", "run"})  # in `threading`: what begins any thread
_STANDARD = os.path.dirname(os.__file__) + os.sep  # a string, as co_filename is
_INSTALLED = ("site-packages", "dist-packages")


def _is_standard(filename: str) -> bool:
    return filename.startswith((_STANDARD, "<frozen")) and not _is_in_packages(filename)


def _is_ours(filename: str) -> bool:
    return not _OURS.isdisjoint(filename.split(os.sep))


def _is_in_packages(filename: str) -> bool:
    return any(directory in filename for directory in _INSTALLED)


def is_installed(filename: str) -> bool:
    """Whether a file is the standard library's or an installed package's: not the program's own."""
    return _is_standard(filename) or _is_in_packages(filename)


def is_users(frame: FrameType) -> bool:
    """Whether a frame is of the program's own code: not the standard library's, nor an installed package's."""
    return not is_installed(frame.f_code.co_filename)


def users_frame(frame: FrameType | None) -> Place | None:
    """File, line and function of the innermost frame that is neither the standard library's, nor this library's, nor an
    HTTP client's: where the user's code is. Without one, the innermost that is not this library's, if there is one. For
    frames of the calling thread, or in `frames_of_others()`."""
    return _users(_outwards(frame))


def users_place(traceback: TracebackType | None) -> Place | None:
    """The same for where an exception came from."""
    entries = list[tuple[FrameType, int]]()
    while traceback is not None:
        entries.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    return _users(reversed(entries))


def users_place_in(frames: Iterable[FrameType]) -> Place | None:
    """The same for frames, the innermost first, that do not call each other: those of a suspended coroutine."""
    return _users((frame, frame.f_lineno) for frame in frames)


def users_of(frames: Iterable[Place]) -> Place | None:
    """The same for the frames of another process, the innermost first, as faulthandler writes them."""
    return next((one for one in frames if not _is_standard(one[0]) and not _is_ours(one[0])), None)


def _outwards(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _users(frames: Iterable[tuple[FrameType, int]]) -> Place | None:
    """Of frames, the innermost first."""
    innermost = None
    for frame, line in frames:
        code = frame.f_code
        module = frame.f_globals.get("__name__")
        module = module if isinstance(module, str) else ""
        root = module.partition(".")[0]
        testing = module.startswith("threadsafe_timeout.testing")
        if (root in _OURS and not testing) or (module == "threading" and code.co_name in _BEGINS):
            continue
        place = code.co_filename, line, code.co_qualname
        if testing or not (root in _PLUMBING or _is_standard(code.co_filename)):
            return place
        innermost = innermost or place
    return innermost
