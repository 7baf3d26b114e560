"""A real run that ended, made once for all tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_runs import own_counts, program


@pytest.fixture(scope="session")
def ended_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Where it ran, and what the program itself counted."""
    folder = tmp_path_factory.mktemp("ended")
    with program(folder, "ends") as process:
        counts = own_counts(process)
        assert process.wait(110) == 0
    return folder, counts
