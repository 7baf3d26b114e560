"""A program without pools, whose deadlines are noticed too late because a call of C holds the GIL."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import runs

from threadsafe_timeout._record import late
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

PROGRAM = """
import ctypes, sys, threading
import threadsafe_timeout
threadsafe_timeout.install(stall_after={after}, checkpoint=None)

# A thread that waits for the GIL then asks for it less often. So on a busy machine, too, the timer has asked for it as
# often as is expected.
sys.setswitchinterval(0.1)
fired = threading.Event()
hold = ctypes.PyDLL(None).usleep
threadsafe_timeout.Timer(1, fired.set).start()
hold(4_000_000)
fired.wait()
with threadsafe_timeout.deadline(60):
    pass
assert not any(thread.name == "threadsafe-timeout-stalls" for thread in threading.enumerate())
assert not any(name.startswith("threadsafe_timeout._record.stalls") for name in sys.modules)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="usleep, as Linux has it")
@pytest.mark.parametrize(("after", "times"), [("1", 1), ("None", 0)])
def test_it_says_by_how_much_and_which_thread_it_was(after: str, times: int, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM.format(after=after)))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=True,
        env=runs.environment(),
    )  # fmt: skip
    assert done.stderr.count("a deadline was noticed") == times, done.stderr
    assert done.stderr.count("It was thread MainThread (now at ") == times


class Clock:
    """One that stands still."""

    SystemClock, get_clock = _clock.SystemClock, staticmethod(_clock.get_clock)

    def monotonic(self) -> float:
        return 1000.0


@pytest.fixture
def looks() -> Iterator[None]:
    before = _timer.looked, late._after, late._before, late.watched
    late._after, late.watched = 10.0, False
    yield
    _timer.looked, late._after, late._before, late.watched = before


@pytest.mark.usefixtures("looks")
@pytest.mark.parametrize(
    ("by", "woke", "watched", "told"),
    [(20.0, 4000, False, 1), (5.0, 4000, False, 0), (20.0, 5, False, 0), (20.0, 4000, True, 0), (None, 4000, False, 0)],
)
def test_what_is_late_and_what_was_stopped(
    by: float | None, woke: int, watched: bool, told: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that was stopped has not asked for the GIL; where pools are at work, their watch tells."""
    late._before, late.watched = 0, watched
    monkeypatch.setattr(late, "wakeups", lambda: woke)
    monkeypatch.setattr(late, "_clock", Clock())
    late._look(None if by is None else 1000.0 - by)
    assert caplog.text.count("a deadline was noticed 20.0 s late") == told


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it is not counted")
def test_a_look_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer thread would wait for a thread that is in the middle of the same import."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert isinstance(late.wakeups(), int)
