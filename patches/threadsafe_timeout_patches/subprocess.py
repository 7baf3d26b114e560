"""`subprocess`: a wait ends with the scope around it, and the child ends with the wait.

Guarantees, when a scope is cancelled while its thread is in `wait`, `communicate`, `run`, `call`, `check_call` or
`check_output`:

- The child is killed (SIGKILL), and its process group if it leads one of its own (`start_new_session`,
  `process_group=0`), and its descendants as far as /proc shows them.
- The child is reaped: no zombie is left. After `communicate` and the functions, its pipes are closed.
- A child in no cancelled wait is not touched: who started it may want it to go on.
- `run` and its kind start nothing in a scope that is cancelled already.
- An alarm (see `signal_alarm`) whose handler returns leaves the child alone. If the handler raises, a child that was
  communicated with is killed.

Not guaranteed: a descendant that has left the tree (a daemon) lives on. A program's own `communicate` with a single
pipe is one read, in C: it ends with the last writer, and an alarm's handler waits for that, unless it has a `raise`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import subprocess
from collections.abc import Callable
from sys import _getframe
from types import ModuleType
from typing import Any

from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._processes.tree import kill_tree
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._scopes.catchable import CANCELLED
from threadsafe_timeout_patches._descriptors import exit_descriptor, wait_ready
from threadsafe_timeout_patches._waiting import Remaining, raised_by_alarm, replace_attribute

__all__ = ["MODULES", "apply"]

MODULES = ("subprocess",)

_Wrapped = Callable[..., Any]
_LONG = 1e6
_REAP_SECONDS = 2.0  # for a killed process to be gone; only one in an uninterruptible system call takes longer


def apply(module: ModuleType, patching: Patching) -> None:
    if module._mswindows:
        return  # processes there are waited for in C, without a timeout below the caller's
    wait, communicate, poll = module.Popen.wait, module.Popen.communicate, module.Popen.poll
    current_scope = _around.current_scope

    def popen_wait(self: Any, timeout: float | None = None) -> int:
        if current_scope() is None or poll(self) is not None:  # it has ended: no need to wait
            return wait(self, timeout)  # type: ignore[no-any-return]  # the original is untyped
        return _wait_in_scope(wait, self, timeout)

    def popen_communicate(self: Any, input: Any = None, timeout: float | None = None) -> Any:
        if current_scope() is None:
            return communicate(self, input, timeout)
        one_call = timeout is None and _is_one_call(self)
        call = functools.partial(communicate, self, input, timeout)
        if one_call and self.stdin is None and _getframe(1).f_globals is vars(module):
            # For `run`, which has read nothing yet: what a file object has read ahead would be missed.
            one_call, call = False, functools.partial(_read_by_descriptor, communicate, self)
        return _communicate_in_scope(call, wait, self, one_call)

    replace_attribute(patching, module.Popen, "wait", popen_wait)
    replace_attribute(patching, module.Popen, "communicate", popen_communicate)
    for name in ("run", "call"):  # check_output and check_call are made of these
        patching.replace(module, name, _refusing(getattr(module, name)))


def _refusing(original: _Wrapped) -> _Wrapped:
    def start(*popenargs: Any, **kwargs: Any) -> Any:
        _around.raise_if_cancelled()
        return original(*popenargs, **kwargs)

    start.__name__, start.__qualname__ = original.__name__, original.__qualname__
    start.__doc__, start.__module__ = original.__doc__, original.__module__
    start.__wrapped__ = original  # type: ignore[attr-defined]  # what inspect.signature looks at
    return start


def _wait_in_scope(original: _Wrapped, popen: Any, timeout: float | None) -> int:
    try:
        return _wait_for_exit(original, popen, timeout)
    except CANCELLED:
        _end(original, popen)
        raise


def _wait_for_exit(original: _Wrapped, popen: Any, timeout: float | None) -> int:
    _around.raise_if_cancelled()
    descriptor = exit_descriptor(popen.pid)
    if descriptor is None:
        return _wait_capped(original, popen, timeout)
    try:
        if not wait_ready(descriptor, select.POLLIN, timeout):
            raise subprocess.TimeoutExpired(popen.args, timeout)  # type: ignore[arg-type]  # not None: it expired
    finally:
        os.close(descriptor)
    return original(popen)  # type: ignore[no-any-return]  # it has ended: this reaps it


def _wait_capped(original: _Wrapped, popen: Any, timeout: float | None) -> int:
    """Without a descriptor to wait for: what the original does with a timeout, which is to sleep in `time.sleep`."""
    remaining = Remaining(timeout)
    while True:
        seconds = remaining.seconds()
        try:
            return original(popen, _LONG if seconds is None else seconds)  # type: ignore[no-any-return]
        except subprocess.TimeoutExpired as exc:
            _around.raise_if_cancelled()
            if not remaining.own:
                exc.timeout = timeout  # type: ignore[assignment]  # not None: it expired
                raise


def _is_one_call(popen: Any) -> bool:
    """Whether to communicate is to read, or to write, a pipe in one call, written in C."""
    return not popen._communication_started and [popen.stdin, popen.stdout, popen.stderr].count(None) == 2


def _read_by_descriptor(original: _Wrapped, popen: Any) -> Any:
    """Read a single pipe the way several are: through a selector, which is woken."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return original(popen, None, _LONG)


def _communicate_in_scope(call: Callable[[], Any], wait: _Wrapped, popen: Any, one_call: bool) -> Any:
    killed, around = False, _around.current_scope()

    def kill() -> None:
        # In the canceller's thread: one call in C ends when the pipe does.
        nonlocal killed
        if popen.poll() is None:
            killed = True
            kill_tree(popen.pid)

    def kill_for_alarm() -> None:
        if _alarm_will_raise(around):
            kill()

    try:
        _around.raise_if_cancelled()
        registrations = [_registration.on_cancel(kill, alarms=False)]
        if one_call:
            registrations.append(_registration.on_cancel(kill_for_alarm))
        try:
            result = call()
        finally:
            for registration in registrations:
                registration.unregister()
        if killed:
            _around.raise_if_cancelled()
        elif one_call:
            _around.run_due_alarms()  # which it was not woken for
        return result
    except CANCELLED:
        _end(wait, popen)
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        raise
    except BaseException as exc:
        if raised_by_alarm(exc) and popen.poll() is None:
            kill_tree(popen.pid)
        raise


def _alarm_will_raise(scope: Any) -> bool:
    """Whether the handler of an alarm that has gone off is likely to raise something."""
    while scope is not None:
        if scope._once and scope._cancelled and scope._will_raise():
            return True
        scope = scope._parent
    return False


def _end(wait: _Wrapped, popen: Any) -> None:
    """Kill the child with all that belongs to it, and reap it."""
    if popen.poll() is not None:
        return
    kill_tree(popen.pid)
    with contextlib.suppress(subprocess.TimeoutExpired), _shield.shield(2 * _REAP_SECONDS):
        _wait_for_exit(wait, popen, _REAP_SECONDS)
