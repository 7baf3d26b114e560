"""Locks that a thread in a scope does not wait for for ever: opt-in, and otherwise what locks are."""

from __future__ import annotations

import copy
import inspect
import pickle
import queue
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from blocked import LONG, Blocked
from threadsafe_timeout_patches import locks

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, install, move_on_after, patched, uninstall

real_lock, real_rlock = threading.Lock(), threading.RLock()


def make_lock():
    return threading.Lock()


def make_rlock():
    return threading.RLock()


MAKE = {"Lock": make_lock, "RLock": make_rlock}  # by the names, which are looked up when it is called


@pytest.fixture(autouse=True)
def patches(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(locks, "PATIENCE", 0.02)
    with patched(checkpoint="off", patches="+locks"):
        yield


@pytest.fixture(params=MAKE)
def lock(request):
    return MAKE[request.param]()


class Holder:
    """A thread that holds a lock until it is told to let go."""

    def __init__(self, lock) -> None:
        self.held, self.let_go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(lock,))
        self.thread.start()
        self.held.wait()

    def _run(self, lock) -> None:
        with lock:
            self.held.set()
            self.let_go.wait()

    def release(self) -> None:
        self.let_go.set()
        self.thread.join()


def test_it_is_applied_only_if_it_is_asked_for():
    assert type(MAKE["Lock"]()) is locks._Lock
    uninstall()
    assert type(MAKE["Lock"]()) is type(real_lock)
    with patched(checkpoint="off"):
        assert type(MAKE["Lock"]()) is type(real_lock)
        assert not inspect.isbuiltin(time.sleep)
    with patched(checkpoint="off", patches="locks"):
        assert type(MAKE["RLock"]()) is locks._RLock
        assert inspect.isbuiltin(time.sleep)
    install(checkpoint="off", patches="+locks,-time")
    assert type(MAKE["RLock"]()) is locks._RLock
    assert inspect.isbuiltin(time.sleep)


def test_a_wait_ends_with_the_scope(lock):
    holder = Holder(lock)
    for call in (lock.acquire, lock.__enter__, lambda: lock.acquire(timeout=LONG), lambda: lock.acquire(True, LONG)):
        assert Blocked(call).cancel().scope.cancelled_caught
        with pytest.raises(DeadlineExceeded), deadline(0.01):
            call()
        with CancelScope() as scope:
            scope.cancel()
            call()
        assert scope.cancelled_caught
    assert not lock._waiting
    holder.release()
    with lock:
        pass


def test_a_lock_that_is_free_or_only_busy_is_taken_in_a_cancelled_scope(lock, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", LONG)
    with CancelScope() as scope:
        scope.cancel()
        with lock:
            entered = True
    assert entered
    assert not scope.cancelled_caught
    holder = Holder(lock)
    blocked = Blocked(lock.acquire)
    blocked.scope.cancel()
    holder.release()
    assert blocked.join().result is True
    assert not blocked.scope.cancelled_caught


def test_those_who_wait_get_it_in_scopes_and_outside(lock):
    holder = Holder(lock)
    count = 0

    def add() -> None:
        nonlocal count
        with lock:
            count += 1

    outside = [threading.Thread(target=add) for _ in range(3)]
    inside = [Blocked(add) for _ in range(3)]
    for thread in outside:
        thread.start()
    cancelled = Blocked(add)
    cancelled.cancel()
    holder.release()
    for thread in outside:
        thread.join(LONG)
    for blocked in inside:
        blocked.join()
    assert count == 6
    assert not lock._waiting


@pytest.mark.parametrize("in_scope", [False, True])
def test_results_and_errors_are_those_of_the_real_one(lock, in_scope):
    holder = Holder(lock)
    with move_on_after(LONG if in_scope else None):
        assert lock.acquire(False) is False
        assert lock.acquire(blocking=False) is False
        assert lock.acquire(timeout=0.001) is False
        assert lock.acquire(True, 0) is False
        with pytest.raises(ValueError, match="timeout value must be"):
            lock.acquire(timeout=-2)
        with pytest.raises(ValueError, match="can't specify a timeout for a non-blocking call"):
            lock.acquire(False, 1)
        with pytest.raises(OverflowError):
            lock.acquire(timeout=1e300)
        with pytest.raises(TypeError):
            lock.acquire(timeout="1")
        holder.release()
        assert lock.acquire() is True
        lock.release()
        assert lock.acquire(timeout=1) is True
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()
        with lock as entered:
            assert entered is True


def test_a_lock_may_be_released_by_another_thread():
    lock = threading.Lock()
    lock.acquire()
    waiting = Blocked(lock.acquire)
    lock.release()
    assert waiting.join().result is True
    assert lock.locked()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release() or lock.release()
    assert not lock.locked()


def test_an_rlock_is_taken_again_by_its_owner_only():
    lock = threading.RLock()
    with lock, lock:
        assert lock._is_owned()
        assert not Blocked(lambda: lock.acquire(False)).join().result
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            Blocked(lock.release).join()
    assert not lock._is_owned()
    assert hasattr(lock, "locked") is hasattr(real_rlock, "locked")


def test_it_looks_like_the_real_one(lock):
    real = real_lock if isinstance(lock, locks._Lock) else real_rlock
    assert isinstance(real, type(lock))
    assert not isinstance(1, type(lock))
    assert not isinstance(real_rlock, locks._Lock)
    assert repr(lock).partition(" at ")[0] == repr(real).partition(" at ")[0]
    assert weakref.ref(lock)() is lock
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as expected:
            function(real)
        with pytest.raises(TypeError) as got:
            function(lock)
        assert str(got.value) == str(expected.value)
    assert not hasattr(lock, "__dict__")
    names = {name for name in dir(real) if not name.startswith("__")}
    assert names <= set(dir(lock))
    lock._at_fork_reinit()

    class Own(type(lock)):
        pass

    with Own():
        pass
    assert not isinstance(real, Own)


def test_the_libraries_get_real_ones():
    assert type(queue.Queue().mutex) is type(real_lock)
    assert type(threading.Condition()._lock) is type(real_rlock)
    assert threading._allocate_lock is __import__("_thread").allocate_lock
    namespace = {"__name__": "httpcore._backend", "threading": threading}
    assert type(eval("threading.Lock()", namespace)) is type(real_lock)
    namespace["__name__"] = "somebodys_package"
    assert type(eval("threading.Lock()", namespace)) is locks._Lock


def test_names_that_were_imported_are_rebound_and_given_back():
    module = sys.modules[__name__]
    uninstall()
    module.imported = threading.Lock
    original = threading.Lock, threading.RLock
    with patched(checkpoint="off", patches="+locks"):
        assert module.imported is locks._Lock
    assert module.imported is original[0] is threading.Lock
    assert threading.RLock is original[1]
    del module.imported


@pytest.mark.parametrize("kind", MAKE)
def test_a_condition_over_one_has_it_back_whatever_is_cancelled(kind):
    condition = threading.Condition(MAKE[kind]())
    results = []

    def wait() -> None:
        with condition:
            try:
                condition.wait()
            finally:
                results.append(condition._is_owned())

    blocked = Blocked(wait)
    holder = Holder(condition)
    blocked.scope.cancel()
    holder.release()
    assert blocked.join().scope.cancelled_caught
    assert results == [True]
    waiting = Blocked(wait)
    with condition:
        condition.notify_all()
    assert waiting.join().returned
    with condition:
        assert condition.wait(0.001) is False
