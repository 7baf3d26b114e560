"""Testing code that has deadlines: a clock moved by hand, and race windows opened wide.

`pytest` finds the fixtures `mock_clock` and `autojump_clock` by itself once this package is installed.
"""

from threadsafe_timeout.testing.clock import MockClock
from threadsafe_timeout.testing.race import widened_races

__all__ = ["MockClock", "widened_races"]
