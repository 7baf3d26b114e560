"""The tools for testing with deadlines: the mock clock, the fixtures, the race widener; and frozen time."""

import subprocess
import sys
import threading

import pytest
from blocked import LONG

from threadsafe_timeout import deadline, move_on_after, sleep, time_remaining
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._timing.daemon_thread import is_ours
from threadsafe_timeout.testing import MockClock, widened_races


def test_time_stands_still_until_it_jumps():
    with MockClock() as clock:
        before, wall = _clock.monotonic(), _clock.wall_time()
        assert _clock.monotonic() == before
        clock.jump(3600)
        assert _clock.monotonic() == pytest.approx(before + 3600)
        assert _clock.wall_time() == pytest.approx(wall + 3600)
        with pytest.raises(ValueError, match="forward"):
            clock.jump(-1)
    assert _clock.monotonic() < before + 3000


def test_a_jump_returns_when_the_deadlines_were_acted_upon():
    with MockClock() as clock:
        for _ in range(20):
            with move_on_after(10) as scope:
                clock.jump(9)
                assert not scope.cancel_called
                clock.jump(1)
                assert scope.cancel_called


def test_rate():
    with MockClock(rate=1e6) as clock:
        sleep(100_000)  # else it would never end
        clock.rate = 0
        now = _clock.monotonic()
        assert _clock.monotonic() == now
        with pytest.raises(ValueError, match="rate"):
            clock.rate = -1


def test_autojump():
    with MockClock(autojump=0.01):
        sleep(3600)  # else it would last an hour
        with move_on_after(1800) as scope:
            sleep(7200)
        assert scope.cancelled_caught
        assert time_remaining() == float("inf")


def test_the_fixtures_are_found_where_the_package_is_installed(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "from threadsafe_timeout import move_on_after, sleep\n"
        "def test_mock(mock_clock):\n"
        "    with move_on_after(5) as scope:\n"
        "        mock_clock.jump(5)\n"
        "    assert scope.cancel_called\n"
        "def test_autojump(autojump_clock):\n"
        "    sleep(1000)\n"
    )
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    assert "2 passed" in process.stdout


def test_frozen_time_neither_stops_nor_fires_a_deadline():
    import freezegun
    with freezegun.freeze_time("2020-01-01") as frozen:
        with deadline(LONG) as scope:
            frozen.tick(3600)
            assert not scope.cancel_called
            assert 0 < time_remaining() <= LONG
        with move_on_after(0.02) as scope:
            sleep(LONG)
        assert scope.cancelled_caught


def others():
    """The threads that are not the library's own, which begin when they are wanted."""
    return {thread for thread in threading.enumerate() if not is_ours(thread)}


def test_widened_races_puts_everything_back():
    take_due = _timer._take_due
    with move_on_after(0.01):
        sleep(20)  # the timer thread is there to stay
    assert _timer.settle(120)  # on 3.11 it sets the interval itself while it interrupts
    before, threads = (sys.getswitchinterval(), _clock.monotonic), others()
    with widened_races(seed=1, noise_threads=2):
        assert _timer._take_due is not take_due, "it widens nothing"
        assert sys.getswitchinterval() < before[0]
        with move_on_after(0.01) as scope:
            sleep(20)
        assert scope.cancelled_caught
        assert _timer.settle(120)
    assert (sys.getswitchinterval(), _clock.monotonic) == before
    assert others() <= threads
