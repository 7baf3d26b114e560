"""A daemon thread whose beginning and end are noticed, whatever is thrown at it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from threadsafe_timeout import ThreadPoolExecutor, move_on_after, sleep
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._timing.daemon_thread import DaemonThread


class Stray(Exception):
    pass


@pytest.fixture
def unheard(monkeypatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


def strike_once(monkeypatch, method: str, chosen: Callable[[threading.Thread], bool]) -> list[threading.Thread]:
    """Raise in a method of the standard thread's, once: what strikes there. Returns who was struck."""
    struck: list[threading.Thread] = []
    original = getattr(threading.Thread, method)

    def stricken(self: threading.Thread, *args: Any) -> Any:
        if chosen(self) and not struck:
            struck.append(self)
            raise Stray
        return original(self, *args)

    monkeypatch.setattr(threading.Thread, method, stricken)
    return struck


# In the order in which a thread comes by: before it has an ident, before it says that it has begun, before `run`.
PLACES = ["_bootstrap_inner", "_set_ident", "run"]


@pytest.mark.usefixtures("unheard")
@pytest.mark.parametrize("place", PLACES)
def test_who_starts_it_does_not_wait_for_ever_and_its_end_is_noticed(monkeypatch, place):
    gone = threading.Event()
    thread = DaemonThread(lambda: None, "struck", gone.set)
    struck = strike_once(monkeypatch, place, lambda one: one is thread)
    thread.start()
    assert gone.wait(120)
    assert struck == [thread]
    if thread.is_alive():
        thread.join(120)
    assert not thread.is_alive()


def test_a_thread_that_ends_while_it_is_found_to_have_begun():
    """A wait for its beginning passes a gate; the end of the thread, in that moment, opens it once more."""

    class Gate:
        def __init__(self, gate):
            self.gate, self.release = gate, gate.release

        def acquire(self, timeout):
            acquired = self.gate.acquire(timeout=timeout)
            thread.join()
            return acquired

    thread = DaemonThread(lambda: None, "short")
    thread._started._gate = Gate(thread._started._gate)
    thread.start()
    assert thread._started.wait(0)
    assert thread._started.wait(0), "the gate stays open"


@pytest.mark.usefixtures("unheard")
def test_its_end_is_noticed_though_that_is_struck_too():
    calls = []
    gone = threading.Event()

    def at_the_end() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise Stray
        gone.set()

    thread = DaemonThread(lambda: None, "ending", at_the_end)
    thread.start()
    assert gone.wait(120)
    thread.join(120)


def test_what_it_calls_is_not_kept_once_it_has_ended():
    class Owner:
        pass

    import weakref

    owner = Owner()
    seen = weakref.ref(owner)
    thread = DaemonThread(lambda: None, "short", lambda owner=owner: None)
    thread.start()
    thread.join(120)
    del owner
    pause = threading.Event()
    for _ in range(1000):  # the thread lets go after it is joined
        if seen() is None:
            break
        pause.wait(0.01)
    assert seen() is None


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "begun") as pool:
        yield pool


@pytest.mark.usefixtures("unheard")
@pytest.mark.parametrize("place", PLACES)
def test_a_worker_struck_as_it_begins_is_replaced(monkeypatch, caplog, pool, place):
    struck = strike_once(monkeypatch, place, lambda one: one.name.startswith("begun_"))
    assert pool.submit(int, "7").result(120) == 7
    assert len(struck) == 1
    assert pool.stats()["respawned"] == 1
    assert pool.stats()["workers"] == 1


@pytest.mark.usefixtures("unheard")
@pytest.mark.parametrize("place", PLACES)
def test_the_thread_that_watches_deadlines_is_replaced_if_it_is_struck_as_it_begins(monkeypatch, place):
    _timer.shutdown()
    struck = strike_once(monkeypatch, place, lambda one: one.name == _timer.THREAD_NAME)
    with move_on_after(0.01) as scope:
        sleep(10)
    assert scope.cancelled_caught
    assert len(struck) == 1
