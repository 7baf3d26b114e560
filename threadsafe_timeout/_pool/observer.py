"""Where the pool says what happens to whoever records the run. Each name is None unless somebody does: to look here is
all it costs then. What is called here is quick, takes no lock of the pool and raises nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadsafe_timeout._pool.events import Event
    from threadsafe_timeout._pool.task import TaskFuture

__all__: list[str] = []

# A worker begins.
began: Callable[[], object] | None = None
# A task is about to have its outcome. What is returned goes to `finished`, with its error, when it has.
ending: Callable[[TaskFuture], Any] | None = None
finished: Callable[[Any, BaseException | None], object] | None = None
# What `on_event` callbacks hear of. Called under locks of the pool.
event: Callable[[Event], object] | None = None
# The process is left at once, with this status.
leaving: Callable[[int], object] | None = None
