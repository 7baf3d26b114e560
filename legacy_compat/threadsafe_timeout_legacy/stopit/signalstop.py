"""What stopit.signalstop offers; SIGALRM is not used, so it works in every thread."""

from __future__ import annotations

from threadsafe_timeout_legacy.stopit.utils import BaseTimeout, base_timeoutable

__all__ = ["SignalTimeout", "signal_timeoutable"]


class SignalTimeout(BaseTimeout):
    """Limits how long a block may take, in whole seconds (fractions are dropped; 0 is no limit, as with an alarm)."""

    def __init__(self, seconds: float, swallow_exc: bool = True) -> None:
        super().__init__(int(seconds), swallow_exc)

    def _limit(self) -> float | None:
        return self.seconds or None


class signal_timeoutable(base_timeoutable):  # noqa: N801  # stopit's name
    """Decorator: a call given `timeout=seconds` returns `default` if it takes longer."""

    to_ctx_mgr = SignalTimeout
