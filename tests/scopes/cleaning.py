"""What the tests of clean-up share: a scope that is cancelled, and whether a call would work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadsafe_timeout import CancelScope
from threadsafe_timeout._scopes import around as _around

GRACE = 2.0  # the default


@contextlib.contextmanager
def cancelled() -> Iterator[CancelScope]:
    """A scope that is cancelled, in which nothing was refused yet."""
    with CancelScope() as scope:
        scope.cancel()
        yield scope


def allowed() -> bool:
    """Whether a call would work here."""
    return _around.cancelled_scope() is None
