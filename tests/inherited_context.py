"""Programs for test_inherited_context.py: threads that are started in a scope, by NAME, with `install` or without.

    python -X thread_inherit_context=1 inherited_context.py NAME [install]

prints "ok".
"""

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import logging.handlers
import multiprocessing
import queue
import signal
import sys
import threading
import time
import weakref

from conditions import join_listed

import threadsafe_timeout
from threadsafe_timeout import (
    Cancelled,
    CancelScope,
    ThreadPoolExecutor,
    Timer,
    check_cancelled,
    deadline,
    move_on_after,
    shield,
    sleep,
    time_remaining,
)
from threadsafe_timeout._scopes.around import current_scope

PATCHED = "install" in sys.argv
INHERITS = bool(getattr(sys.flags, "thread_inherit_context", False))
LONG = 60.0
variable = contextvars.ContextVar("variable", default="nothing")


class Child:
    """A thread; what it returned, or what it raised."""

    def __init__(self, function):
        self.outcome = queue.SimpleQueue()
        self.function = function
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            self.outcome.put((self.function(), None))
        except BaseException as exc:
            self.outcome.put((None, exc))

    def result(self):
        with shield(LONG):  # the caller may be cancelled, too
            value, error = self.outcome.get(timeout=LONG)
            self.thread.join()
        if error is not None:
            raise error
        return value


def raised(function):
    try:
        function()
    except BaseException as exc:
        return type(exc)
    return None


def in_a_thread(function):
    return Child(function).result()


# What a thread of the program has of the scope it is started in


def is_bound_by_the_scope():
    with CancelScope(deadline=time.monotonic() + LONG) as scope:
        assert in_a_thread(current_scope) is scope
        assert in_a_thread(time_remaining) <= LONG
        waiting = Child(lambda: sleep(LONG))
        scope.cancel()
        assert raised(waiting.result) is Cancelled
        assert raised(lambda: in_a_thread(check_cancelled)) is Cancelled
    assert not scope.cancelled_caught  # what the child met is the child's
    assert current_scope() is None


def is_woken_in_patched_waits():
    waits = [
        lambda: time.sleep(LONG), threading.Event().wait, queue.Queue().get,
        threading.Thread(target=time.sleep, args=(LONG,), daemon=True).start, lambda: time.sleep(LONG),
    ]  # fmt: skip
    with CancelScope() as scope:
        children = [Child(wait) for wait in waits]
        scope.cancel()
        assert [raised(child.result) for child in children] == [Cancelled, Cancelled, Cancelled, None, Cancelled]


def raises_with_the_parent_at_its_deadline():
    children = []
    try:
        with deadline(LONG) as scope:
            children += [Child(lambda: time.sleep(LONG)) for _ in range(3)]
            scope.deadline = time.monotonic() + 0.05
            time.sleep(LONG)
    except TimeoutError:
        pass
    assert [raised(child.result) for child in children] == [Cancelled] * 3


def is_free_once_the_scope_was_left():
    go = threading.Event()
    with move_on_after(LONG):
        child = Child(lambda: (go.wait(), check_cancelled(), time_remaining()))
    go.set()
    assert child.result() == (True, None, float("inf"))


def has_scopes_of_its_own():
    def inner():
        with move_on_after(0.02) as scope:
            sleep(LONG)
        assert scope.cancelled_caught
        check_cancelled()  # the outer one is not
        with CancelScope() as scope:
            entered.set()
            while True:  # a block of its own: the parent's cancellation interrupts it
                pass

    entered = threading.Event()
    with CancelScope() as scope:
        child = Child(inner)
        entered.wait()
        scope.cancel()
        assert raised(child.result) is Cancelled
    assert threadsafe_timeout._interruption.pursuit._targets == {}


def that_computes_is_not_interrupted():
    stop = []
    with CancelScope() as scope:
        child = Child(lambda: ([None for _ in iter(lambda: bool(stop), True)], check_cancelled()))
        scope.cancel()
        sleep_anyway(0.1)
        assert child.thread.is_alive()
        stop.append(True)
        assert raised(child.result) is Cancelled


def sleep_anyway(seconds):
    with shield(LONG):
        sleep(seconds)


def keeps_a_shield():
    with CancelScope() as scope:
        with shield(LONG):
            child = Child(lambda: (current_scope(), go.acquire(), check_cancelled()))
        scope.cancel()
    go.release()
    assert isinstance(child.result()[0], CancelScope)


go = threading.Lock()
go.acquire()


def has_what_is_left_of_the_grace_in_clean_up():
    left = []
    with CancelScope() as scope:
        scope.cancel()
        try:
            check_cancelled()
        finally:
            left.append(in_a_thread(lambda: (time.sleep(0.001), check_cancelled(), time_remaining()))[2])
    assert scope.cancelled_caught
    assert 0 < left[0] <= LONG
    assert raised(check_cancelled) is None


def has_no_alarm():
    def alarm():
        fired.append(threading.get_ident())

    def worker():
        signal.signal(signal.SIGALRM, lambda *_: alarm())
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        child = Child(lambda: (time.sleep(0.1), current_scope()))
        while not fired:
            time.sleep(0.01)
        child.result()
        return threading.get_ident()

    fired = []
    assert in_a_thread(worker) == fired[0]
    assert len(fired) == 1


def with_a_context_of_its_own_has_that():
    if sys.version_info < (3, 14):
        return
    box = []
    with CancelScope() as scope:
        scope.cancel()
        thread = threading.Thread(target=lambda: box.append(current_scope()), context=contextvars.Context())
        thread.start()
        with shield(LONG):
            thread.join()
    assert box == [None]


def twice_started_is_an_error():
    with CancelScope():
        child = Child(int)
        assert raised(child.thread.start) is RuntimeError
        assert child.result() == 0


def of_a_task_that_was_given_up_is_fenced():
    box, begun = queue.SimpleQueue(), threading.Event()

    def child():
        begun.set()
        with open_lock:  # the standard lock is not patched here: a thread that is stuck
            box.put(raised(check_cancelled))

    def acquire():  # no interrupt strikes in a function of this name, not on the way to the lock either
        Child(child)
        begun.wait()
        current_scope().deadline = time.monotonic() + 0.05
        open_lock_again.acquire()

    open_lock, open_lock_again = stuck_lock(), stuck_lock()
    with ThreadPoolExecutor(1, grace=0.05) as pool:
        future = pool.submit(acquire)
        begun.wait()
        assert raised(future.result) is not None
        open_lock.release()
        open_lock_again.release()
        assert box.get(timeout=LONG) is Cancelled


def stuck_lock():
    lock = threading.Lock()
    lock.acquire()
    return lock


# What belongs to the whole process, and begins in a scope by chance


def pool_serves_others_later():
    seen = queue.SimpleQueue()

    def note(*_):
        seen.put((current_scope(), raised(check_cancelled)))

    held = stuck_lock()
    pool = ThreadPoolExecutor(2, initializer=note)
    listener = pool.on_event(note)
    with CancelScope() as scope:
        pool.submit(int).result()
        scope.cancel()
    assert seen.get(timeout=LONG) == (None, None)
    for _ in range(8):  # its first thread, and the ones that begin now
        future = pool.submit(sleep, 0.01)
        future.add_done_callback(note)
        future.result()
        assert seen.get(timeout=LONG) == (None, None)
    stuck = pool.submit(held.acquire)
    with listener:
        assert pool.submit(current_scope).result() is not scope
        held.release()
        stuck.result()
    pool.shutdown()
    while not seen.empty():
        assert seen.get() == (None, None)


def task_is_in_the_scope_of_who_submits():
    with ThreadPoolExecutor(1) as pool:
        with CancelScope() as scope:
            pool.submit(int).result()
            waiting = pool.submit(sleep, LONG)
            scope.cancel()
            assert raised(waiting.exception) is Cancelled
        assert pool.submit(check_cancelled).result() is None
        with move_on_after(LONG) as other:
            assert other in chain(pool.submit(current_scope).result())


def chain(scope):
    while scope is not None:
        yield scope
        scope = scope._parent


def timer_runs_outside():
    seen = queue.SimpleQueue()

    def note():
        seen.put((current_scope(), raised(check_cancelled), variable.get()))

    class Subclass(Timer):
        def run(self):
            note()

    variable.set("mine")
    with CancelScope() as scope:
        Timer(0.02, note).start()
        Subclass(0.02, note).start()
        scope.cancel()
    want = None, None, "mine" if INHERITS else "nothing"
    assert [seen.get(timeout=LONG) for _ in range(2)] == [want] * 2


def log_handler_of_the_timer_thread_may_wait():
    class Slow(logging.Handler):
        def emit(self, record):
            seen.put((current_scope(), raised(lambda: time.sleep(0.001))))

    seen = queue.SimpleQueue()
    logging.getLogger("threadsafe_timeout").addHandler(Slow())
    with CancelScope() as scope:
        with move_on_after(0.001):  # begins the timer's thread
            sleep(LONG)
        scope.cancel()
    threadsafe_timeout._timing.timer.call_later(0.0, lambda: 1 / 0)  # it logs what goes wrong
    assert seen.get(timeout=LONG) == (None, None)


def scope_is_let_go_of():
    def enter():
        with CancelScope() as scope:
            with move_on_after(0.001):
                sleep(LONG)
            while_pool.submit(int).result()
            Timer(LONG, int).start()
            scope.cancel()
        return weakref.ref(scope)

    with ThreadPoolExecutor(1) as while_pool:
        gone = enter()
        until = time.monotonic() + 2 * LONG
        while gone() is not None:  # the worker lets go of its task after it has told of it
            assert time.monotonic() < until, gc.get_referrers(gone())
            gc.collect()
    for timer in list(threadsafe_timeout._pool.callback_timer._waiting):
        timer.cancel()


def standard_pool_serves_others_later():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with CancelScope() as scope:
            pool.submit(int).result()
            scope.cancel()
        assert pool.submit(check_cancelled).result() is None


def queue_to_other_processes_is_fed():
    numbers = multiprocessing.get_context("spawn").Queue()
    with CancelScope() as scope:
        numbers.put(1)
        scope.cancel()
        check_later(scope)
    for number in range(2, 100):
        numbers.put(number)
    assert [numbers.get(timeout=LONG) for _ in range(1, 100)] == list(range(1, 100))


def check_later(scope):
    """Give what the scope wakes the time to end, if that is what it does."""
    with shield(LONG):
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.name.startswith("threadsafe-timeout"):
                join_listed(thread, 0.05)


def log_listener_listens_on():
    records, got = queue.Queue(), queue.SimpleQueue()

    class Handler(logging.Handler):
        def emit(self, record):
            got.put(record.getMessage())

    listener = logging.handlers.QueueListener(records, Handler())
    with CancelScope() as scope:
        listener.start()
        scope.cancel()
        check_later(scope)
    records.put(logging.makeLogRecord({"msg": "hello"}))
    assert got.get(timeout=LONG) == "hello"
    listener.stop()


def pool_of_processes_works_on():
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with CancelScope() as scope:
            assert pool.submit(abs, -1).result() == 1
            scope.cancel()
            check_later(scope)
        assert pool.submit(abs, -2).result(timeout=LONG) == 2


def default_executor_of_a_loop_works_on():
    async def main():
        loop = asyncio.get_running_loop()
        with move_on_after(0.02) as scope:
            await loop.run_in_executor(None, int)
            await asyncio.sleep(LONG)
        assert scope.cancelled_caught
        assert await loop.run_in_executor(None, check_cancelled) is None
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        assert await process.wait() == 0

    asyncio.run(main())


OWN = [
    is_bound_by_the_scope, is_free_once_the_scope_was_left, has_scopes_of_its_own, that_computes_is_not_interrupted,
    keeps_a_shield, with_a_context_of_its_own_has_that, twice_started_is_an_error, of_a_task_that_was_given_up_is_fenced,
]  # fmt: skip
OWN_PATCHED = [
    is_woken_in_patched_waits, raises_with_the_parent_at_its_deadline, has_what_is_left_of_the_grace_in_clean_up,
    has_no_alarm,
]  # fmt: skip
SHARED = [
    pool_serves_others_later, task_is_in_the_scope_of_who_submits, timer_runs_outside, scope_is_let_go_of,
    queue_to_other_processes_is_fed, log_listener_listens_on, pool_of_processes_works_on,
]  # fmt: skip
SHARED_PATCHED = [
    log_handler_of_the_timer_thread_may_wait, standard_pool_serves_others_later, default_executor_of_a_loop_works_on,
]  # fmt: skip

if __name__ == "__main__":
    if PATCHED:
        threadsafe_timeout.install(checkpoint=None, grace=LONG)
    globals()[sys.argv[1]]()
    sys.stdout.write("ok\n")
