"""`threadsafe-timeout stacks`: asks, waits, falls back to py-spy, and prints."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from threadsafe_timeout._text import escaped
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._view.keys import Keys
from threadsafe_timeout._view.output import say
from threadsafe_timeout._view.picture import picture_of
from threadsafe_timeout._view.plain import row_line
from threadsafe_timeout._view.reading import NoRunError, Run, find_run
from threadsafe_timeout._view.stacks import Inquiry, Stacks
from threadsafe_timeout._view.words import at_place

__all__ = ["print_stacks"]

_LOOK = 0.05  # seconds between two looks for an answer
_PY_SPY = 30  # seconds


def print_stacks(target: str | None) -> int:
    """The command. 1: there is a run, but no stacks could be had; 2: there is no such run."""
    try:
        run = find_run(target)
    except NoRunError as error:
        return _without_files(target, error)
    except PermissionError as error:
        _complain(f"{error}: it is another user's run")
        return 2
    if run.state != "running":
        say(_last_words(run))
        return 0
    try:
        answer = _ask(run)
    except PermissionError as error:
        _complain(f"{error}: it is another user's run")
        return 2
    if answer.how == "none":
        _complain(answer.note)
        return _with_py_spy(run.pid)
    if answer.note:
        _complain(answer.note)
    if answer.how == "signal":
        say([*_workers(run), ""])
    say(answer.text.rstrip("\n").split("\n"))
    return 0


def _ask(run: Run) -> Stacks:
    inquiry = Inquiry(run)
    try:
        while (answer := inquiry.poll()) is None:
            Keys(None).read(_LOOK)
        return answer
    finally:
        inquiry.close()


def _workers(run: Run) -> Iterator[str]:
    """What the run last wrote of its workers, without the idle ones."""
    for row in picture_of(run, (), _clock.wall_time()).rows:
        if row.state != "idle":
            yield row_line(row)


def _last_words(run: Run) -> Iterator[str]:
    picture = picture_of(run, (), _clock.wall_time())
    yield f"{picture.title} · {picture.state}; what it wrote last of its workers:"
    busy = [row for row in picture.rows if row.state != "idle"]
    for row in busy:
        yield ""
        yield row_line(row)
        stack = row.stack or ([row.where] if row.where else [])
        yield from (f"  {at_place(one, True)}" for one in stack)
    if not busy:
        yield "none was at work"


def _without_files(target: str | None, error: NoRunError) -> int:
    """A process that writes no files may still be looked into by py-spy."""
    _complain(error)
    pid = int(target) if target is not None and target.isdecimal() else 0
    if pid > 0 and shutil.which("py-spy") is not None:
        with contextlib.suppress(OSError, OverflowError):
            os.kill(pid, 0)  # it is there, and ours
            return _with_py_spy(pid)
    return 2


def _with_py_spy(pid: int) -> int:
    program = shutil.which("py-spy")
    if program is None:
        _complain(f"py-spy, which may see more, is not installed: pip install py-spy, then  py-spy dump --pid {pid}  "
                  "(it needs the right to trace the process: root, or CAP_SYS_PTRACE)")  # fmt: skip
        return 1
    try:
        done = subprocess.run(
            [program, "dump", "--pid", str(pid)], capture_output=True, text=True, errors="replace", timeout=_PY_SPY,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        _complain(f"py-spy failed: {error}")
        return 1
    if done.returncode:
        _complain("py-spy failed; it needs the right to trace the process (root, or CAP_SYS_PTRACE): "
                  f"{done.stderr.strip()}")  # fmt: skip
        return 1
    say(done.stdout.rstrip("\n").split("\n"))
    return 0


def _complain(problem: object) -> None:
    sys.stderr.write(f"threadsafe-timeout stacks: {escaped(str(problem))}\n")
