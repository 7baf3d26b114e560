# ruff: noqa: N999  # the module is called so there
"""What func_timeout.StoppableThread offers."""

from __future__ import annotations

import threading

from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout_legacy.stopit.threadstop import async_raise

__all__ = ["StoppableThread"]


class StoppableThread(threading.Thread):
    """A thread that can be stopped by an exception, with all the dangers of `async_raise`."""

    def stop(self, exception: type[BaseException], raiseEvery: float = 2.0) -> None:  # noqa: N803  # their name
        """Post `exception` (a class) to the thread, again every `raiseEvery` seconds, until it has ended."""
        if not self.is_alive() or self.ident is None:
            return
        try:
            async_raise(self.ident, exception)
        except ValueError:
            return  # it ended this moment
        _timer.call_later(raiseEvery, lambda: self.stop(exception, raiseEvery))

    _stopThread = stop  # noqa: N815  # their name
