"""The root of every error this library raises on purpose.

One root (`ThreadsafeTimeoutError`), and each error also subclasses the builtin a caller would already be
catching: a missed deadline is a `TimeoutError`, a missing extra an `ImportError`.
"""

from __future__ import annotations

__all__ = ["MissingExtraError", "ThreadsafeTimeoutError"]


class ThreadsafeTimeoutError(Exception):
    """Root of the errors raised by threadsafe-timeout. (`Cancelled` is not one: it is a `BaseException`.)"""


class MissingExtraError(ThreadsafeTimeoutError, ImportError):
    """A feature needs an optional dependency that is not installed. `extra` is what to install."""

    def __init__(self, feature: str, extra: str, missing: str) -> None:
        super().__init__(
            f"{feature} needs the package {missing!r}, which is not installed: "
            f"run  pip install 'threadsafe-timeout[{extra}]'"
        )
        self.feature = feature
        self.extra = extra
        self.missing = missing

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.feature, self.extra, self.missing)
