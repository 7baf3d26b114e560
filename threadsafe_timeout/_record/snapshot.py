"""What the pools and their workers are doing, as plain data: for the status, and for the events of each second."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from threadsafe_timeout._introspection.frames import frames_of_others, place_of_frame
from threadsafe_timeout._introspection.secrets import without_known_secrets
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.crew import Crew
from threadsafe_timeout._pool.health import WorkerHealth, health_of
from threadsafe_timeout._record.at_work import async_crews
from threadsafe_timeout._record.doing import doing_of, note_seen
from threadsafe_timeout._record.phases import phase_of_coroutine, phase_of_thread
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from typing import TypeAlias

    from threadsafe_timeout._pool.telling import Away
    from threadsafe_timeout._pool.worker import Worker
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_slots import Slot

    AnyCrew: TypeAlias = Crew | AsyncCrew

__all__ = ["MOST_COROUTINES", "all_crews", "pool_line", "totals", "worker_lines"]

_RUNGS = {"idle": 0, "running": 0, "overdue": 1, "interrupting": 2, "abandoned": 3}
_QUIET = 5.0  # seconds without progress, after which the stack is worth its room
_MOST_FRAMES = 30
MOST_COROUTINES = 500  # of a pool: a run with more has their counts


class _Seen(NamedTuple):
    """A worker, or a coroutine in its slot. What it is in: as it says itself, with the seconds since then; or None."""

    health: WorkerHealth
    worker: Worker | Slot | None
    noted: tuple[str, float] | None
    stack: list[Place]
    told: str  # what it is in by its stack


def all_crews() -> list[AnyCrew]:
    """The pools that have been given tasks, in the order of their names; not the library's own."""
    known: list[AnyCrew] = [*_exit.all_crews(), *async_crews()]
    return sorted((crew for crew in known if crew.submitted and not crew.inner), key=lambda crew: crew.prefix)


def pool_line(crew: AnyCrew) -> dict[str, int]:
    return {**crew.stats(), "width": crew.width, "effective": crew.effective()}


def totals(pools: dict[str, dict[str, int]]) -> dict[str, int]:
    """The counts of all pools together. (What fails in time is not what times out.)"""
    def add(name: str) -> int:
        return sum(pool.get(name, 0) for pool in pools.values())

    timed_out, abandoned = add("timed_out"), add("abandoned")
    return {
        "submitted": add("submitted"), "done": add("completed"),
        "failed": max(0, add("failed") + abandoned - timed_out), "timed_out": timed_out, "loops": add("loops"),
        "abandoned": abandoned, "cancelled": add("cancelled"),
        "pending": add("pending"), "running": add("running"),
    }  # fmt: skip


def worker_lines(crew: AnyCrew, now: float) -> list[dict[str, Any]]:
    """Each worker, and what it is in; `now` is in seconds since the epoch. Of a pool of coroutines, each task that has
    a slot."""
    lines = []
    for one in _threads(crew) if isinstance(crew, Crew) else _coroutines(crew):
        if one.noted is None and one.worker is not None and one.health.state != "idle":
            note_seen(one.worker, one.told if one.health.state == "running" else "stuck")
        lines.append(_worker_line(crew, one, now))
    return lines


def _threads(crew: Crew) -> list[_Seen]:
    with crew.lock:
        known = {worker.thread.name: worker for worker in (*crew.workers, *list(crew.abandoned))}
        phases = {name: _noted_phase(worker) for name, worker in known.items()}
    idents = {name: worker.thread.ident or -1 for name, worker in known.items()}
    workers = health_of(crew).workers
    busy = [idents[one.worker] for one in workers if one.state != "idle" and one.worker in idents]
    stacks: dict[int, list[Place]] = {}
    if busy:
        with frames_of_others(*busy) as frames:
            for ident in busy:
                stacks[ident] = _stack(frames.get(ident))
    found = []
    for one in workers:
        stack = stacks.get(idents.get(one.worker, -1), [])
        away = _away(known.get(one.worker))
        stack = stack if away is None else away.frames
        told = "process" if away is not None and not stack else phase_of_thread(stack)
        found.append(_Seen(one, known.get(one.worker), phases.get(one.worker), stack, told))
    return found


def _away(worker: Worker | None) -> Away | None:
    """The process of its task, if that has one."""
    task = worker.task if worker is not None else None
    return task._away if task is not None else None


def _coroutines(crew: AsyncCrew) -> list[_Seen]:
    return [
        _Seen(one.health, one.slot, _noted_phase(one.slot), one.stack,
              phase_of_coroutine(one.stack) if one.suspended else phase_of_thread(one.stack))
        for one in crew.look(MOST_COROUTINES)
    ]  # fmt: skip


def _noted_phase(worker: Worker | Slot) -> tuple[str, float] | None:
    """What it says itself that it is in, and for how many seconds."""
    doing = doing_of(worker, worker.task)
    phase = doing.phase() if doing is not None else None
    return (phase[0], max(0.0, _clock.monotonic() - phase[1])) if phase is not None else None


def _worker_line(crew: AnyCrew, seen: _Seen, now: float) -> dict[str, Any]:
    one = seen.health
    line: dict[str, Any] = {
        "pool": _name(crew.prefix), "worker": _name(one.worker), "state": one.state, "rung": _RUNGS[one.state],
    }  # fmt: skip
    if one.state == "idle":
        return line
    quiet = one.last_progress if one.last_progress is not None else one.elapsed or 0.0
    words, since = seen.noted or (seen.told, quiet)
    line |= {
        "task": _name(one.task), "key": _name(one.key), "phase": words, "started": one.started,
        "elapsed": one.elapsed, "deadline_left": one.deadline_left, "idle": quiet, "phase_since": now - since,
        "where": one.where,
    }  # fmt: skip
    if one.state != "running" or quiet > _QUIET:
        line["stack"] = seen.stack
    return {name: value for name, value in line.items() if value is not None}


def _name(value: Any) -> Any:
    return without_known_secrets(value) if isinstance(value, str) else value


def _stack(frame: FrameType | None) -> list[Place]:
    """The innermost frames, the innermost last, without the values of variables."""
    found: list[Place] = []
    while frame is not None and len(found) < _MOST_FRAMES:
        found.append(place_of_frame(frame))
        frame = frame.f_back
    return found[::-1]
