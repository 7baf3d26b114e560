"""Processes that are forked inside a scope: their scopes are their own."""

from __future__ import annotations

import multiprocessing
import select
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Pipe

import pytest
from blocked import LONG, Blocked, expire
from child_ends import forks
from paces import at_some_pace
from threadsafe_timeout_patches import _descriptors, _llm_call

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, move_on_after, shield
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import timer as _timer

pytestmark = pytest.mark.usefixtures("installed", "no_leaked_descriptors")
FORK = multiprocessing.get_context("fork")


def report(connection, call):
    """In a child: what `call` returned."""
    connection.send(call())


def forked(call):
    """A child that was forked here and calls it, and the connection that it reports on."""
    mine, theirs = Pipe()
    child = FORK.Process(target=report, args=(theirs, call))
    child.start()
    theirs.close()
    return child, mine


def reported(child, connection):
    with connection:
        result = connection.recv()
    child.join(LONG)
    assert child.exitcode == 0
    child.close()
    return result


def works_on(until):
    """Compute until then, wait a moment, and see what there is of the parent's."""
    computed = 0
    while time.monotonic() < until:
        computed += 1
    time.sleep(0.001)
    return computed > 0, _around.current_scope() is None, len(_pursuit._targets), _llm_call.current() is None


@forks
def test_a_process_forked_inside_a_scope_outlives_its_deadline():
    token = _llm_call._current.set(_llm_call.Call(None, Exception, is_llm=True))
    try:
        at_some_pace(fork_before_the_deadline)
        with CancelScope() as scope:
            scope.cancel()
            starts_late = forked(lambda: works_on(0))
        with shield(LONG), move_on_after(LONG) as scope:
            may_cancel = forked(lambda: (scope.cancel(), time.sleep(0.001)))
    finally:
        _llm_call._current.reset(token)
    assert reported(*starts_late) == (False, True, 0, True)
    assert reported(*may_cancel) == (False, None)


def fork_before_the_deadline(pace):
    with move_on_after(LONG), move_on_after(0.5 * pace) as scope:
        _timer.settle(LONG)
        works = forked(lambda: works_on(scope.deadline + 0.2))
        time.sleep(LONG)
    assert scope.cancelled_caught
    assert reported(*works) == (True, True, 0, True)


@forks
def test_scopes_and_deadlines_in_a_process_forked_inside_a_scope_are_its_own():
    def wait():
        with move_on_after(0.01) as scope:
            threading.Event().wait(LONG)
        return scope.cancelled_caught

    with move_on_after(LONG):
        assert reported(*forked(wait))


@forks
def test_a_process_pool_that_was_first_used_inside_a_scope_goes_on():
    with ProcessPoolExecutor(1, mp_context=FORK) as pool:
        with pytest.raises(DeadlineExceeded), deadline(LONG):
            assert pool.submit(abs, -1).result() == 1
            expire()
            time.sleep(LONG)
        assert pool.submit(time.sleep, 0.1).result(LONG) is None
        assert pool.submit(abs, -2).result(LONG) == 2


@forks
def test_a_forked_process_does_not_wake_its_parents_threads(pair):
    at_some_pace(lambda pace: fork_while_a_thread_receives(*pair, pace))


def fork_while_a_thread_receives(left, right, pace):
    until = []

    def receive():
        with move_on_after(0.3 * pace) as scope:
            until.append(scope.deadline)
            left.recv(1)

    receiving = Blocked(receive)
    child = forked(lambda: works_on(until[0] + 0.1))
    right.send(b"x")
    receiving.join()
    assert reported(*child)[0]
    for wakeup in _descriptors._spare:
        assert not select.select([wakeup.fd], [], [], 0)[0]
