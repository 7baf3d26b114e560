"""Tokens: what cancels scopes from outside, and calls back."""

import threading

import pytest

from threadsafe_timeout import (
    CancelScope,
    check_cancelled,
    move_on_after,
)
from threadsafe_timeout._scopes.tokens import CancelSource, CancelToken


def test_a_token_cancels_scopes_and_calls_back():
    source, heard = CancelSource(), []
    handle = source.token.register(lambda: heard.append(1))
    forgotten = source.token.register(lambda: heard.append(2))
    forgotten.unregister()
    with CancelScope(token=source.token) as scope:
        assert not source.token.cancelled
        assert source.cancel("shutdown")
        assert not source.cancel("again")
        check_cancelled()
    assert scope.cancelled_caught
    assert scope.reason == source.token.reason == "shutdown"
    assert heard == [1]
    handle.unregister()
    assert "shutdown" in repr(source.token)


def test_registering_on_a_cancelled_token_calls_at_once():
    source, heard = CancelSource(), []
    source.cancel()
    source.token.register(lambda: heard.append(1))
    assert heard == [1]
    with CancelScope(token=source.token) as scope:
        check_cancelled()
    assert scope.cancelled_caught


def test_a_left_scope_no_longer_listens():
    source = CancelSource()
    with CancelScope(token=source.token) as scope:
        pass
    source.cancel()
    assert not scope.cancel_called
    assert not source.token._registrations


def test_a_failing_callback_does_not_stop_the_others(caplog):
    source, heard = CancelSource(), []
    source.token.register(lambda: 1 / 0)
    source.token.register(lambda: heard.append(1))
    source.cancel()
    assert heard == [1]
    assert "callback failed" in caplog.text


def test_linked_tokens():
    one, two = CancelSource(), CancelSource()
    linked = CancelToken.linked(one.token, two.token)
    assert not linked.cancelled
    two.cancel("second")
    one.cancel("first")
    assert linked.reason == "second"
    gone = CancelToken.linked(CancelSource().token, one.token)
    assert gone.reason == "first"


def test_token_wait(clock):
    clock.autojump = 0.01
    source = CancelSource()
    assert not source.token.wait(120)
    clock.autojump = None  # it does not see the thread that is about to wake this one
    waker = threading.Thread(target=source.cancel)
    waker.start()
    assert source.token.wait(1000)
    waker.join()
    assert source.token.wait()
    clock.autojump = 0.01
    with move_on_after(1) as scope:
        CancelSource().token.wait()
    assert scope.cancelled_caught
    with pytest.raises(ValueError, match="timeout"):
        source.token.wait(-1)
