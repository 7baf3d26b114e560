"""The crew of a pool: its queue, its threads, and what happens to one that gets stuck.

Guarantees:

- The crew keeps its width. A worker that is abandoned is replaced at once, unless `max_abandoned` abandoned threads
  are alive; a worker whose loop dies of a stray exception is replaced, and its task's future fails.
- No task is lost to stray exceptions, wherever they strike: it is in one place at any time (the queue, the hand of one
  worker, the outcomes to settle) and goes from one to the next within one call of C, where no exception can strike. A
  worker that dies leaves its task to its successor; the timer thread, at which nothing is thrown, sees to both.
- An abandoned worker never takes work again, its late outcome is told but never given to the future, and every
  cooperative point and patched call it comes to raises, shielded or not.
- Threads are daemons and join nothing at interpreter exit: `exit` waits for the tasks that are healthy.

Workers hold the crew, never the executor, so an executor that nobody refers to is collected and its crew sent home.

Waking a thread costs more than a small task does, and a woken thread waits for the interpreter. So at most one worker
is on its way from the idle ones at any time; one that arrives and leaves tasks behind wakes the next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from itertools import islice

from threadsafe_timeout._errors import PoolExhausted
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._pool import replacing as _replacing
from threadsafe_timeout._pool.events import full_name
from threadsafe_timeout._pool.future import LOGGER
from threadsafe_timeout._pool.state import CrewOptions, CrewState
from threadsafe_timeout._pool.task import TaskFuture, cancelled_while_pending, fail_pending, pass_over
from threadsafe_timeout._pool.telling import thread_position
from threadsafe_timeout._pool.worker import Worker
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._timing.daemon_thread import release

__all__ = ["Crew"]

logger = logging.getLogger("threadsafe_timeout")
_TELLING = 2.0  # seconds a pool that is left gives its log handlers and callbacks to hear the last of it


def _broken_pool(why: str) -> Exception:
    # Not at the top: the patch of that module imports this one.
    from concurrent.futures.thread import BrokenThreadPool

    return BrokenThreadPool(why)


class Crew(CrewState):
    """The queue and the threads behind one executor."""

    def __init__(self, options: CrewOptions) -> None:
        super().__init__(options)
        _exit.crews.add(self)

    # Work in

    def submit(self, task: TaskFuture) -> None:
        problem = None
        with self.lock:
            if not self.open:
                self._refuse()
            if self.abandoned:
                self._check_exhausted()
            self.submitted = task._number = self.submitted + 1
            self.tasks.append(task)
            if (stirred := _observer.stirred) is not None:
                stirred(self)
            if self.idle and self.woken is None:
                self._wake_one()
            if self.takers() < self.width and len(self.tasks) > len(self.idle) + len(self.starting):
                problem = self._start_another()
        if problem is not None:  # without the lock, which a log handler may want
            logger.warning(
                "threadsafe-timeout: pool %s could not start another thread; it goes on with %d",
                shown(self.prefix), self.takers(), exc_info=problem,
            )  # fmt: skip

    def _refuse(self) -> None:
        if self.broken is not None:
            raise _broken_pool(self.broken)
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
        counts = self.counts
        counts.completed, counts.failed, counts.timed_out, worker.completed, worker.failed, worker.timed_out = (
            counts.completed + worker.completed, counts.failed + worker.failed, counts.timed_out + worker.timed_out,
            0, 0, 0,
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
                fail_pending(task, _broken_pool(why))
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

    def abandon(self, task: TaskFuture) -> None:
        """Give up on the thread that runs `task`. Called by the timer thread."""
        _replacing.abandon(self, task)

    def fail_soon(self, task: TaskFuture, error: BaseException) -> None:
        """Fail a task if it is still pending, in a thread that has the time."""
        _replacing.fail_soon(self, task, error)

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
        registration = _registration.on_cancel(self._wake)
        try:
            while self._has_work():
                _around.raise_if_cancelled()  # without the lock: a scope that expires has callbacks, which take locks
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
            while self._has_work() and not _around.cancel_pending():
                left = None if until is None else until - _clock.monotonic()
                if left is not None and left <= 0:
                    return False
                self._gone.wait(left)
        return True

    def _wake(self) -> None:
        with self.lock:
            self._gone.notify_all()

    def wait_settled(self, until: float) -> None:
        """Wait (to that instant at most) until every outcome is settled."""
        with self.lock:
            while (self.owed or self.settling or self.giving_up) and (left := until - _clock.monotonic()) > 0:
                self._gone.wait(left)
