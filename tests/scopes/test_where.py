"""Every `DeadlineExceeded` says where in the program its deadline found the code. The lines are marked `# here`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import json
import linecache
import multiprocessing
import os
import pickle
import sys
import threading
import weakref

import pytest
from here import assert_here

from threadsafe_timeout import (
    Cancelled,
    DeadlineExceeded,
    check_cancelled,
    deadline,
    patched,
    sleep,
)
from threadsafe_timeout._introspection.frames import users_frame, users_place
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._scopes import clean_up
from threadsafe_timeout.testing import MockClock

LONG = 120


def expired(call):
    """What `call` raises in a deadline that has passed already. No interrupt strikes before it gets there: whoever
    cancels a scope of his own thread gets none."""
    with pytest.raises(DeadlineExceeded) as caught, deadline(LONG) as scope:
        scope.cancel("deadline")
        call()
    return caught.value


# Scopes


def check():
    check_cancelled()  # here


def check_below():
    check()


def wait():
    sleep(LONG)  # here


def wait_in_the_library():
    threading.Event().wait(LONG)  # here


def busy(begun):
    while not begun.update(there=True): pass  # here  # noqa: E701


def recurse(depth=500):
    recurse(depth - 1) if depth else check()


@pytest.mark.parametrize(
    ("call", "function"),
    [(check, "check"), (check_below, "check"), (wait, "wait"), (recurse, "check"), (lambda: [check() for _ in range(1)], "check")],
)  # fmt: skip
def test_at_a_cooperative_point(call, function):
    assert_here(expired(call), __file__, function)


def test_in_a_patched_wait():
    with patched(checkpoint="off"):
        assert_here(expired(wait_in_the_library), __file__, "wait_in_the_library")


def test_in_busy_code():
    begun = {}

    def expire():
        while not begun:
            os.sched_yield()
        scope.cancel("deadline")

    with pytest.raises(DeadlineExceeded) as caught, deadline(LONG) as scope:
        other = threading.Thread(target=expire)
        other.start()
        busy(begun)
    other.join(LONG)
    assert_here(caught.value, __file__, "busy")


def test_in_the_block_itself():
    with MockClock() as clock, pytest.raises(DeadlineExceeded) as caught, deadline(5):
        clock.jump(6)
        check_cancelled()  # here
    assert_here(caught.value, __file__, "test_in_the_block_itself")


def test_a_decorated_function():
    @deadline(0)
    def decorated():
        check_cancelled()  # here

    with pytest.raises(DeadlineExceeded) as caught:
        decorated()
    assert_here(caught.value, __file__, "decorated")


def test_the_first_place_counts_not_the_clean_up_after_it():
    def retrying():
        for _ in range(3):
            try:
                check()
            except BaseException:
                pass
        check_cancelled()

    def cleaning_up():
        try:
            check()
        finally:
            while True:
                check_cancelled()  # until its grace is over

    assert_here(expired(retrying), __file__, "check")
    with patched(checkpoint="off", grace=0.01):
        assert_here(expired(cleaning_up), __file__, "check")


def test_code_that_swallows_it_and_returns():
    def swallowing():
        try:
            check()
        except BaseException:
            return

    assert_here(expired(swallowing), __file__, "check")


def test_a_thread_of_its_own_has_a_place_of_its_own():
    """What inherits the scope meets the cancellation elsewhere."""
    def in_a_thread():
        thread = threading.Thread(target=contextvars.copy_context().run, args=(swallow, check))
        thread.start()
        thread.join()
        check_cancelled()  # here

    def swallow(call):
        with pytest.raises(Cancelled):
            call()

    assert_here(expired(in_a_thread), __file__, "in_a_thread")


def test_in_a_group():
    def grouping():
        try:
            check()
        except BaseException as exc:
            raise BaseExceptionGroup("several", [ValueError(), BaseExceptionGroup("more", [exc])]) from None

    def only_that():
        try:
            check()
        except BaseException as exc:
            raise BaseExceptionGroup("one", [exc]) from None

    assert_here(expired(grouping), __file__, "check")
    assert_here(expired(only_that), __file__, "check")


def test_the_message_stays_what_it_was_and_the_new_argument_is_the_last():
    error = DeadlineExceeded("fetch", 5, 6.0, "deadline")
    assert str(error) == "fetch timed out after 6.0 seconds (its deadline was 5 s)"
    assert error.where is None
    assert DeadlineExceeded().where is None
    place = ("a.py", 7, "f")
    assert str(DeadlineExceeded("fetch", 5, 6.0, "because", place)) == (
        "fetch timed out after 6.0 seconds (its deadline was 5 s), at a.py:7, in f: because"
    )
    evil = str(DeadlineExceeded("fetch", where=("a\nb.py", 7, "f\x1b[2J")))
    assert evil.isprintable()


class Older(DeadlineExceeded):
    """A subclass that knows nothing of the new argument."""

    def __init__(self, name=None, budget=None, elapsed=None, reason=None):
        super().__init__(name, budget, elapsed, reason)


def test_a_subclass_with_the_old_arguments_pickles():
    copy = pickle.loads(pickle.dumps(Older("fetch", 5, 6.0, "deadline")))
    assert (type(copy), copy.where, copy.elapsed) == (Older, None, 6.0)


class Heavy:
    pass


def test_no_frame_is_kept():
    """Nor what its variables hold: only strings and numbers."""

    def holding():
        heavy = Heavy()
        seen.append(weakref.ref(heavy))
        check()

    seen: list[weakref.ref] = []
    error = expired(holding)
    assert_here(error, __file__, "check")
    gc.collect()
    assert seen[0]() is not None, "its traceback keeps it, as any other error's does"
    error.__traceback__ = error.__cause__.__traceback__ = None
    del error.__cause__.scope
    error.__cause__ = error.__context__ = None
    gc.collect()
    assert seen[0]() is None
    assert {type(part) for part in error.where} == {str, int}


# Coroutines


async def awaiting():
    await asyncio.sleep(LONG)  # here


async def awaiting_a_task():
    await asyncio.create_task(awaiting())


async def gathering():
    await asyncio.gather(awaiting())


async def waiting_for_a_future():
    await asyncio.get_running_loop().create_future()  # here


async def in_a_lock():
    lock = asyncio.Lock()
    await lock.acquire()
    async with lock:  # here
        pass


async def with_a_limit_of_asyncio():
    async with asyncio.timeout(LONG):
        await asyncio.sleep(LONG)  # here


async def waiting_for():
    await asyncio.wait_for(awaiting(), LONG)  # here


async def in_a_task_group():
    async with asyncio.TaskGroup() as group:  # here
        group.create_task(awaiting())


COROUTINES = [
    (awaiting, "awaiting"), (awaiting_a_task, "awaiting"), (gathering, "awaiting"),
    # On 3.11 it raises an error of its own.
    (waiting_for, "awaiting" if sys.version_info >= (3, 12) else "waiting_for"),
    (waiting_for_a_future, "waiting_for_a_future"), (in_a_lock, "in_a_lock"),
    (with_a_limit_of_asyncio, "with_a_limit_of_asyncio"), (in_a_task_group, "in_a_task_group"),
]  # fmt: skip


def expire_soon(scope, rounds=50):
    """Some rounds of the event loop later: then all that the coroutine has started waits."""
    if rounds:
        asyncio.get_running_loop().call_soon(expire_soon, scope, rounds - 1)
    else:
        scope.cancel("deadline")


@pytest.mark.parametrize(("coroutine", "function"), COROUTINES)
def test_in_a_coroutine(coroutine, function):
    """The program's frame, not asyncio's."""

    async def main():
        async with deadline(LONG) as scope:
            expire_soon(scope)
            await coroutine()

    with pytest.raises(DeadlineExceeded) as caught:
        asyncio.run(main())
    assert_here(caught.value, __file__, function)


@pytest.mark.parametrize(("coroutine", "function"), COROUTINES)
def test_an_event_loop_that_a_scope_ends(coroutine, function):
    """The scope is around `asyncio.run`: what its deadline found is the coroutine."""
    async def main():
        expire_soon(scope)
        await coroutine()

    with patched(checkpoint="off"), pytest.raises(DeadlineExceeded) as caught:
        with deadline(LONG) as scope:
            asyncio.run(main())
    assert_here(caught.value, __file__, function)


# Processes


def in_a_child():
    with deadline(LONG) as scope:
        scope.cancel("deadline")
        check()


@pytest.mark.parametrize("method", sorted(set(multiprocessing.get_all_start_methods()) & {"spawn", "fork"}))
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_from_another_process(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        error = pool.submit(in_a_child).exception(LONG)
    assert_here(error, __file__, "check")
    with context.Pool(1) as pool, pytest.raises(DeadlineExceeded) as caught:
        pool.apply(in_a_child)
    assert_here(caught.value, __file__, "check")


# What a place is


def test_a_place_in_a_library_is_where_the_program_called_it():
    def dump():
        json.dumps({"a": object()})  # here

    with pytest.raises(TypeError) as caught:
        dump()
    file, line, function = place_of(caught.value)
    assert (file, function.rpartition(".")[2]) == (__file__, "dump")
    assert "# here" in linecache.getline(file, line)
    assert users_frame(None) is users_place(None) is place_of(None) is None


def test_a_scope_that_does_not_expire_looks_at_no_frame(monkeypatch):
    def looked(*_):
        raise AssertionError("it was looked at")

    monkeypatch.setattr(clean_up, "users_frame", looked)
    with deadline(LONG):
        check_cancelled()
    with pytest.raises(AssertionError, match="looked at"), deadline(0):
        check_cancelled()
