"""What becomes of a worker that goes home, dies or gets stuck, and of the task in its hand.

- One that is stuck is *abandoned*: its task is claimed, failed and settled by another, its slot is filled again, unless
  too many such threads are alive. It never takes work again, and a late outcome is told but given to nobody.
- One whose loop dies of a stray exception leaves its task to its successor: to be begun, if it was not; else to fail.

The timer thread, at which nothing is thrown, does both. What takes its time (to save an outcome may take an fsync) it
leaves to the newcomer, which settles first: see `settling`.
"""

from __future__ import annotations

import functools
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from threadsafe_timeout._errors import DeadlineExceeded, PoolExhausted
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.events import Event, describe
from threadsafe_timeout._pool.future import PENDING
from threadsafe_timeout._pool.ladder import end_processes
from threadsafe_timeout._pool.options import Outcome
from threadsafe_timeout._pool.settling import is_settled_soon, settle_all, settle_owed
from threadsafe_timeout._pool.task import TaskFuture, fail_pending, pass_over
from threadsafe_timeout._pool.telling import event_of, never_started
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.worker import Worker
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["abandon", "fail_soon", "late", "report_death", "worker_gone", "worker_left"]


def abandon(crew: Crew, task: TaskFuture) -> None:
    """Give up on the thread that runs `task`: fail the task, refill the slot. Called by the timer thread."""
    event = event_of(task, "abandoned")
    call, scope, worker = task._call, task._scope, crew.worker_of(task)
    with crew.lock:
        if worker is None or not task.claim():
            return
        crew.giving_up += 1
    try:
        if call is not None and scope is not None:
            _shield.fence(scope, call[0])
            end_processes(task, scope, all_of_them=True)
        error = _give_up(crew, worker, task, scope, event)
    finally:
        with crew.lock:  # not before: `join`, and with it the exit of the process, waits for what is settled here
            crew.giving_up -= 1
            crew._gone.notify_all()
    crew.events.tell()
    if error is not None and crew.on_exhausted == "exit":
        _exit.leave(crew)


def _give_up(
    crew: Crew, worker: Worker, task: TaskFuture, scope: CancelScope | None, event: Event
) -> PoolExhausted | None:
    """Replace the thread of a task that was claimed; an error if too many such threads are alive now."""
    outcome = task.timed_out_outcome(event.where)
    with crew.lock:
        if worker in crew.workers:  # else it has ended just now, too late, and is gone
            crew._take_counts(worker)
            crew.workers.discard(worker)
            crew.abandoned.add(worker)
        worker.abandoned = True
        worker.stuck_in, worker.stuck_scope = event, scope
        crew.counts.given_up += 1
        crew.counts.timed_out += 1
        worker.hand.clear()
        _owe(crew, task, outcome)
        error = crew._exhausted()
        # Put before the future is done: the event comes before the end of any wait for it.
        crew.events.put(
            logging.WARNING,
            f"task {describe(event.task or '', event.key)} was given up after {event.elapsed:.1f} s; its thread "
            f"{shown(event.worker)} is stuck here and was replaced:\n{event.stack}", event,
        )  # fmt: skip
        if error is not None:
            crew.events.put(logging.ERROR, str(error), Event("exhausted", crew.prefix, error=error))
        settled = _replace(crew, error)
    if not settled:
        settle_all(crew)  # no thread to be had: late deadlines are better than a future that never resolves
    return error


def _replace(crew: Crew, exhausted: PoolExhausted | None) -> bool:
    """Fill the slot of an abandoned worker; False if there is no thread to be had. The caller holds `lock`.

    The new worker first settles outcomes: that may take an fsync, which the timer thread has no time for. Past the
    bound it does only that, as a member of the crew so that join() waits for it.
    """
    if exhausted is not None and not crew.takers():
        for task in crew._drain():
            if task.claim(PENDING):
                crew.counts.failed += 1
                _owe(crew, task, Outcome(error=exhausted))
            else:
                pass_over(task)
    try:
        crew._start_worker(settle_owed, retire=exhausted is not None or crew.takers() >= crew.width)
    except RuntimeError:
        return False
    crew.replaced += exhausted is None
    return True


def fail_soon(crew: Crew, task: TaskFuture, error: BaseException) -> None:
    """Fail a task if it is still pending, in a thread that has the time."""
    with crew.lock:
        if not task.claim(PENDING):
            return
        crew.counts.failed += 1
        if isinstance(error, DeadlineExceeded):
            crew.counts.timed_out += 1
            never_started(task, error)
        _owe(crew, task, Outcome(error=error))
        settled = is_settled_soon(crew)
        with suppress(RuntimeError):
            if not settled:
                crew._start_worker(settle_owed, retire=True)
                settled = True
    crew.events.tell()
    if not settled:
        settle_all(crew)


def _owe(crew: Crew, task: TaskFuture, outcome: Outcome) -> None:
    """Have a claimed task settled by a worker that finds the time. The caller holds `lock`."""
    task.owe(outcome)
    crew.owed.append(task)


def late(crew: Crew, worker: Worker, task: TaskFuture, outcome: Outcome) -> None:
    """The task of an abandoned worker ended after all."""
    with crew.lock:
        crew.late_outcomes += 1
    what = "a result" if outcome.error is None else type(outcome.error).__name__
    stuck_in = worker.stuck_in
    key = stuck_in.key if stuck_in is not None else None
    name = task._task_name()
    crew.events.put(
        logging.WARNING,
        f"abandoned task {describe(name, key)} ended after all, with {what}; its outcome was already reported as a "
        "timeout, so this one is not counted",
        Event("late", crew.prefix, name, key, worker.thread.name, task.elapsed(), outcome=outcome),
    )  # fmt: skip
    crew.events.tell_here()


def worker_left(crew: Crew, worker: Worker) -> None:
    with crew.lock:
        crew._forget(worker)
        crew._gone.notify_all()
    if worker.abandoned and crew.tasks:
        _timer.call_later(0, functools.partial(_refill, crew))  # by a thread at which nothing is thrown


def worker_gone(crew: Crew, worker: Worker) -> None:
    """Its thread is at its very end, or was not to be had."""
    ident = worker.thread.ident
    if ident is not None and _around.workers.get(ident) is worker:
        del _around.workers[ident]
    with crew.lock:
        missed = worker in crew.workers or worker in crew.abandoned
        crew._gone.notify_all()
    if missed:
        report_death(crew, worker, RuntimeError("something that was thrown at its thread as it began or ended"))


def report_death(crew: Crew, worker: Worker, exc: BaseException) -> None:
    """A stray exception ended a worker's loop. Another may strike here, and then `worker_gone` calls this again; so
    the rest is done by a thread at which nothing is thrown."""
    _timer.call_later(0, functools.partial(_worker_died, crew, worker, exc))


def _worker_died(crew: Crew, worker: Worker, exc: BaseException) -> None:
    """Hand on its task, keep the width. Called by the timer thread."""
    with crew.lock:
        if worker not in crew.workers and worker not in crew.abandoned:
            return
        _hand_on(crew, worker, exc)
        crew._forget(worker)
        crew.respawned += 1
        replaced = _succeed(crew, worker)
        if worker.abandoned:
            _refill(crew)
        # Put before the worker is forgotten: the event comes before the end of any wait for the pool.
        crew.events.put(
            logging.ERROR, f"a worker of pool {shown(crew.prefix)} died of {shown(repr(exc))} and was replaced",
            Event("respawned", crew.prefix, worker=worker.thread.name, error=exc),
        )  # fmt: skip
        crew._gone.notify_all()
    crew.events.tell()
    if not replaced:
        settle_all(crew)
        if not crew.takers():
            for other in crew._drain():
                fail_pending(other, RuntimeError("the pool has lost its threads and could not start another"))


def _hand_on(crew: Crew, worker: Worker, exc: BaseException) -> None:
    """What becomes of the task that a worker died with. The caller holds `lock`."""
    task = worker.task
    if task is None:
        return
    if worker not in crew.settling:
        if not task._claimed and not task.begun():
            crew.tasks.appendleft(task)  # its successor begins it
            return
        if not task.owned():
            return  # the thread that has given it up settles it
        if task.done() and task.exception() is None:  # a callback of its future raised what ends a thread
            crew.counts.completed += 1
        else:
            crew.counts.failed += 1
    _owe(crew, task, Outcome(error=exc))


def _succeed(crew: Crew, worker: Worker) -> bool:
    """Start who takes the place of a worker that died; False if there is no thread to be had. The caller holds
    `lock`."""
    first = settle_owed if crew.owed and not is_settled_soon(crew) else None
    try:
        if (crew.tasks and not crew.takers()) or not (worker.abandoned or worker.retire or crew.closed):
            crew._start_worker(first)
            crew.replaced += 1
        elif first is not None:
            crew._start_worker(first, retire=True)
    except RuntimeError:
        return False
    return True


def _refill(crew: Crew) -> None:
    """Past `max_abandoned` slots stay empty. Now that an abandoned thread has ended they may be filled again, if
    there is work for them."""
    with crew.lock:
        while crew.tasks and crew.takers() < crew.width and crew.abandoned_alive() <= crew.max_abandoned:
            try:
                crew._start_worker()
            except RuntimeError:
                break
            if len(crew.starting) >= len(crew.tasks):
                break
