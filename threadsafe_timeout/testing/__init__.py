"""For tests of code that has deadlines: a clock that is moved by hand, and wider race windows.

Once this package is installed, pytest has the fixtures `mock_clock` and `autojump_clock`. Start with
`clock`; `race` widens race windows.
"""

from threadsafe_timeout.testing.clock import MockClock
from threadsafe_timeout.testing.race import widened_races

__all__ = ["MockClock", "widened_races"]
