"""Waits for descriptors: they end with the scope, and what they waited for is in order."""

from __future__ import annotations

import contextlib
import select
import selectors

import pytest
from blocked import LONG, Blocked
from child_ends import SELECTORS

from threadsafe_timeout import CancelScope, DeadlineExceeded, deadline, move_on_after, shield

pytestmark = pytest.mark.usefixtures("installed", "no_leaked_descriptors")


def selecting(cls, sock, timeout=None):
    def call():
        with cls() as selector:
            selector.register(sock, selectors.EVENT_READ)
            try:
                return [key.fileobj for key, _ in selector.select(timeout)]
            finally:
                assert list(selector.get_map()) == [sock.fileno()]
                # Whatever woke it is not left behind in what is below the map.
                with contextlib.suppress(AttributeError):
                    assert selector._readers == {sock.fileno()}

    return call


def stuck_descriptors(sock):
    calls = {cls.__name__: selecting(cls, sock) for cls in SELECTORS}
    calls["SelectSelector, timeout"] = selecting(selectors.SelectSelector, sock, LONG)
    calls["EpollSelector, timeout"] = selecting(selectors.DefaultSelector, sock, LONG)
    calls["select"] = lambda: select.select([sock], [], [])
    calls["select, timeout"] = lambda: select.select([], [], [sock], int(LONG))
    calls["nothing"] = lambda: select.select([], [], [], LONG)
    return calls


def test_descriptor_waits_end_with_the_scope(pair):
    for name, call in stuck_descriptors(pair[0]).items():
        with pytest.raises(DeadlineExceeded), deadline(0.02):
            call()
        assert Blocked(call).cancel().scope.cancelled_caught, name
        with CancelScope() as scope:
            scope.cancel()
            call()
        assert scope.cancelled_caught, name
        with CancelScope() as scope:
            scope.cancel()
            with shield(0.02):
                call()
        assert scope.cancelled_caught, name


@pytest.mark.parametrize("in_scope", [False, True])
@pytest.mark.parametrize("cls", SELECTORS)
def test_selectors_return_what_is_ready(cls, in_scope, pair):
    left, right = pair
    with move_on_after(LONG) if in_scope else contextlib.nullcontext():
        for timeout in (0, -1, 0.001):
            assert selecting(cls, left, timeout)() == []
        right.send(b"x")
        for timeout in (None, 0, 1):
            assert selecting(cls, left, timeout)() == [left]
        with cls() as selector:
            assert selector.select(0.001) == []


@pytest.mark.parametrize("in_scope", [False, True])
def test_select_returns_what_is_ready(in_scope, pair):
    left, right = pair
    with move_on_after(LONG) if in_scope else contextlib.nullcontext():
        assert select.select([left], [], [], 0.001) == ([], [], [])
        assert select.select(iter([left]), [], [], 0) == ([], [], [])
        assert select.select([left], [right], [], None) == ([], [right], [])
        right.send(b"x")
        assert select.select([left.fileno()], (), [], True) == ([left.fileno()], [], [])
        assert select.select([left], [], []) == ([left], [], [])
        with pytest.raises(TypeError):
            select.select([left], [], [], "1")
        with pytest.raises(ValueError, match="non-negative"):
            select.select([left], [], [], -1)
        with pytest.raises(OverflowError):
            select.select([left], [], [], 1e300)
        with pytest.raises(TypeError):
            select.select([object()], [], [], 0)
        with pytest.raises(TypeError):
            select.select(1, [], [], 0)


@pytest.mark.parametrize("cls", SELECTORS)
def test_a_wait_that_was_not_cancelled_sees_what_arrives(cls, pair):
    left, right = pair
    blocked, other = Blocked(selecting(cls, left)), Blocked(lambda: select.select([left], [], []))
    right.send(b"x")
    assert blocked.join().result == [left]
    assert other.join().result == ([left], [], [])
    assert left.recv(1) == b"x"


@pytest.mark.parametrize("in_scope", [False, True])
@pytest.mark.parametrize("position", range(3))
def test_select_refuses_what_the_original_refuses_with_its_words(in_scope, position):
    lists: list[object] = [[], [], []]
    with move_on_after(LONG) if in_scope else contextlib.nullcontext():
        for value, error, words in (
            (5, TypeError, "arguments 1-3 must be sequences"),
            (None, TypeError, "arguments 1-3 must be sequences"),
            (["x"], TypeError, "argument must be an int, or have a fileno"),
            ([-1], ValueError, "file descriptor cannot be a negative integer"),
            ((1 // number for number in [0]), ZeroDivisionError, "by zero"),
        ):
            lists[position] = value
            with pytest.raises(error, match=words):
                select.select(*lists)
