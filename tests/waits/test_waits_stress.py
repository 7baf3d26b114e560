"""What is sent to a waiter at the moment it is cancelled is lost by nobody."""

from __future__ import annotations

import concurrent.futures
import queue
import random
import selectors
import socket
import threading
import traceback
from _thread import allocate_lock
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
from blocked import LONG, Blocked
from threadsafe_timeout_patches import _waiting

from threadsafe_timeout import move_on_after, patched
from threadsafe_timeout.testing import widened_races

pytestmark = pytest.mark.stress
ROUNDS = 500


@pytest.fixture(autouse=True)
def races(monkeypatch) -> Iterator[None]:
    chance, real_wait, never = random.Random(11), _waiting.wait, allocate_lock()
    never.acquire()

    def slow_wait(*args):
        """Between being woken, for whatever reason, and taking back the lock is where others may notify."""
        try:
            return real_wait(*args)
        finally:
            if chance.random() < 0.5:
                never.acquire(True, chance.random() * 0.0003)

    # An interrupt between two lines of what waits here, after its wait, would be no fault of the wait's.
    monkeypatch.setattr("threadsafe_timeout._interruption.pursuit.pursue", lambda scope, **more: None)
    for name in ("threading", "queue", "locks"):
        monkeypatch.setattr(f"threadsafe_timeout_patches.{name}.wait", slow_wait)
    with patched(checkpoint="off", patches="+locks"), widened_races(seed=7):
        yield


class Other:
    """A thread that waits for the same thing, in no scope or in one that is not cancelled."""

    def __init__(self, call: Callable[[], object], scope: AbstractContextManager[object] | None = None) -> None:
        self.result: object = None
        self._call, self._scope = call, scope or nullcontext()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self._scope:
            self.result = self._call()

    def join(self, what: str) -> object:
        self.thread.join(LONG)
        assert not self.thread.is_alive(), f"{what}: the wake-up was lost with the one who was cancelled"
        return self.result


class Semaphore:
    def __init__(self) -> None:
        self.semaphore = threading.Semaphore(0)
        self.wait, self.send = self.semaphore.acquire, self.semaphore.release

    def left(self) -> int:
        return self.semaphore._value


class Queue:
    def __init__(self) -> None:
        self.items = self.make()
        self.wait = self.items.get

    def make(self):
        return queue.Queue()

    def send(self) -> None:
        self.items.put(1)

    def left(self) -> int:
        return self.items.qsize()


class SimpleQueue(Queue):
    def make(self):
        return queue.SimpleQueue()


class FullQueue:
    """Waiting for a free place."""

    def __init__(self) -> None:
        self.items: queue.Queue[int] = queue.Queue(1)
        self.items.put(0)

    def wait(self) -> bool:
        self.items.put(1)
        return True

    def send(self) -> None:
        self.items.get()

    def left(self) -> int:
        return 1 - self.items.qsize()


class Condition:
    """Each notification is for one."""

    def __init__(self) -> None:
        self.condition = threading.Condition(threading.Lock())
        self.tokens = 0

    def wait(self) -> bool:
        with self.condition:
            while not self.tokens:
                self.condition.wait()
            self.tokens -= 1
        return True

    def send(self) -> None:
        with self.condition:
            self.tokens += 1
            self.condition.notify()

    def left(self) -> int:
        return self.tokens


class Lock:
    """Whoever has it gives it back when all is over."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.wait, self.send = self.lock.acquire, self.lock.release

    def left(self) -> int:
        return 0 if self.lock.locked() else 1


@pytest.mark.parametrize("in_scope", [False, True], ids=["the other in no scope", "the other in a scope"])
@pytest.mark.parametrize("kind", [Semaphore, Queue, SimpleQueue, FullQueue, Condition, Lock])
def test_one_of_two_gets_it(kind, in_scope, monkeypatch):
    monkeypatch.setattr("threadsafe_timeout_patches.locks.PATIENCE", 0.0)
    chance = random.Random(3)
    taken = cancelled = 0
    for number in range(ROUNDS):
        shared = kind()
        scope = move_on_after(LONG) if in_scope else nullcontext()
        if number % 2:
            first = Blocked(shared.wait)
            second = Other(shared.wait, scope)
        else:
            second = Other(shared.wait, scope)
            first = Blocked(shared.wait)
        steps = [shared.send, first.scope.cancel]
        chance.shuffle(steps)
        racing = [threading.Thread(target=step) for step in steps]
        for thread in racing:
            thread.start()
        first.join()
        if first.returned:
            taken += 1
            shared.send()  # the other's
        else:
            cancelled += 1
        assert second.join(kind.__name__)
        for thread in racing:
            thread.join()
        assert shared.left() == 0
    assert cancelled > 0
    assert taken + cancelled == ROUNDS


def test_every_item_is_got_once_while_consumers_are_cancelled():
    items: queue.Queue[int] = queue.Queue(5)
    got: list[int] = []
    chance = random.Random(5)
    count = 2000
    errors: list[BaseException] = []

    def noting(function: Callable[..., None], *args: int) -> None:
        try:
            function(*args)
        except BaseException as exc:
            errors.append(exc)

    def consume() -> None:
        while True:
            item = 0
            with move_on_after(chance.random() * 0.002):
                got.append(item := items.get())  # on one line: an interrupt comes between lines
            if item < 0:
                return

    def produce(first: int) -> None:
        for item in range(first, count, 2):
            sent = False
            while not sent:
                with move_on_after(chance.random() * 0.002):
                    sent = items.put(item) is None

    consumers = [threading.Thread(target=noting, args=(consume,)) for _ in range(3)]
    producers = [threading.Thread(target=noting, args=(produce, first)) for first in range(2)]
    for thread in consumers + producers:
        thread.start()
    for thread in producers:
        thread.join()
    for _ in consumers:
        items.put(-1)
    for thread in consumers:
        thread.join(LONG)
        assert not thread.is_alive()
    assert not errors, [traceback.format_exception(error) for error in errors]
    got += [items.get_nowait() for _ in range(items.qsize())]
    assert sorted(item for item in got if item >= 0) == list(range(count))


def test_a_thread_that_ends_as_its_joiner_is_cancelled():
    for _ in range(ROUNDS):
        over = threading.Event()
        thread = threading.Thread(target=over.wait)
        thread.start()
        joining = [Blocked(thread.join), Blocked(thread.join)]
        canceller = threading.Thread(target=joining[0].scope.cancel)
        canceller.start()
        over.set()
        for blocked in joining:
            blocked.join()
        canceller.join()
        assert joining[1].returned
        assert not thread.is_alive()


def test_a_future_and_a_barrier_and_bytes_that_come_as_the_waiter_is_cancelled():
    for _ in range(ROUNDS):
        future: concurrent.futures.Future[int] = concurrent.futures.Future()
        left, right = socket.socketpair()
        barrier = threading.Barrier(2)

        def select(sock: socket.socket) -> bool:
            with selectors.DefaultSelector() as selector:
                selector.register(sock, selectors.EVENT_READ)
                return bool(selector.select())

        def meet(barrier: threading.Barrier) -> bool:
            try:
                barrier.wait(LONG)
            except threading.BrokenBarrierError:
                return False
            return True

        with left, right:
            waiting = [
                Blocked(future.result), Blocked(lambda sock=left: select(sock)), Blocked(barrier.wait),
            ]  # fmt: skip
            others = [Other(future.result), Other(lambda sock=left: select(sock)), Other(lambda b=barrier: meet(b))]
            cancellers = [threading.Thread(target=blocked.scope.cancel) for blocked in waiting]
            for thread in cancellers:
                thread.start()
            future.set_result(1)
            right.send(b"x")
            results = [other.join("future, bytes, barrier") for other in others]
            for blocked in waiting:
                try:
                    blocked.join()
                except threading.BrokenBarrierError:
                    pass
            for thread in cancellers:
                thread.join()
            assert results[:2] == [1, True]
            assert results[2] in {True, False}
            assert left.recv(1) == b"x"


