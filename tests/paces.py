"""A test of what is not to be late, at more than one pace: a machine may be too slow for the first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

PACES = (1, 5, 25)


def at_some_pace(test: Callable[[int], object]) -> None:
    """Run `test(pace)`, whose times are all multiples of `pace`, until it passes: what happens in time at none of the
    paces does not depend on the machine, and fails."""
    for pace in PACES[:-1]:
        try:
            test(pace)
        except (Exception, pytest.fail.Exception):  # the latter is what `pytest.raises` fails with
            continue
        return
    test(PACES[-1])
