"""What is written of a run, and when. Called by one thread at a time.

- The folder is made at the first look. A run that is killed loses a second at most.
- A finished task has a line of its own while it has a note; the others are counted, as `unlisted`.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import Any

from threadsafe_timeout._introspection.secrets import without_known_secrets, without_secrets
from threadsafe_timeout._pool.events import Event
from threadsafe_timeout._record import dump as _dump
from threadsafe_timeout._record import snapshot as _snapshot
from threadsafe_timeout._record.blocks import Blocks
from threadsafe_timeout._record.doing import seconds_in
from threadsafe_timeout._record.folder import RunFolder, start_time
from threadsafe_timeout._record.notes import Notes, TaskNote, journal_path
from threadsafe_timeout._record.pools import Pools
from threadsafe_timeout._record.run_line import run_line
from threadsafe_timeout._scopes import expiry as _expiry
from threadsafe_timeout._timing import clock as _clock

__all__ = ["Recorder"]

_RECENT, _EFFECTIVE, _RATE = 50, 120, 60  # how many events, samples, and seconds, the status looks back
_RUNNING, _ENDED = "running", "ended"


class Recorder:
    """The record of one run. Everything here may raise OSError."""

    def __init__(self, notes: Notes, status_dir: str, keep: int, begun_at: float) -> None:
        self._notes = notes
        self._pools = Pools()
        self._blocks = Blocks()
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._effective: deque[int] = deque(maxlen=_EFFECTIVE)
        self._finished: deque[tuple[float, int]] = deque(maxlen=_RATE)
        self._folder = RunFolder(status_dir, keep)
        self.folder = str(self._folder.path)
        self._first = run_line(self._folder.path.name, begun_at)
        self._start_time = start_time(self._first["pid"])
        self._begun = False
        self._saved = 0  # as the last tick says
        self._signal = _dump.register(self._folder.path)

    def look(self) -> bool:
        """Write what is new. False if nothing is, and nothing runs: until there is news, there is nothing to do."""
        return self._write(_RUNNING)

    def end(self, how: str, code: int | None) -> None:
        """Write what is left, and that the run is over."""
        self._write(_ENDED, {"how": how, "exit": code})

    def close(self) -> None:
        """Write no more."""
        _dump.unregister()
        self._folder.close()

    def let_go(self) -> None:
        """Nobody looks until there is news."""
        self._pools.let_go()

    def has_news(self) -> bool:
        """Whether a pool got a task since `look`."""
        return self._pools.have_news(_snapshot.all_crews())

    def _write(self, state: str, end: dict[str, Any] | None = None) -> bool:
        now = _clock.wall_time()
        self._first["journal"] = self._first["journal"] or self._notes.journal or journal_path()
        news = self._news()
        widths, changed = self._pools.look([*_taken(self._notes.crews), *_snapshot.all_crews()])
        lines: list[dict[str, Any]] = [] if self._begun else [self._first]
        lines += [{"kind": "pool", "t": now, "pool": name, "width": width} for name, width in widths.items()] + news
        totals = _snapshot.totals(self._pools.lines) | {"saved": self._notes.results.total()}
        if changed or totals["saved"] != self._saved:
            self._saved = totals["saved"]
            lines.append({"kind": "tick", "t": now, "pools": changed, "saved": self._saved})
        if blocks := _expiry.passed():
            totals["scopes"] = blocks
        if end is not None:
            lines.append({"kind": "end", "t": now, **end, "totals": totals, "took": now - self._first["t"]})
        if lines:
            self._folder.append(lines)
            self._begun = True
            self._recent += [line for line in lines if line["kind"] not in ("run", "tick")][-_RECENT:]
        self._note_rate(now, totals)
        busy = bool(lines or totals["running"] or totals["pending"] or self._blocks.busy())
        if busy:
            self._folder.put_status(self._status(state, now, totals))
        _dump.serve(self._folder.path)
        return busy

    def _news(self) -> list[dict[str, Any]]:
        lines = [_event_line(t, event) for t, event in _taken(self._notes.events)]
        for note in self._notes.take_tasks():
            name = self._pools.name(note.pool)
            self._pools.listed[name] += 1
            lines.append(_task_line(note, name))
        lines += ({name: value for name, value in line.items() if value is not None} for line in self._blocks.lines())
        return lines

    def _note_rate(self, now: float, totals: dict[str, int]) -> None:
        while self._finished and self._finished[0][0] < now - _RATE:
            self._finished.popleft()
        self._finished.append((now, sum(totals[name] for name in ("done", "failed", "timed_out", "cancelled"))))
        self._effective.append(sum(pool.get("effective", 0) for pool in self._pools.lines.values()))

    def _rate(self) -> float:
        (began, before), (now, done) = self._finished[0], self._finished[-1]
        return (done - before) / (now - began) if now > began else 0.0

    def _status(self, state: str, now: float, totals: dict[str, int]) -> dict[str, Any]:
        first = self._first
        crews = list(self._pools.held) if state == _RUNNING else []
        return {
            "schema": first["schema"], "run": first["run"], "pid": first["pid"], "start_time": self._start_time,
            "t": now, "started": first["t"], "state": state, "program": first["program"], "cwd": first["cwd"],
            "argv": first["argv"], "resume": first["resume"], "journal": first["journal"],
            "settings": first["settings"], "dump_signal": _dump.dump_signal() if self._signal is not None else None,
            "totals": totals, "rate": self._rate(),
            "pools": [{"pool": name, **line} for name, line in self._pools.lines.items() if line],
            "workers": [line for crew in crews for line in _snapshot.worker_lines(crew, now)],
            "effective": list(self._effective), "recent": list(self._recent),
        }  # fmt: skip


def _taken(notes: deque[Any]) -> list[Any]:
    """What is there now; others go on appending."""
    return [notes.popleft() for _ in range(len(notes))]


def _name(value: Any) -> Any:
    return _known(value) if isinstance(value, str) else value


_known = functools.lru_cache(1000)(without_known_secrets)  # workers and pools: the same ones again and again


def _task_line(note: TaskNote, pool: str) -> dict[str, Any]:
    line: dict[str, Any] = {
        "kind": "task", "t": round(note.t, 6), "start": round(note.t - note.took, 6), "took": round(note.took, 6),
        "pool": pool, "worker": _name(note.worker), "task": _name(note.task), "key": _name(note.key),
        "outcome": note.outcome, "deadline": note.limit, "saved": note.saved or None, "error": note.error,
        "where": note.where,
    }  # fmt: skip
    if (doing := note.doing) is not None:
        line |= {"calls": doing.calls or None, "attempts": doing.attempts or None}
    if doing is not None or note.seen is not None:
        spent = seconds_in(note.took, doing, note.seen)
        line["phases"] = {kind: round(seconds, 6) for kind, seconds in spent.items()} or None
    return {name: value for name, value in line.items() if value is not None}


def _event_line(t: float, event: Event) -> dict[str, Any]:
    line: dict[str, Any] = {
        "kind": event.kind, "t": t, "pool": _name(event.pool), "task": _name(event.task), "key": _name(event.key),
        "worker": _name(event.worker), "elapsed": event.elapsed,
        "reason": event.reason and without_secrets(event.reason), "where": event.where,
    }  # fmt: skip
    if event.kind == "loop":
        kind, _, detail = (event.reason or "").partition(": ")
        line |= {"loop": kind, "detail": without_secrets(detail), "action": "stop"}
    if event.pids:
        line["pids"] = list(event.pids)
    return {name: value for name, value in line.items() if value is not None}
