"""Killing a process with what belongs to it, and telling which process a number stands for.

Guarantees:

- A process is stopped before its children are listed, so that it cannot start more of them meanwhile.
- The program's own process group is never killed.
- With `started`, nothing is sent to another process that has been given the number of one that has ended.

Not guaranteed: without /proc (macOS) descendants are not known. There only the process and its group are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat as file_types
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "HAS_PROC", "Status", "descendants", "group_is_running", "holds_other_end", "is_pending", "is_running", "is_there",
    "kill_tree", "status",
]  # fmt: skip

HAS_PROC = os.path.exists("/proc/self/stat")
_GET_TERMINAL_NUMBER = 0x80045430  # Linux's TIOCGPTN; Python names it from 3.13 on


class Status(NamedTuple):
    """What the system says of a process."""

    name: str
    state: str  # one letter; Z and X: it has ended
    group: int
    session: int
    started: int  # clock ticks from the start of the system: with the number, this tells a process from all others

    @property
    def running(self) -> bool:
        return self.state not in "ZX"


def status(pid: int) -> Status | None:
    """What /proc says of a process; None if there is none of that number, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")  # the name may hold anything
    fields = after.split()
    return Status(before.partition("(")[2], fields[0], int(fields[2]), int(fields[3]), int(fields[19]))


def is_running(pid: int, started: int) -> bool:
    """Whether the process that was started at that time still runs. One that has ended and was not reaped does not."""
    found = status(pid)
    return found is not None and found.started == started and found.running


def is_there(pid: int, started: float | None) -> bool:
    """The same for any process of the system, where there is no /proc either: there its number has to do. `started` is
    None if that is not known."""
    if pid <= 0:
        return False
    if HAS_PROC:
        found = status(pid)
        return found is not None and found.running and started in (None, found.started)
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal was sent to a process and has reached none of its threads yet."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", "rb") as file:
        return any(int(line.split()[1], 16) >> number - 1 & 1 for line in file if line.startswith(b"ShdPnd:"))
    return False


def group_is_running(group: int) -> bool:
    """Whether any process of a group runs."""
    return any(
        found.group == group and found.running
        for name in os.listdir("/proc")
        if name.isdecimal() and (found := status(int(name))) is not None
    )


def kill_tree(pid: int, *, started: int | None = None, other_sessions: bool = True) -> bool:
    """Kill a child, its group if it leads one, and its descendants; False if it was gone.

    Without `started` the caller knows that the child was not reaped yet. Without `other_sessions` those descendants are
    left alone that were put into a session of their own, with all that they have started.
    """
    tree, found = [], [pid]
    session = _session(pid)
    while found:
        process = found.pop()
        if process == pid and started is not None:
            stopped = _stop_same(pid, started)
        else:
            stopped = (other_sessions or _session(process) == session) and _send(process, signal.SIGSTOP)
        if stopped:
            tree.append(process)
            found += _children(process)
    if not tree:
        return False
    with contextlib.suppress(OSError):
        if os.getpgid(pid) == pid != os.getpgrp():
            os.killpg(pid, signal.SIGKILL)
    for process in tree:
        _send(process, signal.SIGKILL)
    return True


def _stop_same(pid: int, started: int) -> bool:
    """Stop a process if it is the one that was started at that time. Once it is stopped it cannot end by itself, and so
    its number stays its own."""
    if not hasattr(os, "pidfd_open"):
        found = status(pid)
        return (found is None or found.started == started) and _send(pid, signal.SIGSTOP)
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it is gone; or there are no more descriptors, or the kernel is old
        found = status(pid)
        return found is not None and found.started == started and _send(pid, signal.SIGSTOP)
    try:
        found = status(pid)
        if found is None or found.started != started:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except OSError:  # gone, or somebody else's
        return False
    return True


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:  # another system, or gone
        pass
    return children


def descendants(pid: int) -> list[tuple[int, int]]:
    """Those of a process's descendants that share its session: the number of each, and when it was started."""
    found, todo, session = [], [pid], _session(pid)
    while todo:
        for child in _children(todo.pop()):
            about = status(child)
            if about is not None and about.session == session:
                found.append((child, about.started))
                todo.append(child)
    return found


def holds_other_end(pid: int) -> bool:
    """Whether this program holds the other end of what a process has as stdin, stdout or stderr: a pipe that the one
    writes and the other one reads, or a pseudo-terminal."""
    pipes, terminals = _streams(pid)
    return bool(pipes or terminals) and any(
        test(descriptor) for descriptor in _own_descriptors() for test in (_end_of(pipes), _master_of(terminals))
    )


def _streams(pid: int) -> tuple[set[tuple[int, int]], set[str]]:
    """The pipes of a process's standard streams, each with how its other end is opened; and its terminals."""
    pipes, terminals = set(), set()
    for number in (0, 1, 2):
        path = f"/proc/{pid}/fd/{number}"
        with contextlib.suppress(OSError):
            about = os.stat(path)
            if file_types.S_ISFIFO(about.st_mode):
                pipes.add((about.st_ino, os.O_RDONLY if number else os.O_WRONLY))
            elif (target := os.readlink(path)).startswith("/dev/pts/"):
                terminals.add(target)
    return pipes, terminals


def _own_descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _end_of(pipes: set[tuple[int, int]]) -> Callable[[int], bool]:
    import fcntl  # not on every system

    def test(descriptor: int) -> bool:
        try:
            mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
            return (os.fstat(descriptor).st_ino, mode) in pipes
        except OSError:  # closed meanwhile
            return False

    return test


def _master_of(terminals: set[str]) -> Callable[[int], bool]:
    import fcntl

    def test(descriptor: int) -> bool:
        if not terminals:
            return False
        try:
            number = fcntl.ioctl(descriptor, _GET_TERMINAL_NUMBER, b"\0" * 4)
        except OSError:  # not one
            return False
        return f"/dev/pts/{int.from_bytes(number, 'little')}" in terminals

    return test
