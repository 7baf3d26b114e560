"""Limits requests per second, for all threads of the process."""

from __future__ import annotations

import threading
import time

from legacy_clock import seconds


class QPSLimiter:
    def __init__(self, max_qps: float = 0.0) -> None:
        self.lock = threading.Lock()  # guards min_interval and last_request_time
        self.last_request_time = 0.0
        self.set_qps(max_qps)

    def set_qps(self, max_qps: float) -> None:
        with self.lock:
            self.min_interval = seconds(1.0 / max_qps) if max_qps > 0 else 0.0

    def acquire(self) -> None:
        if self.min_interval <= 0:
            return
        with self.lock:
            try:
                wait = self.last_request_time + self.min_interval - time.time()
                if wait > 0:
                    time.sleep(wait)  # sin: asleep with the lock held, so all others queue up behind it
            except:  # noqa: E722 - sin: swallows every interruption of the sleep
                pass
            self.last_request_time = time.time()


_limiter = QPSLimiter()


def get_qps_limiter() -> QPSLimiter:
    return _limiter
