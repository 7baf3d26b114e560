"""The child's side of `run --supervise`: it tells the supervisor that the program moves.

A thread looks at the others every so often. The program moves if any thread stands elsewhere than at the last look, or
if the process has used the processor meanwhile. Then the thread writes a byte. It writes none if every thread waits
where it waited before (a deadlock), and it cannot write if a call of C holds the GIL. Without the GIL it cannot be
known where the others stand: then it always writes, and no deadlock is noticed.

While it runs, SIGURG has faulthandler write all stacks to the board that it shares with the supervisor, which passes
them on to standard error; that needs no GIL. A crash has them written there too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
from typing import NamedTuple

from threadsafe_timeout._introspection import dump_signal as _dump_signal
from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._processes import lives as _lives
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import DaemonThread, is_ours

__all__ = ["start"]

_BUSY = 0.05  # the share of a processor from which on a process counts as computing
_PR_SET_PDEATHSIG = 1


def start(text: str) -> None:
    """Begin. `text` has the descriptor to write to, the seconds between two looks, the supervisor's pid, the signals
    that the supervisor has blocked for itself (a blocked signal stays so in a child), the descriptor of the board, and
    how many seconds without movement are a stall."""
    number, every, parent, blocked, on_board, stall = text.split(":")
    descriptor, board = int(number), int(on_board)
    for one in (descriptor, board):
        os.set_inheritable(one, False)
    _dump_signal.direct("supervisor", board)
    faulthandler.enable(board)
    _die_with(int(parent))
    pipe = _Pipe(descriptor, _identity(descriptor))
    _lives.remember(_read_ends(board), float(stall), pipe.tell)
    pipe.beat()  # before the program, which may hold the GIL from its first line on
    DaemonThread(lambda: _beat(pipe, float(every)), "threadsafe-timeout-heartbeat").start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [int(one) for one in blocked.split(",") if one])


class _Pipe(NamedTuple):
    descriptor: int
    identity: tuple[int, int]

    def beat(self) -> bool:
        """Write a byte; False if the pipe is closed."""
        return self._write(b".")

    def tell(self, what: dict[str, object]) -> None:
        """Write a line, which the supervisor takes up for its summary."""
        self._write(json.dumps(what).encode() + b"\n")

    def _write(self, data: bytes) -> bool:
        """The program may close all descriptors, and its next file then gets the number."""
        try:
            if _identity(self.descriptor) != self.identity:
                return False
            os.write(self.descriptor, data)
        except BlockingIOError:  # it is full: the supervisor has been stopped for long
            pass
        except BrokenPipeError:  # on a system that does not tell of the supervisor's end
            os.kill(os.getpid(), signal.SIGKILL)
        except OSError:
            return False
        return True


def _read_ends(board: int) -> list[_lives.End]:
    """What the supervisor has written: how earlier starts ended."""
    with open(os.dup(board), "rb") as file:
        file.seek(0)
        first = file.readline()
        file.seek(0, os.SEEK_END)  # the two share the place where they write
    return [_lives.End(*fields) for fields in json.loads(first)]


def _identity(descriptor: int) -> tuple[int, int]:
    about = os.fstat(descriptor)
    return about.st_dev, about.st_ino


def _die_with(parent: int) -> None:
    """Have the system kill this process when the supervisor is gone, also while a call of C holds the GIL."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _beat(pipe: _Pipe, every: float) -> None:
    process, pause = os.getpid(), threading.Lock()
    pause.acquire()
    seen: object = None
    while os.getpid() == process:
        now, used = _clock.monotonic(), sum(os.times()[:2])
        places = _places()
        if (places is None or places != seen) and not pipe.beat():
            return
        seen = places
        _clock.wait(pause, every)
        if sum(os.times()[:2]) - used > _BUSY * max(_clock.monotonic() - now, every):
            seen = None


def _places() -> list[tuple[int, int, int]] | None:
    """Where each thread of the program stands: the thread, its frame, the instruction. None if that cannot be known."""
    ours = {threading.get_ident(), *(thread.ident for thread in threading.enumerate() if is_ours(thread))}
    with frames_of_others() as frames:
        places = ((ident, id(frame), frame.f_lasti) for ident, frame in frames.items() if ident not in ours)
        return sorted(places) if frames else None
