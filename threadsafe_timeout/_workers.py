"""The crew of a pool: its queue, its threads, and what happens to one that gets stuck.

Guarantees:

- The crew keeps its width. A worker that is abandoned is replaced at once, unless `max_abandoned` abandoned threads
  are alive; a worker whose loop dies of a stray exception is replaced, and its task's future fails.
- No task is lost to a stray exception, wherever it strikes: a worker that dies between taking a task and starting it
  leaves it to its successor.
- An abandoned worker never takes work again and its late outcome is logged, never given to the future.
- Threads are daemons and join nothing at interpreter exit: `_shut_down_all` waits for the tasks that are healthy.

Workers hold the crew, never the executor, so an executor that nobody refers to is collected and its crew sent home.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

from threadsafe_timeout import _clock, _scope
from threadsafe_timeout._errors import PoolExhausted
from threadsafe_timeout._task import Outcome, Task, cancelled_while_pending, fail_pending

__all__ = ["Crew", "Worker"]

logger = logging.getLogger("threadsafe_timeout")

_crews: weakref.WeakSet[Crew] = weakref.WeakSet()
_exiting = False


class Worker:
    """One thread of the crew."""

    __slots__ = ("__weakref__", "abandoned", "crew", "first", "retire", "task", "thread", "wake")

    def __init__(self, crew: Crew, name: str, first: Callable[[], object] | None = None, retire: bool = False) -> None:
        self.crew = crew
        self.first = first  # what to do before taking work
        self.retire = retire  # take none
        self.wake = threading.Lock()  # held while there is nothing to wake for
        self.wake.acquire()
        self.task: Task | None = None  # guarded by crew.lock
        self.abandoned = False  # guarded by crew.lock
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)

    def _main(self) -> None:
        crew = self.crew
        try:
            if self.first is not None:
                self.first()
                self.first = None
            if not self.retire and crew.initialize():
                self._loop()
        except BaseException as exc:
            # Nothing in the loop raises; what arrives here was thrown at this thread from outside.
            crew.worker_died(self, exc)
        else:
            crew.worker_left(self)

    def _loop(self) -> None:
        crew = self.crew
        while True:
            task = crew.next_task(self)
            if task is None:
                return
            if task.future.set_running_or_notify_cancel():
                outcome = task.run()
                if not task.claim():
                    crew.late(task, outcome)
                    return
                task.settle(outcome)
                crew.count("failed" if outcome.error is not None else "completed")
                del outcome
            else:
                task.release()
            with crew.lock:
                self.task = task.worker = None
            del task


class Crew:
    """The queue and the threads behind one executor."""

    def __init__(
        self,
        *,
        width: int,
        prefix: str,
        grace: float,
        max_abandoned: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self.width = width
        self.prefix = prefix
        self.grace = grace
        self.max_abandoned = max_abandoned
        self._initializer = initializer
        self._initargs = initargs
        self.lock = threading.RLock()  # re-entrant: a finaliser may submit or shut down while its thread holds it
        self._gone = threading.Condition(self.lock)  # notified when a worker leaves `workers`
        # All guarded by lock:
        self.tasks: deque[Task] = deque()
        self.idle: list[Worker] = []  # the last to come is the first to go: its caches are warm
        self.workers: set[Worker] = set()
        self.abandoned: weakref.WeakSet[Worker] = weakref.WeakSet()
        self.closed = False
        self.broken: str | None = None
        self._threads_named = 0
        self._counts: Counter[str] = Counter()
        _crews.add(self)

    # Work in

    def submit(self, task: Task) -> None:
        with self.lock:
            if self.broken is not None:
                raise BrokenThreadPool(self.broken)
            if self.closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            stuck = self.abandoned_alive()
            if stuck and stuck > self.max_abandoned:
                raise PoolExhausted(self.prefix, stuck, self.max_abandoned)
            self._counts["submitted"] += 1
            self.tasks.append(task)
            if self.idle:
                self.idle.pop().wake.release()
            elif len(self.workers) < self.width:
                self._start_worker()

    def next_task(self, worker: Worker) -> Task | None:
        """The next task, waiting for one; None when the crew is to go home."""
        while True:
            with self.lock:
                if self.tasks:
                    # In this order: an exception that strikes between the two finds the task in either place.
                    worker.task = task = self.tasks[0]
                    self.tasks.popleft()
                    task.worker = worker
                    return task
                if self.closed:
                    return None
                self.idle.append(worker)
            worker.wake.acquire()

    def _start_worker(self, first: Callable[[], object] | None = None, retire: bool = False) -> None:
        """Add a thread. The caller holds `lock`."""
        worker = Worker(self, f"{self.prefix}_{self._threads_named}", first, retire)
        self.workers.add(worker)
        try:
            worker.thread.start()
        except BaseException:
            self.workers.discard(worker)
            if first is not None or not self.workers:
                raise
            logger.warning(
                "threadsafe-timeout: pool %s could not start another thread; it goes on with %d",
                self.prefix, len(self.workers), exc_info=True,
            )  # fmt: skip
        else:
            self._threads_named += 1

    def initialize(self) -> bool:
        """Run the pool's initializer in a new worker; False if it failed, which breaks the pool (as ever)."""
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException:
            logger.critical("Exception in initializer:", exc_info=True)
            self._break("A thread initializer failed, the thread pool is not usable anymore")
            return False
        return True

    def _break(self, why: str) -> None:
        with self.lock:
            self.broken = why
        for task in self._drain():
            fail_pending(task, BrokenThreadPool(why))

    def _drain(self) -> list[Task]:
        with self.lock:
            tasks = list(self.tasks)
            self.tasks.clear()
            return tasks

    # Threads out

    def worker_left(self, worker: Worker) -> None:
        with self._gone:
            self.workers.discard(worker)
            self.abandoned.discard(worker)
            self._gone.notify_all()

    def worker_died(self, worker: Worker, exc: BaseException) -> None:
        """A stray exception ended a worker's loop: fail its task, keep the width."""
        with self._gone:
            task, worker.task = worker.task, None
            self.workers.discard(worker)
            self.abandoned.discard(worker)
            if worker in self.idle:
                self.idle.remove(worker)
            self._counts["respawned"] += 1
            if task is not None and not task.future.running() and not task.future.done():
                if not self.tasks or self.tasks[0] is not task:
                    self.tasks.appendleft(task)
                task = None  # it was not begun: the successor begins it
            if (self.tasks and not self.workers) or not (worker.abandoned or self.closed):
                self._start_worker()
            self._gone.notify_all()
        logger.error(
            "threadsafe-timeout: a worker of pool %s died of %r and was replaced", self.prefix, exc,
            exc_info=exc, extra={"event": "respawned", "pool": self.prefix},
        )  # fmt: skip
        if task is not None and not task.future.done() and (task.claim() or not worker.abandoned):
            task.settle(Outcome(error=exc))

    def abandon(self, task: Task) -> None:
        """Give up on the thread that runs `task`: fail the task, refill the slot. Called by the timer thread."""
        stack = task.stack()
        with self._gone:
            worker = task.worker
            if worker is None or not task.claim():
                return
            worker.abandoned = True
            worker.task = None
            self.workers.discard(worker)
            self.abandoned.add(worker)
            self._counts["abandoned"] += 1
            outcome = task.timed_out_outcome()
            self._replace(lambda: task.settle(outcome))
            self._gone.notify_all()
        logger.warning(
            "threadsafe-timeout: task %s was given up after %.1f s; its thread %s is stuck here and was replaced:\n%s",
            task.name, task.elapsed(), worker.thread.name, stack,
            extra={"event": "abandoned", "task": task.name, "pool": self.prefix},
        )  # fmt: skip

    def _replace(self, settle: Callable[[], object]) -> None:
        """Fill the slot of an abandoned worker; the newcomer settles its task first. The caller holds `lock`.

        The settling is the newcomer's because it may take an fsync, which the timer thread has no time for.
        """
        exhausted = self.abandoned_alive() > self.max_abandoned
        pending = self._drain() if exhausted and not self.workers else []
        try:
            # Past the bound the newcomer still settles, as a member of the crew so that join() waits for it.
            self._start_worker(settle, retire=exhausted)
        except RuntimeError:
            settle()  # no thread to be had: late deadlines are better than a future that never resolves
        error = PoolExhausted(self.prefix, self.abandoned_alive(), self.max_abandoned)
        for task in pending:
            fail_pending(task, error)

    def late(self, task: Task, outcome: Outcome) -> None:
        """The task of an abandoned worker ended after all."""
        self.count("late")
        logger.warning(
            "threadsafe-timeout: abandoned task %s ended after all, with %s; its outcome was already reported as a "
            "timeout, so this one is not counted", task.name,
            "a result" if outcome.error is None else type(outcome.error).__name__,
            extra={"event": "late", "task": task.name, "pool": self.prefix},
        )  # fmt: skip

    def abandoned_alive(self) -> int:
        return sum(1 for worker in list(self.abandoned) if worker.thread.is_alive())

    # The end

    def close(self, *, cancel_pending: bool = False) -> None:
        with self.lock:
            self.closed = True
            pending = self._drain() if cancel_pending else []
            while self.idle:
                self.idle.pop().wake.release()
        for task in pending:
            cancelled_while_pending(task)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every worker that was not abandoned has gone home; False if `timeout` (seconds) passed first."""
        until = None if timeout is None else _clock.monotonic() + timeout
        registration = _scope.on_cancel(self._wake)
        mine = threading.current_thread()
        try:
            with self._gone:
                if any(worker.thread is mine for worker in self.workers):
                    raise RuntimeError("cannot join current thread")
                threads = [worker.thread for worker in self.workers]
                while self.workers:
                    _scope.raise_if_cancelled()
                    left = None if until is None else until - _clock.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._gone.wait(left)
                stuck = {worker.thread for worker in self.abandoned}
        finally:
            registration.unregister()
        for thread in threads:
            if thread not in stuck:
                thread.join()  # it has left the loop: this is a moment
        return True

    def _wake(self) -> None:
        with self._gone:
            self._gone.notify_all()

    def running(self) -> list[Task]:
        with self.lock:
            return [worker.task for worker in self.workers if worker.task is not None]

    def count(self, what: str) -> None:
        with self.lock:
            self._counts[what] += 1

    def stats(self) -> dict[str, int]:
        with self.lock:
            counts = self._counts
            return {
                "workers": len(self.workers),
                "idle": len(self.idle),
                "pending": len(self.tasks),
                "submitted": counts["submitted"],
                "completed": counts["completed"],
                "failed": counts["failed"],
                "abandoned": counts["abandoned"],
                "abandoned_alive": self.abandoned_alive(),
                "late": counts["late"],
                "respawned": counts["respawned"],
            }


def _shut_down_all() -> None:
    """At interpreter exit: wait for healthy tasks, as ever; give up on the overdue ones, and say so."""
    global _exiting
    _exiting = True
    crews = list(_crews)
    for crew in crews:
        crew.close()
    for crew in crews:
        for task in crew.running():
            if task.overdue:
                crew.abandon(task)
    for crew in crews:
        crew.join()
    # A daemon thread that holds a standard stream's buffer when the interpreter goes down aborts it.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed, or a broken pipe: the interpreter says so itself
            pass


# The hook that the standard pools use: atexit proper runs only after all non-daemon threads were joined.
threading._register_atexit(_shut_down_all)  # type: ignore[attr-defined]  # not in typeshed; there since 3.9
