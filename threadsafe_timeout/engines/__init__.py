"""The pool's promises where threads do not fit: each engine takes the pool's arguments and gives standard futures.

`AsyncPool` runs coroutines on an asyncio event loop. Start in `coroutines`.

`DaskExecutor` runs them on the machines of a Dask cluster. Start in `cluster`.

`isolate="process"` runs a pool's task in a process that can be killed: it ends by its deadline plus one grace, and
nothing of it is left. A pool comes in through `process.isolated`. Start in `process`; `sending` names what cannot
travel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import CannotBeSent, ClusterLost, TaskProcessDied

if TYPE_CHECKING:
    from threadsafe_timeout.engines.cluster import DaskExecutor
    from threadsafe_timeout.engines.coroutines import AsyncPool

__all__ = ["AsyncPool", "CannotBeSent", "ClusterLost", "DaskExecutor", "TaskProcessDied"]

# Imported on first use: an engine loads what it runs on.
_LAZY = {"AsyncPool": "coroutines", "DaskExecutor": "cluster"}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
