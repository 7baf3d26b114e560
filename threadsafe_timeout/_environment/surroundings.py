"""What else is in this process, as far as it decides whether anything can be patched in it.

gevent and eventlet, once they have monkey-patched it, run all threads as greenlets in one: what waits there for one of
our locks holds up all of them, and the thread that would release it. No call of theirs ends with a scope, either. So
there is one of the two in a process: nothing is patched after them, and what is patched is taken back before them.
Imported and not monkey-patched, they do no harm.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType

from threadsafe_timeout._typing import Any, Protocol

__all__ = [
    "MONKEYS", "because_of", "copied_by_eventlet", "has_gil", "in_main_interpreter", "threads_replaced_by",
    "watch_monkey", "why_not",
]  # fmt: skip

MONKEYS = ("gevent.monkey", "eventlet.patcher")  # the modules that monkey-patch
# What they call what is patched here as well.
_OF_GEVENT = ("_thread", "threading", "time", "socket", "ssl", "select", "selectors", "subprocess", "queue", "signal")
_EVENTS_OF_GEVENT = frozenset({"thread", *_OF_GEVENT})
_OF_EVENTLET = ("thread", "time", "socket", "select", "subprocess")
_Replaced = Callable[[str], None]


class Patches(Protocol):
    """What is used of `Patching` here."""

    def replace(self, module: ModuleType, name: str, new: Any) -> None: ...
    def on_uninstall(self, undo: Callable[[], object]) -> None: ...


def has_gil() -> bool:
    """Whether one thread at a time runs Python code. Without that, the frames of others cannot be looked at, and no
    call of C holds them up."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def why_not() -> str | None:
    """Why nothing can be patched here; None: it can."""
    if not in_main_interpreter():
        return "this is a sub-interpreter, and only the main one can be patched"
    other = _has_replaced(_OF_GEVENT, _OF_EVENTLET)
    return None if other is None else because_of(other)


def because_of(other: str) -> str:
    """Why nothing can be patched beside one that monkey-patches."""
    return (
        f"{other} replaces the threads and sockets of this process by its own (monkey patching). Use one of the two: "
        f"this library, with threads, or {other}"
    )


def threads_replaced_by() -> str | None:
    """The library that has replaced threads by greenlets, if one has."""
    return _has_replaced(("_thread", "threading"), ("thread",))


def _has_replaced(of_gevent: tuple[str, ...], of_eventlet: tuple[str, ...]) -> str | None:
    for module, question, names in (
        ("gevent.monkey", "is_module_patched", of_gevent),
        ("eventlet.patcher", "is_monkey_patched", of_eventlet),
    ):
        ask = getattr(sys.modules.get(module), question, None)  # None too while that is being imported
        if ask is not None and any(map(ask, names)):
            return module.partition(".")[0]
    return None


def watch_monkey(module: ModuleType, patching: Patches, about_to: _Replaced) -> None:
    """Have `about_to(name)` called before one of `MONKEYS` replaces what is patched here."""
    if module.__name__ == "gevent.monkey":
        _watch_gevent(patching, about_to)
    else:
        _watch_eventlet(module, patching, about_to)


def _watch_gevent(patching: Patches, about_to: _Replaced) -> None:
    from gevent import events  # type: ignore[import-untyped,import-not-found,unused-ignore]  # it is being imported

    done = telling = False

    def told(event: Any) -> None:
        nonlocal telling
        if not done and isinstance(event, events.GeventWillPatchModuleEvent) and event.module_name in _EVENTS_OF_GEVENT:
            telling = True
            about_to("gevent")
            telling = False

    def forget() -> None:
        nonlocal done
        done = True
        if not telling and told in events.subscribers:  # else the next subscriber would not be told
            events.subscribers.remove(told)

    events.subscribers.append(told)
    patching.on_uninstall(forget)


def _watch_eventlet(module: Any, patching: Patches, about_to: _Replaced) -> None:
    original = module.monkey_patch

    @functools.wraps(original)
    def monkey_patch(**on: Any) -> Any:
        if on.get("all") or True not in on.values() or any(on.get(name) for name in _OF_EVENTLET):
            about_to("eventlet")
        return original(**on)

    patching.replace(module, "monkey_patch", monkey_patch)


def copied_by_eventlet() -> bool:
    """Whether eventlet imports a module once more, to have a copy of its own. It is put back afterwards."""
    if "eventlet.patcher" not in sys.modules:
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "eventlet.patcher":
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None ends it
    return False


def in_main_interpreter() -> bool:
    """False in a sub-interpreter. Some have no threads, others no daemons, and one that is destroyed while a thread of
    ours is alive takes the process with it."""
    try:
        from _thread import _is_main_interpreter  # type: ignore[attr-defined,unused-ignore]  # from 3.13 on
    except ImportError:
        pass
    else:
        return bool(_is_main_interpreter())
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found,unused-ignore]  # up to 3.12
    except ImportError:  # an interpreter that has no others
        return True
    return bool(interpreters.get_current() == interpreters.get_main())
