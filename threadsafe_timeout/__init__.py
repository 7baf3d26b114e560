"""Deadlines, a thread pool that heals, and results that survive, for batch runners that stall.

    import threadsafe_timeout.auto   # the one line, at the top of an existing runner

In new code, call `install()` once, and use `deadline`, `move_on_after`, `check_cancelled` and `ThreadPoolExecutor`.
Without `install()`, sleeps, sockets and other waits do not end with a scope; only Python code is interrupted.

All durations are seconds. Instants are on the monotonic clock.
"""

from __future__ import annotations

from threadsafe_timeout._errors import (
    Cancelled,
    CannotBeSent,
    ClusterLost,
    DeadlineExceeded,
    LoopDetected,
    MissingExtraError,
    PoolExhausted,
    SettingError,
    TaskPoisoned,
    TaskProcessDied,
    ThreadsafeTimeoutError,
)
from threadsafe_timeout._scopes.around import check_cancelled
from threadsafe_timeout._scopes.deadlines import deadline, fail_at, move_on_after, move_on_at
from threadsafe_timeout._scopes.scope import CancelScope
from threadsafe_timeout._scopes.shield import shield
from threadsafe_timeout._scopes.sleep import sleep
from threadsafe_timeout._scopes.time_left import current_deadline, time_remaining
from threadsafe_timeout._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadsafe_timeout._guard.guard import guard_interactive, guarded
    from threadsafe_timeout._patching.install import install, patched, uninstall
    from threadsafe_timeout._pool.callback_timer import Timer
    from threadsafe_timeout._pool.events import Event
    from threadsafe_timeout._pool.executor import ThreadPoolExecutor
    from threadsafe_timeout._pool.health import PoolHealth, WorkerHealth
    from threadsafe_timeout._pool.options import Outcome
    from threadsafe_timeout._processes.started import keep_process
    from threadsafe_timeout._scopes.tokens import CancelSource, CancelToken
    from threadsafe_timeout._settings import Settings
    from threadsafe_timeout.checkpoint import CheckpointWriter, checkpointed, load_checkpoint
    from threadsafe_timeout.engines.coroutines import AsyncPool

__all__ = [
    "AsyncPool",
    "CancelScope",
    "CancelSource",
    "CancelToken",
    "Cancelled",
    "CannotBeSent",
    "CheckpointWriter",
    "ClusterLost",
    "DeadlineExceeded",
    "Event",
    "LoopDetected",
    "MissingExtraError",
    "Outcome",
    "PoolExhausted",
    "PoolHealth",
    "SettingError",
    "Settings",
    "TaskPoisoned",
    "TaskProcessDied",
    "ThreadPoolExecutor",
    "ThreadsafeTimeoutError",
    "Timer",
    "WorkerHealth",
    "check_cancelled",
    "checkpointed",
    "current_deadline",
    "deadline",
    "fail_at",
    "guard_interactive",
    "guarded",
    "install",
    "keep_process",
    "load_checkpoint",
    "move_on_after",
    "move_on_at",
    "patched",
    "shield",
    "sleep",
    "time_remaining",
    "uninstall",
]

# Imported on first use: a program that only wants a deadline does not pay for the pool or the file lock.
_LAZY = {
    "AsyncPool": "engines.coroutines",
    "CancelSource": "_scopes.tokens",
    "CancelToken": "_scopes.tokens",
    "CheckpointWriter": "checkpoint",
    "Event": "_pool.events",
    "Outcome": "_pool.options",
    "PoolHealth": "_pool.health",
    "Settings": "_settings",
    "ThreadPoolExecutor": "_pool.executor",
    "Timer": "_pool.callback_timer",
    "WorkerHealth": "_pool.health",
    "checkpointed": "checkpoint",
    "guard_interactive": "_guard.guard",
    "guarded": "_guard.guard",
    "install": "_patching.install",
    "keep_process": "_processes.started",
    "load_checkpoint": "checkpoint",
    "patched": "_patching.install",
    "uninstall": "_patching.install",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
