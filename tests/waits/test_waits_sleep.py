"""`time.sleep` inside a scope: what it takes and refuses, and the clocks it follows."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import select
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from blocked import LONG

from threadsafe_timeout import (
    CancelScope,
    move_on_after,
)
from threadsafe_timeout.testing import MockClock

pytestmark = pytest.mark.usefixtures("installed")


@pytest.mark.parametrize("in_scope", [False, True])
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-1, ValueError, "sleep length must be non-negative"),
        (-0.5, ValueError, "sleep length must be non-negative"),
        (math.nan, ValueError, "Invalid value NaN"),
        (1e300, OverflowError, "timestamp"),
        (2**70, OverflowError, "timestamp"),
        ("1", TypeError, "'str' object cannot be interpreted as an integer|must be real number, not str"),
        (None, TypeError, "'NoneType' object cannot be interpreted as an integer|must be real number, not NoneType"),
        pytest.param(
            Fraction(1, 2), TypeError, "cannot be interpreted as an integer",
            marks=pytest.mark.skipif(sys.version_info >= (3, 15), reason="any real number will do"),
        ),
    ],
)
def test_sleep_refuses_what_the_original_refuses_with_its_words(in_scope, value, error, words):
    with CancelScope() if not in_scope else move_on_after(LONG), pytest.raises(error, match=words):
        time.sleep(value)


@pytest.mark.skipif(sys.version_info < (3, 15), reason="only a float or an integer will do")
@pytest.mark.parametrize("kind", [Fraction, Decimal])
def test_any_real_number_is_a_time_to_wait_and_is_capped(kind):
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    condition, event = threading.Condition(), threading.Event()
    reader, writer = os.pipe()
    calls = [
        time.sleep, event.wait, lambda long: items.get(timeout=long), lambda long: select.select([reader], [], [], long),
    ]
    try:
        for call in calls:
            with move_on_after(0.01) as scope:
                call(kind(1000))
            assert scope.cancelled_caught, call
            with move_on_after(LONG) as scope, contextlib.suppress(queue.Empty):
                call(kind("0.001"))
            assert not scope.cancel_called, call
        with condition, move_on_after(LONG):
            assert not condition.wait(kind("0.001"))
    finally:
        os.close(reader), os.close(writer)


def test_sleep_takes_no_keyword_and_what_has_an_index():
    class Zero:
        def __index__(self):
            return 0

    for scope in (CancelScope(), move_on_after(LONG)):
        with scope:
            time.sleep(Zero())
            time.sleep(False)
            with pytest.raises(TypeError):
                time.sleep(seconds=1)
            with pytest.raises(TypeError):
                time.sleep()


def test_sleep_follows_a_clock_for_tests():
    with MockClock(autojump=0.01) as clock, move_on_after(7200) as scope:
        start = clock.monotonic()
        time.sleep(3600)
        assert clock.monotonic() - start == pytest.approx(3600)
        time.sleep(1e8)
    assert scope.cancelled_caught


def test_moving_the_clock_in_a_scope_is_not_a_wait():
    with MockClock() as clock, move_on_after(60) as scope:
        clock.jump(120)
        reached = True
    assert reached
    assert scope.cancel_called
