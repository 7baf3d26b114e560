"""What of a run is recorded, shown and summed up: begun and ended as the settings say.

A program that has no pool has nothing of it, and loads nothing for it: `install()` calls `load` and `begin` once more
when one of `POOLS` has been imported. `load` imports, so it is called without the lock of `install()`, `begin` with it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module

from threadsafe_timeout._record import late as _late
from threadsafe_timeout._scopes import expiry as _expiry
from threadsafe_timeout._settings import Settings
from threadsafe_timeout._timing.daemon_thread import DaemonThread, join
from threadsafe_timeout._typing import Any

__all__ = ["POOLS", "begin", "end", "load", "wait_until_begun"]

logger = logging.getLogger("threadsafe_timeout")
POOLS = ("threadsafe_timeout._pool.crew", "threadsafe_timeout.engines._async_crew")
_EXIT_WAIT = 5.0  # seconds
_WANTED: dict[str, Callable[[Settings], bool]] = {
    "recording": lambda new: new.status_dir is not None,
    "progress": lambda new: new.progress != "off",
    "summary_lines": lambda new: new.summary != "off",
    "stalls": lambda new: new.stall_after is not None,
}
# Both guarded by install()'s lock:
_in_force: Settings | None = None
_loading: DaemonThread | None = None
_home = ""  # the working directory when they were put in force: a pool may be imported in another one


def load(new: Settings) -> None:
    """Import what these settings need, if the program has pools."""
    if not any(name in sys.modules for name in POOLS):
        return
    wanted = [_name(name) for name, is_wanted in _WANTED.items() if is_wanted(new)]
    try:
        # First what all of these import: a thread that is importing it loads these under its lock. Not the other one of
        # `POOLS`: a thread that is importing that waits for the first.
        for name in (POOLS[0], *wanted) if wanted else ():
            import_module(name)
    except Exception:  # this may be the program's import of a pool
        logger.exception("threadsafe-timeout: the run is not recorded, shown or summed up")


def begin(new: Settings, pool_is_patched: Callable[[], bool]) -> None:
    """Have this run recorded, shown and summed up from now on, by what is loaded."""
    global _in_force, _home
    if new is not _in_force:
        _in_force, _home = new, _working_directory()
    how: dict[str, tuple[Any, ...]] = {
        "recording": (new.status_dir, new.keep_runs, _home), "progress": (new.progress,),
        "summary_lines": (new.summary, pool_is_patched), "stalls": (new.stall_after, new.stall_stacks == "on"),
    }  # fmt: skip
    for name, is_wanted in _WANTED.items():
        module = _loaded(name)
        if is_wanted(new) and module is not None:
            module.begin(*how[name])
    if new.status_dir is None:
        _end("recording", named=False)
    elif _loaded("recording") is None:
        _expiry.listen(_load_all)
    if new.progress == "off":
        _end("progress")
    if new.summary == "off":
        _end("summary_lines", say=False)
    if new.stall_after is None:
        _end("stalls")
        _late.end()
    else:
        _late.begin(new.stall_after)  # in programs without a pool, too


def _load_all() -> None:
    """The deadline of a block has passed, in a program without pools: have it recorded as if it had one."""
    global _loading
    _expiry.listen(_nothing)  # what passes meanwhile is kept
    _loading = DaemonThread(functools.partial(import_module, POOLS[0]), "threadsafe-timeout-record")
    with contextlib.suppress(RuntimeError):  # none to be had: it is done at the exit
        _loading.start()  # `install()` hears of that import, and begins the rest


def _nothing() -> None:
    pass


def wait_until_begun() -> None:
    """At the exit: what the deadline of a block has had begun is not to be ended before all of it has begun. The last
    line would not know of the record, nor of the deadlines that had passed."""
    if _loading is None:
        return
    try:
        join(_loading, _EXIT_WAIT)
    except RuntimeError:  # it could not be started any more
        import_module(POOLS[0])


def _at_exit() -> None:
    """The program may be over before that is loaded; the others have registered themselves too late then."""
    if _loading is None:
        return
    wait_until_begun()
    recording = _loaded("recording")
    if recording is not None:
        recording.at_exit()
    _end("summary_lines")


def end() -> None:
    if _expiry.hear in (_load_all, _nothing):
        _expiry.listen(None)
    for name in ("progress", "recording", "summary_lines", "stalls"):
        _end(name)
    _late.end()
    _end("recording", named=False)  # the last line has named its folder


def _end(name: str, **how: bool) -> None:
    """End what that module does, if it was ever wanted."""
    module = _loaded(name)
    if module is not None:
        module.end(**how)


atexit.register(_at_exit)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed: what is to be written there will say so
        return ""


def _loaded(name: str) -> Any:
    """The module, unless another thread is still importing it."""
    module = sys.modules.get(_name(name))
    spec = getattr(module, "__spec__", None)
    return None if getattr(spec, "_initializing", False) else module


def _name(name: str) -> str:
    return f"threadsafe_timeout._record.{name}"
