"""The stacks of a run that lives, asked for from outside.

First the run itself is asked, through a file: its answer knows tasks and workers. One that does not answer, because a
call of C holds its interpreter, gets the signal that its status names, upon which faulthandler writes all stacks. The
signal is sent only to the process that wrote the status, and only if that handles it: it ends no process.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from threadsafe_timeout._processes import tree as _tree
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._view.fields import number, objects, text, whole
from threadsafe_timeout._view.reading import Run, is_alive

__all__ = ["Inquiry", "Stacks", "part_about"]

_PATIENCE = 3.0  # seconds for the run's own answer, which takes one at most while its interpreter is free
_DUMPING = 3.0  # seconds for faulthandler's
_QUIET = 0.2  # seconds without a new line after which faulthandler has written all
_LOOKS = 5  # and at least so many looks: where the machine stood still, the run gets its turn in between


@dataclass(frozen=True, slots=True)
class Stacks:
    """An answer: `how` it was had, what is to be said about it, and the text, not escaped."""

    how: Literal["run", "signal", "none"]
    note: str
    text: str


class Inquiry:
    """Stacks being asked for. `poll()` goes on with it, without waiting, until it returns the answer."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answer = run.folder / "stacks.txt"
        self._dump = run.folder / "faulthandler.txt"
        self._before = _identity(self._answer)
        self._seen = (0, 0.0)  # how long the dump is, and when it grew last
        self._looks = 0  # since then
        self._dump_start = -1
        self._until = _clock.monotonic() + (_PATIENCE if self._request() else 0.0)

    def _request(self) -> bool:
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            os.close(os.open(self._run.folder / "stacks.request", flags, 0o600))
        except PermissionError:
            raise
        except OSError:  # the disk is full, or was made read-only
            return False
        return True

    def close(self) -> None:
        """Ask no more."""
        with contextlib.suppress(OSError):
            os.unlink(self._run.folder / "stacks.request")

    def poll(self) -> Stacks | None:
        """The answer, once it is there."""
        now = _clock.monotonic()
        if self._dump_start >= 0:
            return self._poll_dump(now)
        if _identity(self._answer) != self._before:
            with contextlib.suppress(OSError):
                return Stacks("run", "", self._answer.read_text(encoding="utf-8", errors="replace"))
        if not is_alive(self._run.status):
            self.close()
            return Stacks("none", f"process {self._run.pid} has ended meanwhile", "")
        return self._signal(now) if now >= self._until else None

    def _signal(self, now: float) -> Stacks | None:
        self.close()
        start = _size(self._dump)
        problem = _send_dump_signal(self._run)
        if problem is not None:
            return Stacks("none", f"the run does not answer, and {problem}{_said_by_system(self._run.pid)}", "")
        self._dump_start, self._seen = start, (start, now)
        self._until = now + _DUMPING
        return None

    def _poll_dump(self, now: float) -> Stacks | None:
        size = _size(self._dump)
        if size != self._seen[0]:
            self._seen, self._looks = (size, now), 0
        self._looks += 1
        complete = size > self._dump_start and now - self._seen[1] >= _QUIET
        if self._looks <= _LOOKS or not (complete or now >= self._until):
            return None
        if size <= self._dump_start:
            return Stacks("none", f"the run answers neither its request file nor its signal"
                          f"{_said_by_system(self._run.pid)}", "")  # fmt: skip
        with open(self._dump, "rb") as file:
            file.seek(self._dump_start)
            found = file.read().decode(errors="replace")
        note = ("the run did not answer by itself: a call of C may hold its interpreter. This is what faulthandler "
                "wrote (the newest 100 threads, the innermost call first)")  # fmt: skip
        return Stacks("signal", note, _with_workers(found, self._run))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _send_dump_signal(run: Run) -> str | None:
    """Send it; or why that was not done."""
    wanted = number(run.status.get("dump_signal"))
    if wanted is None:
        return "it names no signal for faulthandler"
    pid, which = run.pid, int(wanted)
    try:
        with _held(pid) as descriptor:
            problem = _why_not_sent(run, which)
            if problem is None and descriptor is not None:
                signal.pidfd_send_signal(descriptor, which)
            elif problem is None:
                os.kill(pid, which)
            return problem
    except PermissionError:
        return f"process {pid} belongs to another user: run this command as that user"
    except (OSError, OverflowError):
        return f"process {pid} is gone"


@contextlib.contextmanager
def _held(pid: int) -> Iterator[int | None]:
    """A descriptor of the process: while it is there, a look at the process and a signal sent through it are about the
    same one, whatever its number is given to. None where there is no such thing."""
    if not hasattr(os, "pidfd_open"):
        yield None
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # an old kernel, or no more descriptors
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _why_not_sent(run: Run, which: int) -> str | None:
    if not is_alive(run.status):
        return f"process {run.pid} is gone"
    if _tree.HAS_PROC:
        return None if _handles(run.pid, which) else f"it does not handle signal {which}, so that was not sent"
    # Whether the process handles it cannot be seen. This one does nothing to a process that does not.
    harmless = which == getattr(signal, "SIGURG", None)
    return None if harmless else f"signal {which} cannot be sent safely here"


def _handles(pid: int, which: int) -> bool:
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            caught = next((line.split()[1] for line in status if line.startswith(b"SigCgt:")), b"0")
    except (OSError, IndexError):
        return False
    return which > 0 and bool(int(caught, 16) >> (which - 1) & 1)


def _said_by_system(pid: int) -> str:
    """What the system knows of a process that does not answer."""
    found = _tree.status(pid)
    if found is None:
        return ""
    if found.state in "Tt":
        return f". It is stopped: `kill -CONT {pid}` lets it go on"
    states = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/stat", "rb") as stat:
                states.append(stat.read().rpartition(b")")[2].split()[0])
    return (f". The system says: {len(states)} threads, of which {states.count(b'R')} compute and "
            f"{states.count(b'D')} wait for a disk or a file system")  # fmt: skip


def _with_workers(dump: str, run: Run) -> str:
    """faulthandler's text, with the worker and the task of each thread that the status tells."""
    known = {whole(one.get("ident")): one for one in objects(run.status.get("workers")) if whole(one.get("ident"))}

    def named(match: re.Match[str]) -> str:
        one = known.get(int(match[1], 16))
        if one is None:
            return match[0]
        task = text(one.get("task"))
        return f"{match[0]} worker {shown(text(one.get('worker')))}" + (f": task {shown(task)}" if task else "")

    return re.sub(r"^(?:Current thread|Thread) 0x([0-9a-f]+) .*:$", named, dump, flags=re.MULTILINE)


def part_about(worker: str, answer: str) -> str:
    """What an answer says about a worker, by its name as it is shown; all of it if that is not in there."""
    blocks = re.split(r"\n\n(?=worker |thread |Thread |Current thread )", answer)
    mine = (f"worker {worker},", f"worker {worker}:")
    for block in blocks:
        first = block.partition("\n")[0]
        if any(one in first for one in mine) or first.endswith(f"worker {worker}"):
            return block
    return answer
