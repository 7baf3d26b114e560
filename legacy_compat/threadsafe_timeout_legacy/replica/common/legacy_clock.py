"""How long a legacy second takes: the only part that the original has not."""

from __future__ import annotations

import os


def seconds(legacy_seconds: float) -> float:
    """`legacy_seconds` in real seconds, by LEGACY_MINUTE_SECONDS (default 60: real time)."""
    return legacy_seconds * float(os.environ.get("LEGACY_MINUTE_SECONDS", "60")) / 60.0
