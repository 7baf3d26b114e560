"""What runs in the process of a task.

Guarantees:

- It leads a process group of its own. If the program dies, however, the kernel kills the group's leader where it can
  (Linux), even one that holds the GIL; elsewhere a thread does.
- SIGTERM cancels the task, which may clean up; a program's own handler may replace that.
- The answer is one of three: the result, the error with its traceback as text, or that it was cancelled and where.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from dataclasses import fields
from multiprocessing.connection import Connection
from typing import Any

from threadsafe_timeout import _settings
from threadsafe_timeout._errors import CannotBeSent, DeadlineExceeded
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._patching import install as _install
from threadsafe_timeout._scopes.deadlines import move_on_after
from threadsafe_timeout.engines._reporter import PhaseReporter, Reporter
from threadsafe_timeout.engines.sending import pack

__all__ = ["run_task", "travelling_settings"]

_SET_SIGNAL = 10  # Linux's F_SETSIG


def travelling_settings() -> dict[str, Any]:
    """Those in force, but for what is the program's alone: its journal, its run's files, its terminal, its cluster."""
    now = _settings.settings()
    values = {field.name: getattr(now, field.name) for field in fields(now)}
    alone = {
        "checkpoint": None, "save": "off", "status_dir": None, "summary": "off", "progress": "off", "stall_after": None,
        "engine": "threads", "engine_address": None, "task_factory": None,
    }  # fmt: skip
    return values | alone | {"isolate": "thread"}


def run_task(blob: bytes, pipe: Connection) -> bytes:
    """Run a task, which is packed as `process` does it; the answer, packed. What it does is told through the pipe."""
    about = pickle.loads(blob)
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    _die_with_parent()
    # It may start processes: they are of its group, and end with it.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    _limit_memory(about["memory"])
    _put_settings_in_force(about["settings"], about["installed"])
    reporter = (PhaseReporter if about["phases"] else Reporter)(pipe)
    answer = _answer(about)
    reporter.end()
    # What is still running here (threads, handlers) is not waited for: the answer is all that is wanted.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return answer


def _answer(about: dict[str, Any]) -> bytes:
    scope = move_on_after(about["remaining"], name=about["name"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: scope.cancel("its task was cancelled") and None)
    where = None
    try:
        with scope:
            try:
                function, args, kwargs = pickle.loads(about["call"])
                result = function(*args, **kwargs)
                return _packed(result)
            except BaseException as exc:
                where = place_of(exc)
                raise
        return pickle.dumps(("cancelled", where, ""))
    except BaseException as exc:
        text = traceback.format_exc()
        if scope._cancelled and isinstance(exc, DeadlineExceeded) and exc.scope is scope:
            return pickle.dumps(("cancelled", exc.where, text))
        try:
            packed = pack(exc)
            pickle.loads(packed)  # an error whose __init__ wants more than it kept cannot be unpacked
            return pickle.dumps(("error", packed, text))
        except Exception:
            what = f"{type(exc).__module__}.{type(exc).__qualname__}"
            return pickle.dumps(("error", pack(CannotBeSent("the error", what)), text))


def _packed(result: object) -> bytes:
    try:
        return pickle.dumps(("result", pack(result), ""))
    except Exception as exc:
        kind = type(result)
        raise CannotBeSent("the result", f"{kind.__module__}.{kind.__qualname__}") from exc


def _put_settings_in_force(values: dict[str, Any], installed: bool) -> None:
    if installed:
        _install.install(**values)
    else:
        _settings.set_settings(_settings.Settings(**values), dict.fromkeys(values, "the program"))


def _limit_memory(limit: int | None) -> None:
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    sentinel = parent.sentinel if parent is not None else None
    if sentinel is None:
        return
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import fcntl

        # The kernel sends it when the pipe's other end closes; no thread of ours need get the GIL for that.
        fcntl.fcntl(sentinel, _SET_SIGNAL, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpgrp() if os.getpgrp() == os.getpid() else os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_watch, args=(sentinel,), name="threadsafe-timeout-parent", daemon=True).start()


def _watch(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
