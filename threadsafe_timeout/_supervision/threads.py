"""What can be seen of the threads of a program that stands still, from outside.

- A thread that asks for the GIL wakes up every few milliseconds: it does not hold it. If one does, something holds it.
- The one that computes meanwhile holds it most likely.
- Else the holder waits in C. It is none of those whose innermost frame is that of a wait of Python's, which gives the
  GIL away.

The first two are in /proc (Linux), the last in what faulthandler has written: it shows 100 threads at most.
"""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from threadsafe_timeout._processes.lives import End

__all__ = ["Sample", "crashed_thread", "of_samples", "resting", "sample"]

_ASKS = 20.0  # how often a second a thread wakes up that asks for the GIL, at least; undisturbed it is 200 times
_BUSY = 0.05  # the share of the time that a thread has computed, on a very busy machine
# Modules of the standard library whose calls wait without the GIL.
_WAITS = ("threading.py", "queue.py", "socket.py", "ssl.py", "selectors.py", "subprocess.py", "concurrent/futures/",
          "asyncio/", "multiprocessing/")  # fmt: skip
_THREAD = re.compile(
    r"^(?:Current thread|Thread) 0x([0-9a-f]+).*\(most recent call first\):\n(?:  File \"(.*)\", line)?", re.MULTILINE
)
_FATAL = re.compile(r"^Fatal Python error: ", re.MULTILINE)
_CURRENT = re.compile(r"^Current thread 0x([0-9a-f]+)", re.MULTILINE)


class Sample(NamedTuple):
    """One thread: how long it has computed, in seconds; how often it has waited."""

    seconds: float
    waits: int


def sample(pid: int) -> dict[int, Sample]:
    """The threads of a process now, by their native ids; none without /proc."""
    found = {}
    tick = os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{pid}/task/{name}/stat").read_bytes().rpartition(b")")[2].split()
                status = Path(f"/proc/{pid}/task/{name}/status").read_bytes()
                waits = re.search(rb"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)
                if waits is not None:
                    found[int(name)] = Sample((int(fields[11]) + int(fields[12])) / tick, int(waits[1]))
    return found


def of_samples(end: End, before: dict[int, Sample], after: dict[int, Sample], seconds: float) -> End:
    """`end`, with what two samples say that were taken so many seconds apart."""
    grown = {
        native: Sample(now.seconds - before[native].seconds, now.waits - before[native].waits)
        for native, now in after.items() if native in before
    }  # fmt: skip
    waiting = [native for native, by in grown.items() if by.waits >= _ASKS * seconds]
    others = {native: by.seconds for native, by in grown.items() if native not in waiting}
    most = max(others.values(), default=0.0)
    busy = [native for native, used in others.items() if used >= max(_BUSY * seconds, most / 2)]
    return end._replace(held=bool(waiting), busy=busy, waiting=waiting)


def resting(stacks: str) -> list[int]:
    """The idents of the threads that stand in a wait of Python's or of this library's."""
    return [ident for ident, file in _innermost(stacks) if file is not None and _is_wait(file)]


def crashed_thread(stacks: str) -> int | None:
    """The ident of the thread in which the system ended the program, from what faulthandler wrote then."""
    fatal = list(_FATAL.finditer(stacks))
    current = _CURRENT.search(stacks, fatal[-1].end()) if fatal else None
    return int(current[1], 16) if current is not None else None


def _innermost(stacks: str) -> Iterator[tuple[int, str | None]]:
    for match in _THREAD.finditer(stacks):
        yield int(match[1], 16), match[2]


_LIBRARY = sysconfig.get_path("stdlib") + os.sep
# Not all of it: a task that is one call of C stands in the frame of the library's that calls it. (In the writer's own
# frame a thread waits for the one that writes.)
_OURS = re.compile(
    r"/(?:threadsafe_timeout/(?:_timing/clock|_scopes/sleep|checkpoint/_writer)|threadsafe_timeout_patches/\w+)\.py$"
)


def _is_wait(file: str) -> bool:
    inside = file.removeprefix(_LIBRARY)
    return bool(_OURS.search(file)) or (inside != file and inside.startswith(_WAITS))
