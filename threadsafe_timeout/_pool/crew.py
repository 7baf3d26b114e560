"""The crew of a pool: its queue, its threads, and what happens to one that gets stuck.

Guarantees:

- The crew keeps its width. A worker that is abandoned is replaced at once, unless `max_abandoned` abandoned threads
  are alive; a worker whose loop dies of a stray exception is replaced, and its task's future fails.
- No task is lost to stray exceptions, wherever they strike: it is in one place at any time (the queue, the hand of one
  worker, what is owed) and goes from one to the next within one call of C, where no exception can strike. A worker that
  dies leaves its task to its successor; the timer thread, at which nothing is thrown, sees to both.
- An abandoned worker never takes work again, its late outcome is told but never given to the future, and every
  cooperative point and patched call it comes to raises, shielded or not.
- Threads are daemons and join nothing at interpreter exit: `exit` waits for the tasks that are healthy.

Workers hold the crew, never the executor, so an executor that nobody refers to is collected and its crew sent home.

Waking a thread costs more than a small task does, and a woken thread waits for the interpreter. So at most one worker
is on its way from the idle ones at any time; one that arrives and leaves tasks behind wakes the next.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from itertools import islice
from typing import Any

from threadsafe_timeout._errors import DeadlineExceeded, PoolExhausted
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.events import Event, Events, describe, full_name
from threadsafe_timeout._pool.future import LOGGER, PENDING
from threadsafe_timeout._pool.task import (
    Outcome,
    TaskFuture,
    cancelled_while_pending,
    fail_pending,
    pass_over,
    thread_position,
)
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._timing.daemon_thread import DaemonThread, release

__all__ = ["Crew", "Worker"]

logger = logging.getLogger("threadsafe_timeout")
_TELLING = 2.0  # seconds a pool that is left gives its log handlers and callbacks to hear the last of it


class Worker:
    """One thread of the crew."""

    __slots__ = (
        "__weakref__", "abandoned", "completed", "crew", "failed", "first", "hand", "retire", "source", "stuck_in",
        "stuck_scope", "thread", "timed_out", "wake",
    )  # fmt: skip

    def __init__(
        self, crew: Crew, name: str, first: Callable[[Worker], object] | None = None, retire: bool = False
    ) -> None:
        self.crew = crew
        self.first = first  # what to do before taking work
        self.retire = retire  # take none
        self.wake = threading.Lock()  # held while there is nothing to wake for
        self.wake.acquire()
        self.hand: deque[TaskFuture] = deque()  # the task it has taken, or none
        self.source = _drawn(crew.tasks)
        self.completed = self.failed = self.timed_out = 0  # written by its own thread; the last are of the failed
        self.abandoned = False  # guarded by crew.lock
        self.stuck_in: Event | None = None  # what it was abandoned in
        self.stuck_scope: _scope.CancelScope | None = None
        self.thread = DaemonThread(self._main, name, functools.partial(crew.worker_gone, self))

    def scope_in_force(self) -> _scope.CancelScope | None:
        """The scope of the task it runs, or was given up in."""
        task = self.task
        return task._scope if task is not None else self.stuck_scope

    @property
    def task(self) -> TaskFuture | None:
        """The task it has taken, for who looks on."""
        try:
            return self.hand[0]
        except IndexError:
            return None

    def _main(self) -> None:
        crew = self.crew
        _scope.workers[threading.get_ident()] = self
        try:
            if not crew.admit(self):
                return
            if self.first is not None:
                self.first(self)
                self.first = None
            if not self.retire and crew.initialize():
                self._loop()
        except BaseException as exc:
            # Nothing in the loop raises; what arrives here was thrown at this thread from outside.
            crew.report_death(self, exc)
        else:
            crew.worker_left(self)

    def _loop(self) -> None:
        crew, hand = self.crew, self.hand
        task = crew.next_task(self)
        while task is not None:
            result, error = task.run()
            if not task.end(result, error):
                crew.late(self, task, Outcome(result, error))
                return
            if error is None:
                self.completed += 1
            else:
                self.failed += 1
                if isinstance(error, DeadlineExceeded):
                    self.timed_out += 1
            task = result = error = None  # an idle worker must not hold the last one
            hand.pop()
            task = crew.take(self) or crew.next_task(self)


class Crew:
    """The queue and the threads behind one executor."""

    def __init__(
        self,
        *,
        width: int,
        prefix: str,
        grace: float,
        max_abandoned: int,
        on_exhausted: str,
        catchable: bool,
        on_expired_wait: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self.width = width
        self.prefix = prefix
        self.grace = grace
        self.max_abandoned = max_abandoned
        self.on_exhausted = on_exhausted
        self.catchable = catchable  # whether the handlers of its tasks see their deadline first
        self.on_expired_wait = on_expired_wait
        self.events = Events(prefix)
        self.awaited_at_exit = True  # whether the exit of the interpreter waits for its healthy tasks
        self._initializer = initializer
        self._initargs = initargs
        self._make_locks()
        self.tasks: deque[TaskFuture] = deque()  # put in under lock, taken out without
        # All guarded by lock:
        self.workers: set[Worker] = set()
        self.starting: set[Worker] = set()  # those of them that have not come for their first task yet
        self.idle: dict[Worker, None] = {}  # the last to come is the first to go: its caches are warm
        self.woken: Worker | None = None  # the one of them that is on its way
        self.retiring: set[Worker] = set()  # those of them that take no work
        self.settling: set[Worker] = set()  # those that settle what is owed, before anything else
        self.abandoned: weakref.WeakSet[Worker] = weakref.WeakSet()
        self.giving_up = 0  # tasks that are claimed and not owed yet
        self.owed: deque[TaskFuture] = deque()  # claimed by a thread that has no time to settle them
        self.open = not _exit.exiting  # takes tasks
        self.closed = False  # workers go home when there is nothing left to do
        self.interrupted = False  # by Ctrl-C
        self.interrupted_tasks: weakref.WeakSet[TaskFuture] = weakref.WeakSet()  # see _exit.note_interrupted
        self.shut_down = False  # and it was not the interpreter's exit that wanted it
        self.broken: str | None = None
        self._threads_named = 0
        self.submitted = self.completed = self.failed = self.cancelled = self.given_up = 0
        self.timed_out = 0  # of the failed and the given up: those that ended with DeadlineExceeded
        self.late_outcomes = self.respawned = self.replaced = self.loops = 0
        _exit.crews.add(self)

    def _make_locks(self) -> None:
        self.lock = threading.RLock()  # re-entrant: a finaliser may submit or shut down while its thread holds it
        # Notified when a worker leaves `workers`. Always by `with self.lock`: a condition's own `__enter__` is Python
        # code, and what is thrown at a thread at its end leaves the lock held for ever.
        self._gone = threading.Condition(self.lock)

    def not_awaited_at_exit(self) -> None:
        """The exit of the interpreter does not wait for its tasks, and it takes them until the end."""
        self.awaited_at_exit, self.open = False, True

    # Work in

    def submit(self, task: TaskFuture) -> None:
        problem = None
        with self.lock:
            if not self.open:
                self._refuse()
            if self.abandoned:
                self._check_exhausted()
            self.submitted += 1
            self.tasks.append(task)
            if self.idle and self.woken is None:
                self._wake_one()
            if self.takers() < self.width and len(self.tasks) > len(self.idle) + len(self.starting):
                problem = self._start_another()
        if problem is not None:  # without the lock, which a log handler may want
            logger.warning(
                "threadsafe-timeout: pool %s could not start another thread; it goes on with %d",
                shown(self.prefix), self.takers(), exc_info=problem,
            )  # fmt: skip

    def takers(self) -> int:
        """How many workers take work."""
        return len(self.workers) - len(self.retiring)

    def _refuse(self) -> None:
        if self.broken is not None:
            raise BrokenThreadPool(self.broken)
        if self.shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _check_exhausted(self) -> None:
        error = self._exhausted()
        if error is not None:
            raise error

    def _exhausted(self) -> PoolExhausted | None:
        """If more abandoned threads are alive than may be: a `PoolExhausted` that says what holds them, and where.

        Counted once: a thread that ends meanwhile makes no error that says there are too many, and counts too few.
        """
        alive = [worker for worker in list(self.abandoned) if worker.thread.is_alive()]
        if len(alive) <= self.max_abandoned:
            return None
        holders = []
        for worker in alive:
            where, _ = thread_position(worker.thread.ident)
            stuck_in = worker.stuck_in
            name = "?" if stuck_in is None else full_name(stuck_in.task or "?", stuck_in.key)
            holders.append((name, where))
        return PoolExhausted(self.prefix, len(alive), self.max_abandoned, tuple(holders))

    def _wake_one(self) -> None:
        """Wake the worker that came last, if none is on its way. The caller holds `lock`.

        It takes itself off `idle` when it arrives: if something is thrown at this thread here, no worker is forgotten.
        """
        if self.woken is None and self.idle:
            worker = next(reversed(self.idle))
            release(worker.wake)
            self.woken = worker

    def next_task(self, worker: Worker) -> TaskFuture | None:
        """The next task, waiting for one; None when the crew is to go home."""
        while True:
            with self.lock:
                self.starting.discard(worker)
                self.idle.pop(worker, None)
                if self.woken is worker:
                    self.woken = None
                if not self.tasks:
                    if self.closed:
                        return None
                    self.idle[worker] = None
                    if self.closed:  # `orphaned`, which takes no lock, may not have seen this one
                        self.idle.pop(worker, None)
                        return None
            if worker in self.idle:
                worker.wake.acquire()
            else:
                task = self.take(worker)
                if task is not None:
                    return task

    def take(self, worker: Worker) -> TaskFuture | None:
        """A task for `worker` to run, or None. Without the lock, as long as nobody is to be woken.

        With it, workers would stand in line for it: one that is given a lock has to wait for the interpreter next, and
        everybody else for him.
        """
        tasks, hand = self.tasks, worker.hand
        while tasks:
            try:
                # From the queue into the hand within one call, between whose two halves no exception can strike.
                hand.extend(islice(worker.source, 1))
            except IndexError:
                break  # another worker was faster
            task = hand[0]
            if task.begin():
                if tasks and self.idle and self.woken is None:
                    with self.lock:
                        self._wake_one()
                return task
            pass_over(task)
            hand.pop()
        return None

    # Threads in

    def _start_another(self) -> RuntimeError | None:
        """Add a thread, or go on without, and return why; raises that if there is none at all. The caller holds
        `lock`."""
        try:
            self._start_worker()
        except RuntimeError as exc:
            if not self.takers():
                raise
            return exc
        return None

    def _start_worker(self, first: Callable[[Worker], object] | None = None, retire: bool = False) -> None:
        """Add a thread. The caller holds `lock`. Raises RuntimeError if there is none to be had."""
        _timer.start()  # its tasks may outlive the main thread
        worker = Worker(self, f"{self.prefix}_{self._threads_named}", first, retire)
        if not retire and self.takers() >= self.width:  # a finaliser or a signal handler has submitted, in here
            if first is None:
                return
            retire = worker.retire = True
        self._threads_named += 1
        try:
            self.workers.add(worker)
            if retire:
                self.retiring.add(worker)
            (self.starting if first is None else self.settling).add(worker)
            worker.thread.start()
        except BaseException as exc:
            # There is none to be had. Or Ctrl-C, most likely in the wait for the thread to begin, which it then has.
            if isinstance(exc, RuntimeError) or worker.thread.ident is None:
                self._forget(worker)  # if it comes all the same, it is admitted then
            raise

    def admit(self, worker: Worker) -> bool:
        """Whether a thread that begins is wanted."""
        with self.lock:
            if worker not in self.workers and (worker.first is not None or self.takers() < self.width):
                self.workers.add(worker)
                if worker.retire:
                    self.retiring.add(worker)
            return worker in self.workers

    def _forget(self, worker: Worker) -> None:
        """The caller holds `lock`."""
        self.starting.discard(worker)
        self.settling.discard(worker)
        self.abandoned.discard(worker)
        self.idle.pop(worker, None)
        if self.woken is worker:
            self.woken = None
        if self.tasks:
            self._wake_one()  # it may have been on its way to them
        self._take_counts(worker)
        self.workers.discard(worker)  # last: until then `worker_gone` would miss it
        self.retiring.discard(worker)

    def _take_counts(self, worker: Worker) -> None:
        """Those of a worker that does not count any more. The caller holds `lock`."""
        self.completed, self.failed, self.timed_out, worker.completed, worker.failed, worker.timed_out = (
            self.completed + worker.completed, self.failed + worker.failed, self.timed_out + worker.timed_out, 0, 0, 0
        )  # fmt: skip

    def initialize(self) -> bool:
        """Run the pool's initializer in a new worker; False if it failed, which breaks the pool (as ever)."""
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException:
            LOGGER.critical("Exception in initializer:", exc_info=True)  # where the standard pool's goes
            why = "A thread initializer failed, the thread pool is not usable anymore"
            with self.lock:
                self.broken, self.open = why, False
            for task in self._drain():
                fail_pending(task, BrokenThreadPool(why))
            return False
        return True

    def _drain(self) -> Iterator[TaskFuture]:
        """Take what is pending, one by one: if something is raised meanwhile, the rest is still there."""
        while self.tasks:
            try:
                yield self.tasks.popleft()
            except IndexError:
                return  # a worker was faster

    # Threads out

    def worker_left(self, worker: Worker) -> None:
        with self.lock:
            self._forget(worker)
            self._gone.notify_all()
        if worker.abandoned and self.tasks:
            _timer.call_later(0, self._refill)  # by a thread at which nothing is thrown

    def _refill(self) -> None:
        """Past `max_abandoned` slots stay empty. Now that an abandoned thread has ended they may be filled again, if
        there is work for them."""
        with self.lock:
            while self.tasks and self.takers() < self.width and self.abandoned_alive() <= self.max_abandoned:
                try:
                    self._start_worker()
                except RuntimeError:
                    break
                if len(self.starting) >= len(self.tasks):
                    break

    def worker_gone(self, worker: Worker) -> None:
        """Its thread is at its very end, or was not to be had."""
        ident = worker.thread.ident
        if ident is not None and _scope.workers.get(ident) is worker:
            del _scope.workers[ident]
        with self.lock:
            missed = worker in self.workers or worker in self.abandoned
            self._gone.notify_all()
        if missed:
            self.report_death(worker, RuntimeError("something that was thrown at its thread as it began or ended"))

    def report_death(self, worker: Worker, exc: BaseException) -> None:
        """A stray exception ended a worker's loop. Another may strike here, and then `worker_gone` calls this again; so
        the rest is done by a thread at which nothing is thrown."""
        _timer.call_later(0, functools.partial(self._worker_died, worker, exc))

    def _worker_died(self, worker: Worker, exc: BaseException) -> None:
        """Hand on its task, keep the width. Called by the timer thread."""
        with self.lock:
            if worker not in self.workers and worker not in self.abandoned:
                return
            self._hand_on(worker, exc)
            self._forget(worker)
            self.respawned += 1
            replaced = self._succeed(worker)
            if worker.abandoned:
                self._refill()
            # Before anybody can hear that it has left: who has left the pool has been told.
            self.events.put(
                logging.ERROR, f"a worker of pool {shown(self.prefix)} died of {shown(repr(exc))} and was replaced",
                Event("respawned", self.prefix, worker=worker.thread.name, error=exc),
            )  # fmt: skip
            self._gone.notify_all()
        self.events.tell()
        if not replaced:
            settle_all(self)
            if not self.takers():
                for other in self._drain():
                    fail_pending(other, RuntimeError("the pool has lost its threads and could not start another"))

    def _hand_on(self, worker: Worker, exc: BaseException) -> None:
        """What becomes of the task that a worker died with. The caller holds `lock`."""
        task = worker.task
        if task is None:
            return
        if worker not in self.settling:
            if not task._claimed and not task.begun():
                self.tasks.appendleft(task)  # its successor begins it
                return
            if not task.owned():
                return  # who has given it up settles it
            if task.done() and task.exception() is None:  # a callback of its future raised what ends a thread
                self.completed += 1
            else:
                self.failed += 1
        self._owe(task, Outcome(error=exc))

    def _owe(self, task: TaskFuture, outcome: Outcome) -> None:
        """Have a claimed task settled by a worker that finds the time. The caller holds `lock`."""
        task.owe(outcome)
        self.owed.append(task)

    def _succeed(self, worker: Worker) -> bool:
        """Start who takes the place of a worker that died; False if there is no thread to be had. The caller holds
        `lock`."""
        first = settle_owed if self.owed and not self._is_settled_soon() else None
        try:
            if (self.tasks and not self.takers()) or not (worker.abandoned or worker.retire or self.closed):
                self._start_worker(first)
                self.replaced += 1
            elif first is not None:
                self._start_worker(first, retire=True)
        except RuntimeError:
            return False
        return True

    def abandon(self, task: TaskFuture) -> None:
        """Give up on the thread that runs `task`: fail the task, refill the slot. Called by the timer thread."""
        event = task.event("abandoned")
        call, scope, worker = task._call, task._scope, self.worker_of(task)
        with self.lock:
            if worker is None or not task.claim():
                return
            self.giving_up += 1
        try:
            if call is not None and scope is not None:
                _scope.fence(scope, call[0])
                task.end_processes(scope, all_of_them=True)
            error = self._give_up(worker, task, scope, event)
        finally:
            with self.lock:  # not before: `join`, and with it the exit of the process, waits for what is settled here
                self.giving_up -= 1
                self._gone.notify_all()
        self.events.tell()
        if error is not None and self.on_exhausted == "exit":
            _exit.leave(self)

    def _give_up(
        self, worker: Worker, task: TaskFuture, scope: _scope.CancelScope | None, event: Event
    ) -> PoolExhausted | None:
        """Replace the thread of a task that was claimed; an error if too many such threads are alive now."""
        outcome = task.timed_out_outcome()
        with self.lock:
            if worker in self.workers:  # else it has ended just now, too late, and is gone
                self._take_counts(worker)
                self.workers.discard(worker)
                self.abandoned.add(worker)
            worker.abandoned = True
            worker.stuck_in, worker.stuck_scope = event, scope
            self.given_up += 1
            self.timed_out += 1
            worker.hand.clear()
            self._owe(task, outcome)
            error = self._exhausted()
            # Put before anybody can hear of the outcome: who has left the pool has been told.
            self.events.put(
                logging.WARNING,
                f"task {describe(event.task or '', event.key)} was given up after {event.elapsed:.1f} s; its thread "
                f"{shown(event.worker)} is stuck here and was replaced:\n{event.stack}", event,
            )  # fmt: skip
            if error is not None:
                self.events.put(logging.ERROR, str(error), Event("exhausted", self.prefix, error=error))
            settled = self._replace(error)
        if not settled:
            settle_all(self)  # no thread to be had: late deadlines are better than a future that never resolves
        return error

    def _replace(self, exhausted: PoolExhausted | None) -> bool:
        """Fill the slot of an abandoned worker; False if there is no thread to be had. The caller holds `lock`.

        The newcomer first settles what is owed: it may take an fsync, which the timer thread has no time for. Past the
        bound it does only that, as a member of the crew so that join() waits for it.
        """
        if exhausted is not None and not self.takers():
            for task in self._drain():
                if task.claim(PENDING):
                    self.failed += 1
                    self._owe(task, Outcome(error=exhausted))
                else:
                    pass_over(task)
        try:
            self._start_worker(settle_owed, retire=exhausted is not None or self.takers() >= self.width)
        except RuntimeError:
            return False
        self.replaced += exhausted is None
        return True

    def _is_settled_soon(self) -> bool:
        """Whether a thread is about to look at what is owed. One that is settling may wait for something, maybe for
        what is owed; but there is a limit to how many there are. The caller holds `lock`."""
        return len(self.settling) > self.width or any(not one.hand for one in self.settling)

    def fail_soon(self, task: TaskFuture, error: BaseException) -> None:
        """Fail a task if it is still pending, in a thread that has the time."""
        with self.lock:
            if not task.claim(PENDING):
                return
            self.failed += 1
            self.timed_out += isinstance(error, DeadlineExceeded)
            self._owe(task, Outcome(error=error))
            if self._is_settled_soon():
                return
            try:
                self._start_worker(settle_owed, retire=True)
                return
            except RuntimeError:
                pass
        settle_all(self)

    def late(self, worker: Worker, task: TaskFuture, outcome: Outcome) -> None:
        """The task of an abandoned worker ended after all."""
        with self.lock:
            self.late_outcomes += 1
        what = "a result" if outcome.error is None else type(outcome.error).__name__
        stuck_in = worker.stuck_in
        key = stuck_in.key if stuck_in is not None else None
        name = task._task_name()
        self.events.put(
            logging.WARNING,
            f"abandoned task {describe(name, key)} ended after all, with {what}; its outcome was already reported as a "
            "timeout, so this one is not counted",
            Event("late", self.prefix, name, key, worker.thread.name, task.elapsed(), outcome=outcome),
        )  # fmt: skip
        self.events.tell_here()

    def abandoned_alive(self) -> int:
        return sum(1 for worker in list(self.abandoned) if worker.thread.is_alive())

    # The end

    def close(self, *, cancel_pending: bool = False, by_exit: bool = False) -> None:
        with self.lock:
            self.closed, self.open = True, False
            self.shut_down = self.shut_down or not by_exit
            # The oldest tasks are as good as begun: workers that were woken or started for them are on their way, up to
            # the moment when they have one in their hand (which they take without the lock).
            coming = [worker for worker in self.workers if not worker.hand and worker not in self.retiring]
            on_their_way = sum(worker not in self.idle or worker is self.woken for worker in coming)
            pending = list(islice(self.tasks, on_their_way, None)) if cancel_pending else []
            for worker in self.idle:
                release(worker.wake)
        for task in pending:
            try:
                self.tasks.remove(task)  # one of the first
            except ValueError:
                continue  # a worker was faster
            cancelled_while_pending(task)

    def orphaned(self) -> None:
        """Close it, when nobody refers to the executor any more. Takes no lock: a finaliser runs in any thread, and
        under whatever lock that holds."""
        self.closed, self.open, self.shut_down = True, False, True
        for worker in list(self.idle):
            release(worker.wake)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every worker that was not abandoned has gone home; False if `timeout` (seconds) passed first."""
        until = None if timeout is None else _clock.monotonic() + timeout
        mine = threading.current_thread()
        with self.lock:
            if any(worker.thread is mine for worker in self.workers):
                raise RuntimeError("cannot join current thread")
            threads = [worker.thread for worker in self.workers]
        registration = _scope.on_cancel(self._wake)
        try:
            while self._has_work():
                _scope.raise_if_cancelled()  # without the lock: a scope that expires has callbacks, which take locks
                if not self._await_leaver(until):
                    return False
        finally:
            registration.unregister()
        with self.lock:
            stuck = {worker.thread for worker in self.abandoned}
        for thread in threads:
            if thread not in stuck and thread.is_alive():
                thread.join()  # it has left the loop: this is a moment
        self.events.flush(_TELLING)
        return True

    def _has_work(self) -> bool:
        return bool(self.workers or self.giving_up)

    def _await_leaver(self, until: float | None) -> bool:
        """Wait until all workers have left or this thread's scope is cancelled; False if the time is up."""
        with self.lock:
            while self._has_work() and not _scope.cancel_pending():
                left = None if until is None else until - _clock.monotonic()
                if left is not None and left <= 0:
                    return False
                self._gone.wait(left)
        return True

    def _wake(self) -> None:
        with self.lock:
            self._gone.notify_all()

    def wait_settled(self, until: float) -> None:
        """Wait (to that instant at most) until nothing is owed."""
        with self.lock:
            while (self.owed or self.settling or self.giving_up) and (left := until - _clock.monotonic()) > 0:
                self._gone.wait(left)

    def worker_of(self, task: TaskFuture) -> Worker | None:
        """The worker that has this task in its hand."""
        with self.lock:
            return next((worker for worker in self.workers if worker.task is task), None)

    def running(self) -> list[TaskFuture]:
        with self.lock:
            return [task for worker in self.workers if (task := worker.task) is not None]

    def unfinished(self) -> list[TaskFuture]:
        with self.lock:
            return [*self.running(), *self.tasks]

    def stats(self) -> dict[str, int]:
        with self.lock:
            return {
                "workers": len(self.workers),
                "idle": len(self.idle),
                "running": sum(worker.task is not None for worker in self.workers - self.settling),
                "pending": len(self.tasks),
                "submitted": self.submitted,
                "completed": self.completed + sum(worker.completed for worker in self.workers),
                "failed": self.failed + sum(worker.failed for worker in self.workers),
                "cancelled": self.cancelled,
                "abandoned": self.given_up,
                "abandoned_alive": self.abandoned_alive(),
                "late": self.late_outcomes,
                "respawned": self.respawned,
                "timed_out": self.timed_out + sum(worker.timed_out for worker in self.workers),
                "replaced": self.replaced,
                "loops": self.loops,
            }

    def after_fork_in_child(self) -> None:
        """None of the threads lives on, and what they were doing is the parent's."""
        self._make_locks()
        self.events = Events(self.prefix)
        self.workers.clear()
        self.starting.clear()
        self.settling.clear()
        self.retiring.clear()
        self.idle.clear()
        self.tasks.clear()
        self.owed.clear()
        self.abandoned.clear()
        self.woken = None
        self.giving_up = 0


def _drawn(source: deque[TaskFuture]) -> Iterator[TaskFuture]:
    """Its tasks, taken from it one by one. With `extend` and `islice` around it, all of it runs in C."""
    return iter(source.popleft, None)  # which never comes


def settle_owed(worker: Worker) -> None:
    """What a worker that was started for it does first."""
    crew, hand = worker.crew, worker.hand
    while True:
        with crew.lock:
            if not crew.owed:
                crew.settling.discard(worker)
                crew._gone.notify_all()
                return
            hand.extend(islice(_drawn(crew.owed), 1))
            # The callbacks of this one's future may wait for one that is still owed.
            if crew.owed and not crew._is_settled_soon():
                with suppress(RuntimeError):  # no thread to be had: then they are settled one after the other
                    crew._start_worker(settle_owed, retire=True)
        hand[0].settle_owed()
        hand.clear()


def settle_all(crew: Crew) -> None:
    """The same, without a worker."""
    while True:
        with crew.lock:
            if not crew.owed:
                return
            task = crew.owed.popleft()
        task.settle_owed()
