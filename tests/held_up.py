"""What the tests of moments that rarely meet share."""

from __future__ import annotations

import threading

import pytest

from threadsafe_timeout._interruption import pursuit as _pursuit

BOUND = 120.0
needs_interrupt = pytest.mark.skipif(_pursuit.support().mechanism is None, reason=_pursuit.support().detail)


def run_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread
