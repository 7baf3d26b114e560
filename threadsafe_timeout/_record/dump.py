"""The stacks of a run, asked for from outside with `threadsafe-timeout stacks`.

- `serve` answers a request file with Python's own view: each worker by its name, with its task and its stack.
- `register` has faulthandler write all stacks when a signal arrives (see `dump_signal`).
"""

from __future__ import annotations

import datetime
import os
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from threadsafe_timeout._introspection import dump_signal as _dump_signal
from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._introspection.secrets import without_known_secrets
from threadsafe_timeout._pool.crew import Crew
from threadsafe_timeout._pool.health import WorkerHealth, health_of
from threadsafe_timeout._pool.telling import thread_position
from threadsafe_timeout._record.snapshot import MOST_COROUTINES, all_crews
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import is_ours

if TYPE_CHECKING:
    from threadsafe_timeout.engines._async_crew import AsyncCrew

__all__ = ["FAULTHANDLER", "REQUEST", "STACKS", "dump_signal", "register", "serve", "unregister"]

REQUEST, STACKS = "stacks.request", "stacks.txt"
FAULTHANDLER = "faulthandler.txt"
_TROUBLE = ("abandoned", "interrupting", "overdue", "running", "idle")

_file: BinaryIO | None = None  # touched by the thread that records the run, and by tests


def register(folder: str | os.PathLike[str]) -> int | None:
    """Have all threads' stacks written to faulthandler.txt in `folder` when a signal arrives. The signal; None if that
    cannot be: the program handles it, the system has none, a supervisor gets them, or the file cannot be made."""
    global _file
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    if _dump_signal.destination() == "supervisor":
        return None
    try:
        file = open(os.open(Path(folder, FAULTHANDLER), flags, 0o600), "wb", buffering=0)  # noqa: SIM115 - kept open
    except OSError:
        return None
    if not _dump_signal.direct("run", file.fileno()):
        file.close()
        return None
    if _file is not None:
        _file.close()
    _file = file
    return _dump_signal.SIGNAL


def unregister() -> None:
    """Take back what `register` did."""
    global _file
    file, _file = _file, None
    if file is not None:
        _dump_signal.undirect("run")
        file.close()


def dump_signal() -> int | None:
    """The signal that has the stacks written; None if there is none, or if the program has taken it for itself since
    `register`."""
    return _dump_signal.SIGNAL if _dump_signal.destination() == "run" else None


def serve(folder: str | os.PathLike[str]) -> bool:
    """Write stacks.txt in `folder` if somebody asks for it there. Whether it was written.

    The request is taken before the stacks are: one that comes later finds no older answer to be its own, and is
    answered the next time.
    """
    try:
        os.unlink(os.path.join(folder, REQUEST))
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
    crews = all_crews()
    workers = [pair for crew in crews if isinstance(crew, Crew) for pair in _workers(crew)]
    of_workers = {ident for _, ident in workers}
    parts = [(one, [] if one.state == "idle" else _stack(ident)) for one, ident in workers]
    parts += [pair for crew in crews if not isinstance(crew, Crew) for pair in _coroutines(crew)]
    parts.sort(key=lambda pair: (_TROUBLE.index(pair[0].state), -(pair[0].elapsed or 0.0)))
    lines = [f"process {os.getpid()} at {moment}: {len(parts)} workers, those in trouble first"]
    if not _can_be_looked_at():
        lines.append("(without the GIL the stacks of other threads cannot be looked at)")
    for one, stack in parts:
        lines += ["", _title(one), *stack]
    for thread in threading.enumerate():
        ours = thread is threading.current_thread() or is_ours(thread)
        if not ours and thread.ident not in of_workers:
            lines += ["", f"thread {_shown(thread.name)}", *_stack(thread.ident)]
    return "\n".join(lines) + "\n"


def _workers(crew: Crew) -> Iterator[tuple[WorkerHealth, int | None]]:
    with crew.lock:
        idents = {worker.thread.name: worker.thread.ident for worker in (*crew.workers, *list(crew.abandoned))}
    for one in health_of(crew).workers:
        yield one, idents.get(one.worker)


def _coroutines(crew: AsyncCrew) -> Iterator[tuple[WorkerHealth, list[str]]]:
    """What each awaits, down to where it waits; or the stack of the loop's thread, if that is in it."""
    for one in crew.look(MOST_COROUTINES):
        entries = [traceback.FrameSummary(*place) for place in one.stack]
        yield one.health, "".join(traceback.format_list(entries)).rstrip("\n").split("\n")


def _can_be_looked_at() -> bool:
    with frames_of_others() as frames:
        return bool(frames)


def _title(one: WorkerHealth) -> str:
    text = f"worker {_shown(one.worker)}, {one.state}"
    if one.task is not None:
        text += f": task {_shown(one.task)}" + ("" if one.key is None else f" (key {_shown(one.key)})")
    if one.elapsed is not None:
        text += f", for {one.elapsed:.1f} s"
    return text


def _shown(name: str | int) -> str:
    return shown(without_known_secrets(str(name)))


def _stack(ident: int | None) -> list[str]:
    _, stack = thread_position(ident)
    return stack.rstrip("\n").split("\n") if stack else ["  (no stack)"]
