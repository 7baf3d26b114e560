"""What the tests of the interrupt share: which mechanism this interpreter has, and a block that nothing interrupts."""

import time

from threadsafe_timeout._interruption import pursuit as _pursuit

MECHANISM = _pursuit.support().mechanism


def compute_past_the_deadline(scope):
    """Without a cooperative point, until some time after `scope` was cancelled."""
    while not scope.cancel_called:
        pass
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        pass
