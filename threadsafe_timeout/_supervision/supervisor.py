"""One supervised run: start the program, watch it, end it when it stalls, start it again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from threadsafe_timeout._processes import tree
from threadsafe_timeout._processes.lives import End
from threadsafe_timeout._startup import launch
from threadsafe_timeout._supervision import threads
from threadsafe_timeout._supervision.board import Board
from threadsafe_timeout._supervision.heart import Heart
from threadsafe_timeout._timing import clock as _clock

__all__ = ["Limits", "Supervisor", "die_like"]

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_AGAIN = 75  # what `on_exhausted="exit"` exits with
_LOOKS = 8  # in the time after which the program counts as stalled
_LONGEST_PAUSE = 60.0
_TICK = 0.1
_APART = 1.0  # seconds between two looks at the threads of a program that has stalled
_WRITES = 0.5  # seconds between two looks at what it writes of them
# By these a program is ended because of what it does; SIGKILL is how the system ends one that takes all memory.
_OWN_FAULT = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGKILL})
_NAMED = 10  # poison tasks in the summary

Why = Literal["ended", "again", "stalled", "memory", "crashed"]


@dataclass(frozen=True)
class Limits:
    """Durations are seconds."""

    stall: float = 300.0
    grace: float = 10.0
    restarts: int = 5
    memory: int | None = None  # bytes resident, of the program with its descendants


class _End(NamedTuple):
    why: Why
    status: int  # as `Popen.returncode` has it


@dataclass
class _Start:
    """One start of the program."""

    process: subprocess.Popen[bytes]
    heart: Heart
    board: Board
    end: End  # what the next start is told, should this one end badly


@dataclass
class Supervisor:
    program: Sequence[str]
    environ: Mapping[str, str]
    limits: Limits
    say: Callable[[str], object]
    _stopping: bool = False  # a signal to end was forwarded: what ends after it is not started again
    _ends: list[_End] = field(default_factory=list)
    _ours: frozenset[int] = frozenset()  # the signals that are blocked because of us
    _bad: list[End] = field(default_factory=list)  # what the next start is told of those before it
    _poison: dict[str, str | None] = field(default_factory=dict)  # the tasks that it says it does not run: key and name

    def run(self) -> int:
        """Run the program until it ends by itself or may not be started again; its status, as `Popen` has it."""
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        self._ours = frozenset(_FORWARDED) - previous
        try:
            while True:
                end = self._run_once()
                self._ends.append(end)
                if end.why == "ended" or self._stopping:
                    return self._finished(end)
                if len(self._ends) > self.limits.restarts:
                    self.say(f"not started again: it was restarted {self.limits.restarts} times")
                    return self._finished(end)
                self._pause(end)
                if self._stopping:
                    return self._finished(end)
        finally:
            while signal.sigtimedwait(_FORWARDED, 0) is not None:
                pass  # they were the program's
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _finished(self, end: _End) -> int:
        if len(self._ends) > 1 or end.why != "ended" or self._poison:
            parts = [f"{name} {number}" for name in ("stalled", "crashed", "memory", "again")
                     if (number := sum(one.why == name for one in self._ends))]  # fmt: skip
            poison = f"; poison {len(self._poison)}: {self._named()}" if self._poison else ""
            told = "".join(f"; {part}" for part in [", ".join(parts)] if part)
            self.say(f"summary: {len(self._ends)} starts{told}{poison}; last exit status {end.status}")
        return end.status

    def _named(self) -> str:
        names = [key if name in (None, key) else f"{name} ({key})" for key, name in self._poison.items()]
        return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

    def _run_once(self) -> _End:
        every = self.limits.stall / _LOOKS
        start = self._begin(every)
        process = start.process
        try:
            why = self._watch(start, every)
            if why is not None:
                self._end(start, why)
            status = process.wait()
            start.board.pass_on()
            self._forward(process)  # Ctrl-C reaches both at once, and it may have ended before we looked
            start.heart.listen_to_the_end()
            end = self._verdict(status, why)
            self._remember(start, end)
            return end
        finally:
            if process.poll() is None:
                tree.kill_tree(process.pid)
                process.wait()
            start.board.close()
            os.close(start.heart.reading)

    def _begin(self, every: float) -> _Start:
        board = Board(self._bad)
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        os.set_blocking(writing, False)
        blocked = ",".join(str(int(number)) for number in sorted(self._ours))
        heart = f"{writing}:{every}:{os.getpid()}:{blocked}:{board.descriptor}:{self.limits.stall}"
        since = _clock.wall_time()
        try:
            process = subprocess.Popen(
                launch.command(self.program), env={**self.environ, launch.HEART: heart},
                pass_fds=[writing, board.descriptor],
            )  # fmt: skip
        except BaseException:
            os.close(reading)
            board.close()
            raise
        finally:
            os.close(writing)
        return _Start(process, Heart(reading, self.limits.stall), board, End(process.pid, since, since, ""))

    def _remember(self, start: _Start, end: _End) -> None:
        """Have the next start know of this one, if it was ended by what it did; and the summary of its poison tasks."""
        for told in start.heart.told:
            if "poison" in told:
                self._poison[told["poison"]] = told.get("name") or self._poison.get(told["poison"])
        if end.why == "crashed" and -end.status in _OWN_FAULT:
            stacks = start.board.since_mark()
            start.end = start.end._replace(
                until=_clock.wall_time(), how=f"it was killed by {_name(-end.status)}",
                crashed=threads.crashed_thread(stacks), resting=threads.resting(stacks),
            )  # fmt: skip
        if start.end.how:
            self._bad.append(start.end)

    def _verdict(self, status: int, why: Why | None) -> _End:
        if why is not None:
            return _End(why, status)
        if status == _AGAIN:
            self.say(f"it asked to be started again (exit status {_AGAIN})")
            return _End("again", status)
        if status < 0 and not self._stopping:
            self.say(f"it was killed by {_name(-status)}")
            return _End("crashed", status)
        return _End("ended", status)

    def _watch(self, start: _Start, every: float) -> Why | None:
        """Until it ends (None), or has to be ended."""
        process, heart, deaf = start.process, start.heart, False
        while process.poll() is None:
            self._forward(process)
            start.board.pass_on()
            if heart.hears:
                heart.listen(min(every, _TICK))
            else:
                self._take_signal(process, _TICK)
                heart.listen(0)
            if heart.stalled and _is_stopped(process.pid):
                heart.forgive()
            elif heart.stalled and heart.hears:
                self.say(f"no thread has moved for {self.limits.stall:g} s: it waits for ever, or a call of C "
                         "holds the interpreter. Where it stands:")
                return "stalled"
            elif heart.stalled and not deaf:
                deaf = True
                self.say("it has closed its pipe to the supervisor, or runs another program in its place: "
                         "whether it stalls is not seen from here on")
            if self.limits.memory is not None and _resident(process.pid) > self.limits.memory:
                self.say(f"it holds more than {self.limits.memory >> 20} MiB of memory. Where it stands:")
                return "memory"
        return None

    def _forward(self, process: subprocess.Popen[bytes]) -> None:
        while self._take_signal(process, 0):
            pass

    def _take_signal(self, process: subprocess.Popen[bytes] | None, timeout: float) -> bool:
        info = signal.sigtimedwait(_FORWARDED, timeout)
        if info is None:
            return False
        if info.si_signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._stopping = True
        if process is not None and info.si_code <= 0:  # from a terminal the program has had it already
            process.send_signal(info.si_signo)
        return True

    def _end(self, start: _Start, why: Why) -> None:
        """Its stacks, SIGTERM, and SIGKILL when its time is over; then what it has left."""
        process, now = start.process, _clock.wall_time()
        how = "it stalled" if why == "stalled" else "it took too much memory"
        start.end = start.end._replace(until=now, how=how)
        if why == "stalled":
            start.end = self._look_at_threads(process, start.end)
        known = tree.descendants(process.pid)
        start.board.mark()
        process.send_signal(signal.SIGURG)
        until = _clock.monotonic() + self.limits.grace
        while tree.is_pending(process.pid, signal.SIGURG) and _clock.monotonic() < until:  # SIGTERM would overtake it
            self._take_signal(process, _TICK)
        self._await_stacks(start)
        if start.end.held:
            start.end = start.end._replace(resting=threads.resting(start.board.since_mark()))
        start.board.pass_on()
        if why == "stalled" or process.poll() is None:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=self.limits.grace)
        if process.poll() is None:
            self.say(f"it did not end {self.limits.grace:g} s after SIGTERM: SIGKILL")
            tree.kill_tree(process.pid)
        for pid, started in known:
            tree.kill_tree(pid, started=started)

    def _await_stacks(self, start: _Start) -> None:
        """faulthandler writes: until something is there, and no more has come since the last look."""
        seen, until = "", _clock.monotonic() + self.limits.grace
        while not seen or start.board.since_mark() != seen:
            seen = start.board.since_mark()
            left = until - _clock.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                start.process.wait(timeout=min(_WRITES, left))
                return

    def _look_at_threads(self, process: subprocess.Popen[bytes], end: End) -> End:
        begun, before = _clock.monotonic(), threads.sample(process.pid)
        while (left := begun + _APART - _clock.monotonic()) > 0:
            self._take_signal(process, left)
        return threads.of_samples(end, before, threads.sample(process.pid), _clock.monotonic() - begun)

    def _pause(self, end: _End) -> None:
        pause = 0.0 if end.why == "again" else min(2.0 ** (len(self._ends) - 1), _LONGEST_PAUSE)
        when = f"in {pause:g} s" if pause else "at once"
        self.say(f"starting it again {when} ({len(self._ends)} of {self.limits.restarts} restarts)")
        until = _clock.monotonic() + pause
        while not self._stopping and (left := until - _clock.monotonic()) > 0:
            self._take_signal(None, left)


def _is_stopped(pid: int) -> bool:
    """By SIGSTOP or a debugger."""
    found = tree.status(pid)
    return found is not None and found.state in "Tt"


def _resident(pid: int) -> int:
    """Bytes that a process and its descendants hold in memory; what they share is counted for each."""
    pages = 0
    for each in [pid, *(child for child, _ in tree.descendants(pid))]:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{each}/statm", "rb") as file:
            pages += int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def die_like(status: int) -> int:
    """End as the program did: by the same signal, if it was one; else return the exit status."""
    if status >= 0:
        return status
    sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    return 128 - status
