"""The logger of the modules that every scope needs and that seldom have something to say."""

from __future__ import annotations

from threadsafe_timeout._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["logger"]


def logger() -> logging.Logger:
    import logging  # here: its import takes as long as theirs, and many programs have no other use for it

    return logging.getLogger("threadsafe_timeout")
