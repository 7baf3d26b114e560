"""The stacks of a run for somebody who asks from outside, with `threadsafe-timeout stacks`.

- `serve` answers a request file with Python's own view: each worker by its name, with its task and its stack.
- `register` has faulthandler write all stacks when a signal arrives. That needs no GIL, so it also works while a call
  of C holds it, when nothing written in Python can answer.

Not guaranteed: a call of C that a signal interrupts, and that is not made again, ends early (`sleep()` called through
ctypes). Python's own calls are made again. faulthandler shows 100 threads at most, the newest.
"""

from __future__ import annotations

import datetime
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.crew import Crew
from threadsafe_timeout._pool.health import WorkerHealth, health_of
from threadsafe_timeout._pool.telling import thread_position
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock

__all__ = ["REQUEST", "STACKS", "dump_signal", "register", "serve", "unregister"]

REQUEST, STACKS = "stacks.request", "stacks.txt"
_FAULTHANDLER = "faulthandler.txt"
_TROUBLE = ("abandoned", "interrupting", "overdue", "running", "idle")

# What the system does with it by default is nothing: one that is sent to the wrong process ends no process.
_SIGNAL: int | None = getattr(signal, "SIGURG", None)
# Kept open: faulthandler writes to its descriptor. Touched by the thread that records the run, and by tests.
_file: BinaryIO | None = None


def register(folder: str | os.PathLike[str]) -> int | None:
    """Have all threads' stacks written to faulthandler.txt in `folder` when a signal arrives. The signal; None if that
    cannot be: the program handles it, the system has none, or the file cannot be made."""
    global _file
    if _SIGNAL is None or _handled(_SIGNAL):
        return None
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        file = open(os.open(Path(folder, _FAULTHANDLER), flags, 0o600), "wb", buffering=0)  # noqa: SIM115 - kept open
    except OSError:
        return None
    try:
        faulthandler.register(_SIGNAL, file=file, all_threads=True, chain=False)
    except (OSError, RuntimeError, ValueError):  # not in this interpreter
        file.close()
        return None
    _file = file
    return _SIGNAL


def unregister() -> None:
    """Take back what `register` did."""
    global _file
    if _file is None or _SIGNAL is None:
        return
    faulthandler.unregister(_SIGNAL)
    _file.close()
    _file = None


def dump_signal() -> int | None:
    """The signal that has the stacks written; None if there is none, or if the program has taken it for itself since
    `register`."""
    return _SIGNAL if _file is not None and _SIGNAL is not None and _python_leaves_it(_SIGNAL) else None


def _python_leaves_it(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_DFL


def _handled(number: int) -> bool:
    """Whether the program, or a library of it, written in Python or not, handles a signal or ignores it."""
    if not _python_leaves_it(number):
        return True
    try:
        with open("/proc/self/status", "rb") as status:
            fields = dict(line.split(b":", 1) for line in status if b":" in line)
        return any(int(fields[name], 16) >> (number - 1) & 1 for name in (b"SigCgt", b"SigIgn"))
    except (OSError, KeyError, ValueError):  # no /proc: what Python knows has to do
        return False


def serve(folder: str | os.PathLike[str]) -> bool:
    """Write stacks.txt in `folder` if somebody asks for it there. Whether it was written.

    The request is taken before the stacks are: one that comes later finds no older answer to be its own, and is
    answered the next time.
    """
    try:
        os.unlink(Path(folder, REQUEST))
        return _write(Path(folder), _report())
    except OSError:  # nobody asks, most of the time; or the disk is full, or the folder gone
        return False


def _write(folder: Path, text: str) -> bool:
    unfinished = folder / f"{STACKS}.part"
    unfinished.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    with open(os.open(unfinished, flags, 0o600), "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    os.replace(unfinished, folder / STACKS)
    return True


def _report() -> str:
    moment = datetime.datetime.fromtimestamp(_clock.wall_time()).astimezone().isoformat(sep=" ", timespec="seconds")
    workers = [pair for crew in _crews() for pair in _workers(crew)]
    workers.sort(key=lambda pair: (_TROUBLE.index(pair[0].state), -(pair[0].elapsed or 0.0)))
    of_workers = {ident for _, ident in workers}
    lines = [f"process {os.getpid()} at {moment}: {len(workers)} workers, those in trouble first"]
    if not _can_be_looked_at():
        lines.append("(without the GIL the stacks of other threads cannot be looked at)")
    for one, ident in workers:
        lines += ["", _title(one)]
        if one.state != "idle":
            lines += _stack(ident)
    for thread in threading.enumerate():
        ours = thread is threading.current_thread() or thread.name.startswith("threadsafe-timeout-")
        if not ours and thread.ident not in of_workers:
            lines += ["", f"thread {shown(thread.name)}", *_stack(thread.ident)]
    return "\n".join(lines) + "\n"


def _crews() -> list[Crew]:
    while True:
        try:
            return list(_exit.crews)
        except RuntimeError:  # a pool was made or dropped meanwhile
            continue


def _workers(crew: Crew) -> Iterator[tuple[WorkerHealth, int | None]]:
    with crew.lock:
        idents = {worker.thread.name: worker.thread.ident for worker in (*crew.workers, *list(crew.abandoned))}
    for one in health_of(crew).workers:
        yield one, idents.get(one.worker)


def _can_be_looked_at() -> bool:
    with frames_of_others() as frames:
        return bool(frames)


def _title(one: WorkerHealth) -> str:
    text = f"worker {shown(one.worker)}, {one.state}"
    if one.task is not None:
        text += f": task {shown(one.task)}" + ("" if one.key is None else f" (key {shown(one.key)})")
    if one.elapsed is not None:
        text += f", for {one.elapsed:.1f} s"
    return text


def _stack(ident: int | None) -> list[str]:
    _, stack = thread_position(ident)
    return stack.rstrip("\n").split("\n") if stack else ["  (no stack)"]
