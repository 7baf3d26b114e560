"""`asyncio`, from the outside: an event loop that a thread runs ends with the scope around the thread.

Guarantees:

- `asyncio.run`, `Runner.run` and `loop.run_until_complete` inside a scope: when it is cancelled, what they run is
  cancelled as asyncio cancels, so that its `finally` blocks may await, for one grace; after each grace it is cancelled
  again. Then `Cancelled` is raised in place of `CancelledError`. The loop's own clean-up runs to its end. What has a
  result nevertheless returns it.
- A coroutine given to `run_coroutine_threadsafe` inside a scope belongs to it: it is cancelled when the scope is, and
  goes on if the scope is left before. Whoever waits for its future gets `Cancelled`, as in every wait.
- The handler of an alarm (see `signal_alarm`) runs in the loop's thread, between two callbacks. If it returns, the loop
  goes on; what it raises comes out of `run`, when what runs has been cancelled and has ended.
- After Ctrl-C, what ran in a thread pool when it came (`to_thread`, `run_in_executor`) gets half a second when the pool
  is shut down: it is cancelled, if the loop has not done so, and then given up.

Scopes *inside* coroutines are the core's business. Not reached: event loops that are not written in Python (uvloop).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import sys
from collections.abc import Callable
from sys import _getframe
from types import FrameType, ModuleType
from typing import Any

from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout_patches import _llm_call
from threadsafe_timeout_patches._signatures import fitting
from threadsafe_timeout_patches._waiting import called_by_asyncio, replace_attribute

__all__ = ["MODULES", "apply"]

MODULES = ("asyncio.base_events", "asyncio.runners", "asyncio.tasks")

_Wrapped = Callable[..., Any]


def apply(module: ModuleType, patching: Patching) -> None:
    if module.__name__ == "asyncio.tasks":
        _patch_sleep(module, patching)
        _patch_run_coroutine_threadsafe(module, patching)
        return
    if module.__name__ == "asyncio.runners":
        _patch_sigint(module, patching)
        return
    _patch_run_forever(module, patching)
    original, current_scope = module.BaseEventLoop.run_until_complete, _around.current_scope
    isfuture = module.futures.isfuture

    def run_until_complete(self: Any, future: Any) -> Any:
        if current_scope() is None or _is_clean_up(future, _getframe(1)) or self.is_closed() or self.is_running():
            return original(self, future)
        if not isfuture(future) or called_by_asyncio(_getframe(1)):  # which has not begun
            _refuse_if_cancelled(future)
        return _run_in_scope(original, self, future)

    replace_attribute(patching, module.BaseEventLoop, "run_until_complete", run_until_complete)


def _patch_sleep(module: ModuleType, patching: Patching) -> None:
    """Clients wait for their next attempt in it."""
    original = module.sleep

    @functools.wraps(original)
    async def sleep(delay: float, result: Any = None) -> Any:
        if _llm_call.current() is not None:
            _llm_call.refuse_long_wait(delay, module.current_task())
        return await original(delay, result)

    patching.replace(module, "sleep", sleep)


def _patch_sigint(module: ModuleType, patching: Patching) -> None:
    """On the first Ctrl-C `asyncio.run` cancels the main task, on the next it raises KeyboardInterrupt."""
    original = getattr(module.Runner, "_on_sigint", None)
    if original is None:
        return

    def on_sigint(self: Any, *args: Any, **kwargs: Any) -> Any:
        _note_interrupted()
        return original(self, *args, **kwargs)

    replace_attribute(patching, module.Runner, "_on_sigint", on_sigint)


def _patch_run_forever(module: ModuleType, patching: Patching) -> None:
    """Without a Runner, Ctrl-C ends the loop as it ends other code."""
    original = module.BaseEventLoop.run_forever

    def run_forever(self: Any) -> Any:
        try:
            return original(self)
        except KeyboardInterrupt:
            _note_interrupted()
            raise

    replace_attribute(patching, module.BaseEventLoop, "run_forever", run_forever)


def _note_interrupted() -> None:
    exit_ = sys.modules.get("threadsafe_timeout._pool.exit")  # not imported here, in a signal handler
    note = getattr(exit_, "note_interrupted", None)  # else there is no pool, or not yet
    if note is not None:
        note()


def _is_clean_up(future: Any, caller: FrameType) -> bool:
    """Whether it is what asyncio itself, or who does it by hand, runs after the main coroutine."""
    if called_by_asyncio(caller):
        return caller.f_code.co_name != "run"  # Runner.run; else its close()
    frame = getattr(future, "cr_frame", None)
    return frame is not None and called_by_asyncio(frame)  # loop.shutdown_asyncgens() and the like


def _refuse_if_cancelled(coroutine: Any) -> None:
    try:
        _around.raise_if_cancelled()
    except BaseException:  # an alarm's handler may raise anything
        if inspect.iscoroutine(coroutine):
            coroutine.close()  # else it complains that nobody awaited it
        raise


class _Run:
    """A task that a loop runs inside a scope: it is cancelled when the scope is, and an alarm's handler ends it."""

    def __init__(self, loop: Any, task: Any) -> None:
        self.loop, self.task = loop, task
        self.context = contextvars.copy_context()  # in place of the thread's, which is in use: the loop runs in it
        self.asked = self.ended = False
        self.raised: BaseException | None = None
        self.registrations = [
            _registration.on_cancel(self._ask, alarms=False),
            _registration.on_cancel(lambda: self._in_loop(self._run_alarms)),
        ]

    def end(self) -> None:
        self.ended = True
        for registration in self.registrations:
            registration.unregister()
        _around.take_over(self.context)

    def _ask(self) -> None:
        self.asked = True
        self._in_loop(self._cancel)

    def _cancel(self) -> None:
        # Again after each grace: a clean-up that awaits for ever does not keep its thread.
        cancelled = _around.cancelled_scope(always=True)
        if not self.ended and not self.task.done() and cancelled is not None:
            self.task.cancel()
            again = max(cancelled._delivered.grace, _clean_up.SHORTEST)
            self.loop.call_later(again, self._cancel, context=self.context)

    def _run_alarms(self) -> None:
        if self.ended or self.raised is not None:
            return  # what is due stays due
        try:
            _around.run_due_alarms()
        except BaseException as exc:
            self.raised = exc
            self.task.cancel()

    def _in_loop(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self.loop.call_soon_threadsafe(call, context=self.context)


def _run_in_scope(original: _Wrapped, loop: Any, future: Any) -> Any:
    import asyncio

    task = asyncio.ensure_future(future, loop=loop)
    if task is not future:
        task._log_destroy_pending = False  # as the original does: the caller has no task to ask
    run = _Run(loop, task)
    try:
        result = original(loop, task)
    except BaseException as exc:
        if run.raised is None:
            if not (run.asked and isinstance(exc, asyncio.CancelledError)):
                raise
            run.raised = exc
    finally:
        run.end()
    if run.raised is None:
        return result
    try:
        if isinstance(run.raised, asyncio.CancelledError):
            with _clean_up.found_at(place_of(run.raised)):  # in the coroutine
                _around.raise_if_cancelled()  # down here: in the handler above this would count as clean-up
        raise run.raised
    finally:
        run.raised = None  # its traceback refers to this frame


def _patch_run_coroutine_threadsafe(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.run_coroutine_threadsafe, _around.current_scope

    def run_coroutine_threadsafe(coro: Any, loop: Any) -> Any:
        if current_scope() is None:
            return original(coro, loop)
        _refuse_if_cancelled(coro)
        future = _shield.context_for_children().run(original, coro, loop)
        registration = _registration.on_cancel(future.cancel, alarms=False)
        future.add_done_callback(lambda _: registration.unregister())
        return future

    run_coroutine_threadsafe.__doc__ = original.__doc__
    run_coroutine_threadsafe.__module__, run_coroutine_threadsafe.__qualname__ = (
        "asyncio.tasks",
        "run_coroutine_threadsafe",
    )
    patching.replace(module, "run_coroutine_threadsafe", fitting(original, run_coroutine_threadsafe))
