"""Tasks of a pool whose outcome is on disk before their future reports done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import DeadlineExceeded, TaskPoisoned
from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._pool.options import Outcome, TaskOptions
from threadsafe_timeout._text import shown

if TYPE_CHECKING:
    from threadsafe_timeout.checkpoint import CheckpointWriter

__all__ = ["Key", "saved"]

Key = str | int | Callable[..., str | int]
logger = logging.getLogger("threadsafe_timeout")


def saved(
    writer: CheckpointWriter, key: Key, options: TaskOptions, fn: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Callable[..., Any], TaskOptions]:
    """`fn` and `options` for one task that is saved under `key`, or under what `key` makes of its arguments."""
    name = key(*args, **kwargs) if callable(key) else key
    if getattr(writer, "_key", None) is None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise TypeError(f"key= must give a str or an int to save the task under, not {name!r}")

    refused: list[TaskPoisoned] = []

    @transparent
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            writer.started(name)
        except TaskPoisoned as exc:
            refused.append(exc)
            raise
        return fn(*args, **kwargs)

    def settle(outcome: Outcome) -> Any:
        if options.settle is not None:
            try:
                outcome = Outcome(options.settle(outcome))
            except Exception as exc:
                outcome = Outcome(error=exc)
        error = outcome.error
        if error is not None and error in refused:
            raise error  # what the journal says of it stays
        status = "done" if error is None else "timeout" if isinstance(error, DeadlineExceeded) else "failed"
        try:
            writer.save(name, outcome.result if error is None else error, status)
        except Exception:
            told = shown(name)
            logger.exception("threadsafe-timeout: task %s was not saved; its future still gets its outcome", told)
        if error is not None:
            raise error
        return outcome.result

    return run, replace(options, name=options.name or str(name), key=name, settle=settle, saves=True)
