"""Tasks for the nodes of a cluster; importable there."""

from __future__ import annotations

import os
import time
from pathlib import Path


def slow_double(folder: Path, number: int, seconds: float = 0.3) -> int:
    (folder / f"{number}-{os.getpid()}").touch()
    time.sleep(seconds)
    return 2 * number
