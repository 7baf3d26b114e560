"""One call: what it may take in total, and how that holds for its attempts, its waits and its body.

A call is what a program asks of an LLM client (`llm_timeout`), or else one HTTP exchange (`http_timeout`). A client's
own timeout is per read and per attempt. Here:

- The total runs from the call to the last byte of the answer: retries and back-off are in it, and so is the body of a
  stream, until it is exhausted or closed. A stream that the program itself reads slowly uses it up, too.
- `llm_first_byte` ends an attempt that has no answer begun after so many seconds, `llm_idle_content` one whose body
  has no content for so long. Both are to the client what its own read timeout is: it may try again. Once it has handed
  a stream to the program it cannot, and the error is raised there.
- An attempt is not waited for if the wait is longer than what is left: of the total, or of a scope around.
- The error is the client's own timeout class. A scope around that ends first wins.
- A call that is made inside of another one belongs to that: litellm calls openai's client, and that calls httpx.

How: `run` and its kin put the call into a context variable and a scope around the client's work. What sends (see
`httpx`, `aiohttp`, `http_client`) looks the call up, and binds the body of the answer to it, for when the client has
returned.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextvars import ContextVar
from threading import get_ident
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import deadlines as _deadlines
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._scopes import time_left as _time_left
from threadsafe_timeout._scopes.catchable import library_call
from threadsafe_timeout._settings import settings

__all__ = [
    "Call", "begin_attempt", "begins", "current", "ends", "explained", "http_call", "llm_call", "refuse_after_deadline",
    "refuse_long_wait", "run", "run_async", "run_entering", "run_entering_async",
]  # fmt: skip

_Function = Callable[..., Any]
_END = object()
_current: ContextVar[Call | None] = ContextVar("threadsafe_timeout_llm_call", default=None)


class Call:
    """The limits of one call."""

    __slots__ = (
        "_make_error", "_scope", "answered", "attempts", "carried", "first_byte", "idle_content", "is_llm", "known",
        "limit", "too_long", "until", "why", "worker",
    )  # fmt: skip

    def __init__(self, limit: float | None, make_error: Callable[[], Exception], *, is_llm: bool) -> None:
        self._make_error = make_error
        self._scope: _scope.CancelScope | None = None
        self.limit = limit
        self.is_llm = is_llm
        self.first_byte: float | None = None
        self.idle_content: float | None = None
        self.until = math.inf
        self.attempts = 0
        self.known = False  # see `_pool/observer`
        self.answered = False  # the client has returned, or failed: what comes now is read by the program
        self.carried = False  # whoever sends for the call limits the body already; what it sends through need not
        self.why: str | None = None  # the present attempt was ended, because
        self.too_long: str | None = None  # all of it was ended before its time, because
        self.worker: object = None  # the thread (its ident) or the asyncio task that the client works in

    @property
    def has_only_a_total(self) -> bool:
        """Whether the scope around the client's whole work is all that is needed, until it returns."""
        return self.first_byte is None and self.idle_content is None

    def scope(self) -> _scope.CancelScope:
        """What the client works in: from now on, or, once that has begun, up to the same instant."""
        name = "LLM call" if self.is_llm else "HTTP exchange"
        if self.until == math.inf:
            self._scope = _deadlines.move_on_after(self.limit, name=name)
        else:
            self._scope = _deadlines.move_on_at(self.until, name=name)
        return self._scope

    def timed_out(self, why: str) -> Exception:
        """The client's own timeout error. Its text decides what runners do: "timed out" they give up on."""
        return explained(self._make_error(), why)

    def reason(self) -> str:
        if self.too_long is not None:
            return self.too_long
        if self.is_llm:
            return f"it took more than {self.limit:g} s in total (llm_timeout)"
        return f"http_timeout ({self.limit:g} s) passed"

    def used_up(self) -> Exception:
        return self.timed_out(self.reason())

    def attempt_is_late(self, why: str, read_timeout: Callable[[str], Exception]) -> Exception:
        self.why = why
        return read_timeout(f"timed out: {why}")

    def explain(self, error: Exception) -> None:
        """Put into the client's own error why its attempt was ended, if we ended it."""
        if self.why is not None and self.why not in str(error) and type(error) is type(self._make_error()):
            explained(error, self.why)

    def give_up(self, why: str) -> None:
        """End all of it now: an error is something that a client, or another one around it, would try again after."""
        self.too_long = why
        if self._scope is not None:
            self._scope.cancel(why)


def explained(error: Exception, why: str) -> Exception:
    text = f"Request timed out: {why}."
    error.message = text  # type: ignore[attr-defined]  # where openai's, anthropic's and litellm's classes keep it
    error.args = (text,)
    return error


def llm_call(make_error: Callable[[], Exception]) -> Call:
    """What every call of an LLM client begins with."""
    refuse_after_deadline()
    limits = settings()
    call = Call(limits.llm_timeout, make_error, is_llm=True)
    call.first_byte = limits.llm_first_byte
    call.idle_content = limits.llm_idle_content
    return call


def http_call(make_error: Callable[[], Exception]) -> Call | None:
    """What an HTTP exchange begins with that belongs to no call; None if it has no limit."""
    limit = settings().http_timeout
    return None if limit is None else Call(limit, make_error, is_llm=False)


def refuse_after_deadline() -> None:
    """No LLM client sends anything in a cancelled scope: what begins a call, and every attempt of it, asks here. Not in
    clean-up either: it costs money."""
    _around.raise_if_cancelled(always=True)


def begin_attempt(call: Call) -> None:
    """What every attempt begins with, where something is sent for `call`."""
    call.why = None
    call.attempts += 1
    if call.is_llm:
        refuse_after_deadline()


def current() -> Call | None:
    """The call that the code at hand works for. What a call has left running when it returned works for none."""
    call = _current.get()
    return None if call is None or call.answered else call


def refuse_long_wait(seconds: float, worker: object) -> None:
    """End the call at hand if it is about to sleep until too late: that is how clients wait for their next attempt.

    What `worker`, a thread or a task, does for the call on the side (litellm logs in tasks of its own) may sleep on.
    """
    call = current()
    if call is not None and call.worker == worker and 0 < (left := _time_left.time_remaining()) <= seconds:
        call.give_up(f"the next attempt would be in {seconds:.1f} s, and only {left:.1f} s are left")


@transparent
def run(call: Call, function: _Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` for `call`: from now on, or, if that has begun, in what is left of it."""
    with library_call():
        return _run(call, function, args, kwargs)


@transparent
def _run(call: Call, function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    around = _current.get()
    if around is call and not call.answered:
        return function(*args, **kwargs)
    _current.set(call)
    call.answered, call.worker = False, get_ident()
    begins(call)
    try:
        with call.scope() as scope:
            call.until = scope.deadline
            answer = function(*args, **kwargs)
            if isinstance(answer, GeneratorType):
                call.until = math.inf  # nothing has begun
                return _each(call, answer)
            return answer
    except Exception as exc:
        call.explain(exc)
        raise
    finally:
        call.answered = True
        ends(call)
        _current.set(around)  # not a reset: see the core's _scope._MAY_RESET
    raise call.used_up()


@transparent
async def run_async(call: Call, function: _Function, *args: Any, **kwargs: Any) -> Any:
    around = _current.get()
    if around is call and not call.answered:
        return await function(*args, **kwargs)
    _current.set(call)
    call.answered, call.worker = False, _task()
    begins(call)
    try:
        with call.scope() as scope:
            call.until = scope.deadline
            answer = await function(*args, **kwargs)
            if isinstance(answer, AsyncGeneratorType):
                call.until = math.inf
                return _each_async(call, answer)
            return answer
    except Exception as exc:
        call.explain(exc)
        raise
    finally:
        call.answered = True
        ends(call)
        _current.set(around)
    raise call.used_up()


def begins(call: Call) -> None:
    """Tell who records the run that something is waited for."""
    if _observer.llm_begins is not None and call.is_llm:
        _observer.llm_begins(call)


def ends(call: Call) -> None:
    if _observer.llm_ends is not None and call.is_llm:
        _observer.llm_ends(call)


def _task() -> object:
    import asyncio  # here: the import takes longer than that of this library, and many programs have no event loop

    try:
        return asyncio.current_task()
    except RuntimeError:  # another event loop
        return None


def _each(call: Call, steps: Generator[Any, Any, Any]) -> Iterator[Any]:
    """The steps of a generator that is the whole call: it begins with the first one."""
    try:
        if call.is_llm:
            refuse_after_deadline()
        while (step := run(call, next, steps, _END)) is not _END:
            yield step
    finally:
        steps.close()


async def _each_async(call: Call, steps: AsyncGenerator[Any, Any]) -> AsyncIterator[Any]:
    try:
        if call.is_llm:
            refuse_after_deadline()
        while (step := await run_async(call, anext, steps, _END)) is not _END:
            yield step
    finally:
        await steps.aclose()


@contextlib.contextmanager
def run_entering(begin: Callable[[], Call], manager: Any) -> Iterator[Any]:
    """A context manager that makes a call when it is entered, and gives what is to be read."""
    value = run(begin(), manager.__enter__)
    try:
        yield value
    except BaseException as exc:
        if not manager.__exit__(type(exc), exc, exc.__traceback__):
            raise
    else:
        manager.__exit__(None, None, None)


@contextlib.asynccontextmanager
async def run_entering_async(begin: Callable[[], Call], manager: Any) -> AsyncIterator[Any]:
    value = await run_async(begin(), manager.__aenter__)
    try:
        yield value
    except BaseException as exc:
        if not await manager.__aexit__(type(exc), exc, exc.__traceback__):
            raise
    else:
        await manager.__aexit__(None, None, None)
