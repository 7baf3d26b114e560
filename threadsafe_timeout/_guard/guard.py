"""The guard for interactive executors: a loop of LLM turns and tool calls that must end.

It makes the executor's own loop end itself the way it already knows: once the time is up or a loop is seen, the turn
method returns None, so evaluation, scores and the result are the executor's own, with everything done so far.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from threadsafe_timeout import _clock, _scope
from threadsafe_timeout._settings import settings

__all__ = ["GuardOptions", "Watch", "guard_interactive", "guarded"]

T = TypeVar("T")
logger = logging.getLogger("threadsafe_timeout")
_watch: ContextVar[Watch | None] = ContextVar("threadsafe_timeout_guard", default=None)

_SEARCH = re.compile(r"<tool_search>(.*?)</tool_search>", re.DOTALL)
_CALL = re.compile(r"<tool_call>", re.DOTALL)
# What the executor's evaluation gets of a task's last seconds, so that it does not run into the task's own deadline.
_RESERVE_SHARE = 0.1


def asks_to_search(response: str) -> bool:
    """Whether a turn only asks for another tool search."""
    return bool(_SEARCH.search(response)) and not _CALL.search(response)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """How one executor is guarded; see `guard_interactive`."""

    timeout: float | None
    max_consecutive_searches: int | None
    loop_guard: str
    is_search: Callable[[str], bool]


class Watch:
    """What the guard knows of one run of an executor. Used by one thread."""

    def __init__(self, options: GuardOptions) -> None:
        self.options = options
        self.ended: str | None = None  # "timeout" or "search_loop"
        self.searches: list[str] = []
        self.started = _clock.monotonic()
        remaining = _scope.time_remaining()
        reserve = min(settings().grace, remaining * _RESERVE_SHARE)
        own = float("inf") if options.timeout is None else options.timeout
        self.deadline = self.started + min(own, remaining - reserve if reserve < remaining else remaining)

    def see(self, response: object) -> bool:
        """Take note of a turn; True if the loop has to end here."""
        if not isinstance(response, str) or not self.options.is_search(response):
            self.searches.clear()
            return False
        self.searches.append((_SEARCH.search(response) or [response, response])[1].strip())
        limit = self.options.max_consecutive_searches
        if limit is None or len(self.searches) <= limit or self.options.loop_guard == "off":
            return False
        logger.warning(
            "threadsafe-timeout: %d search turns in a row (max_consecutive_searches is %d); last query: %.80r; %s",
            len(self.searches), limit, self.searches[-1],
            "the loop is ended" if self.options.loop_guard == "stop" else "observed only",
            extra={"event": "search_loop"},
        )  # fmt: skip
        return self.options.loop_guard == "stop"

    def explain(self) -> str:
        if self.ended == "timeout":
            return f"Interactive timeout after {_clock.monotonic() - self.started:.1f} seconds"
        return f"Search loop: {len(self.searches)} search turns in a row"


def _execute(options: Callable[[], GuardOptions], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run the executor's main method under a watch, and say in its result why it ended early."""
    watch = Watch(options())
    around = _watch.get()
    _watch.set(watch)
    try:
        result = function(*args, **kwargs)
    finally:
        _watch.set(around)  # not a reset: see _scope._MAY_RESET
    if watch.ended is not None and isinstance(result, dict):
        result["error_type"] = watch.ended
        # First, because runners tell a timeout by this text; what the executor made of it stays behind.
        made_of_it = result.get("error")
        result["error"] = watch.explain() + (f" ({made_of_it})" if made_of_it else "")
    return result


def _bounded(watch: Watch, function: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T | None, bool]:
    """Call within what the watch has left; the second value tells whether it was cut off."""
    with _scope.move_on_at(watch.deadline, name="interactive turn") as scope:
        _scope.raise_if_cancelled()
        return function(*args, **kwargs), False
    return None, scope.cancelled_caught


def _turn(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """One LLM turn. None (what the executor takes for a failed call) once the loop has to end."""
    watch = _watch.get()
    if watch is None:
        return function(*args, **kwargs)
    if watch.ended is not None:
        return None
    response, cut_off = _bounded(watch, function, *args, **kwargs)
    if cut_off or (response is None and _clock.monotonic() >= watch.deadline):
        watch.ended = "timeout"
        logger.warning("threadsafe-timeout: %s; the loop is ended", watch.explain(), extra={"event": "timeout"})
    elif watch.see(response):
        watch.ended = "search_loop"
    if watch.ended is None:
        return response
    for value in (*args, *kwargs.values()):
        if watch.ended == "timeout" and hasattr(value, "timeout_occurred"):
            value.timeout_occurred = True
    return None


def _tools(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Tool calls of a turn: within the same time; an empty list once it is up, and the next turn ends the loop."""
    watch = _watch.get()
    if watch is None or watch.ended is not None:
        return function(*args, **kwargs)
    results, cut_off = _bounded(watch, function, *args, **kwargs)
    return [] if cut_off else results


def guard_interactive(
    target: T,
    timeout: float | None = None,
    max_consecutive_searches: int | None = None,
    *,
    execute: str = "execute_interactive",
    turn: str = "_get_llm_response",
    tools: str | None = "_handle_tool_searches",
    is_search: Callable[[str], bool] = asks_to_search,
    wrap: Callable[[Any, str, Callable[..., Any]], object] | None = None,
) -> T:
    """Guard an executor (a class or an instance) and return it.

    `timeout`: seconds one call of the method `execute` may take (default: the `interactive_timeout` setting; never
    more than what is left of the task). `max_consecutive_searches`: search turns in a row before the loop is ended
    (default: the setting, 3). `turn` is the method that asks the LLM; it returns None once the loop has to end.
    `tools`, if the executor has it, runs the searches. The result dict's `error_type` says `timeout` or `search_loop`.

    Raises AttributeError, naming it, if a method is missing. Not guaranteed: a turn stuck in C code that does not
    wait on a patched call is only given up with its task.
    """
    for name in (execute, turn):
        if not callable(getattr(target, name, None)):
            raise AttributeError(f"guard_interactive: {target!r} has no method {name!r}; name yours in the arguments")
    if timeout is not None:
        _scope.check_seconds("timeout", timeout)

    def options() -> GuardOptions:
        chosen = settings()
        return GuardOptions(
            timeout=chosen.interactive_timeout if timeout is None else timeout,
            max_consecutive_searches=(
                chosen.max_consecutive_searches if max_consecutive_searches is None else max_consecutive_searches
            ),
            loop_guard=chosen.loop_guard,
            is_search=is_search,
        )

    put = wrap or _put
    put(target, execute, functools.partial(_execute, options))
    put(target, turn, _turn)
    if tools is not None and callable(getattr(target, tools, None)):
        put(target, tools, _tools)
    return target


def _put(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    original = inspect.getattr_static(owner, name) if inspect.isclass(owner) else getattr(owner, name)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, method)


def guarded(**options: Any) -> Callable[[type[T]], type[T]]:
    """Class decorator form of `guard_interactive`: `@guarded(timeout=120)`."""

    def decorate(cls: type[T]) -> type[T]:
        return guard_interactive(cls, **options)

    return decorate
