"""The guard for interactive executors: a loop of LLM turns and tool calls that must end.

It makes the executor's own loop end itself the way it already knows: once the time is up or a loop is seen, the turn
method returns None, so evaluation, scores and the result are the executor's own, with everything done so far.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from threadsafe_timeout._checks import check_whole
from threadsafe_timeout._guard.experience import Experience
from threadsafe_timeout._guard.watch import Options, Watch, current_watch
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import deadlines as _deadlines

__all__ = ["guard_interactive", "guarded"]

T = TypeVar("T")
_TOOLS = "_handle_tool_searches"


def _executor_of(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    bound = getattr(function, "__self__", None)
    return args[0] if bound is None and args else bound


def _execute(options: Options, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run the executor's main method under a watch, and say in its result why it ended early."""
    watch = Watch(options, _executor_of(function, args))
    around = current_watch.get()
    current_watch.set(watch)
    result = None
    try:
        result = function(*args, **kwargs)
        if inspect.isawaitable(result):
            return _execute_later(watch, result)
    finally:
        current_watch.set(around)  # not a reset: see _scope._MAY_RESET
    watch.close(result)
    return result


async def _execute_later(watch: Watch, running: Awaitable[Any]) -> Any:
    around = current_watch.get()
    current_watch.set(watch)
    try:
        result = await running
    finally:
        current_watch.set(around)
    watch.close(result)
    return result


def _bounded(watch: Watch, function: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T | None, bool]:
    """Call within what the watch has left; the second value tells whether it was cut off."""
    with _deadlines.move_on_at(watch.deadline, name="interactive turn") as scope:
        _around.raise_if_cancelled()
        return function(*args, **kwargs), False
    return None, scope.cancelled_caught


async def _bounded_later(watch: Watch, running: Awaitable[T]) -> tuple[T | None, bool]:
    with _deadlines.move_on_at(watch.deadline, name="interactive turn") as scope:
        return await running, False
    return None, scope.cancelled_caught


def _turn(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """One LLM turn. What `ending` says (None: what the executor takes for a failed call) once the loop has to end."""
    watch = current_watch.get()
    if watch is None:
        return function(*args, **kwargs)
    asked = watch.before(args, kwargs)
    if asked is None:
        return _ended(function, watch, (*args, *kwargs.values()))
    response, cut_off = _bounded(watch, function, *asked[0], **asked[1])
    if inspect.isawaitable(response):
        watch.awaited = True
        return _turn_later(watch, response, (*args, *kwargs.values()))
    response = watch.after(response, cut_off)
    return response if watch.ended is None else watch.ending((*args, *kwargs.values()))


async def _turn_later(watch: Watch, running: Awaitable[Any], values: tuple[Any, ...]) -> Any:
    response = watch.after(*await _bounded_later(watch, running))
    return response if watch.ended is None else watch.ending(values)


def _ended(function: Callable[..., Any], watch: Watch, values: tuple[Any, ...]) -> Any:
    ending = watch.ending(values)
    if not watch.awaited and not inspect.iscoroutinefunction(inspect.unwrap(function)):
        return ending

    async def at_once() -> Any:
        return ending

    return at_once()


def _tools(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Tool calls of a turn: within the same time; an empty list once it is up, and the next turn ends the loop."""
    watch = current_watch.get()
    if watch is None or watch.ended is not None:
        return function(*args, **kwargs)
    with _Told(watch):
        results, cut_off = _bounded(watch, function, *args, **kwargs)
    if inspect.isawaitable(results):
        return _tools_later(watch, results)
    watch.heard_from_tools(results)
    return [] if cut_off else results


class _Told:
    """Tools that run, for observers."""

    __slots__ = ("_watch",)

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        if _observer.tools_begin is not None:
            _observer.tools_begin(self, self._watch.guard._searches)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if _observer.tools_end is not None:
            _observer.tools_end(self)


async def _tools_later(watch: Watch, running: Awaitable[Any]) -> Any:
    with _Told(watch):
        results, cut_off = await _bounded_later(watch, running)
    watch.heard_from_tools(results)
    return [] if cut_off else results


def guard_interactive(
    target: T, timeout: float | None = None, max_consecutive_searches: int | None = None, *,
    execute: str = "execute_interactive", turn: str = "_get_llm_response", tools: str | None = _TOOLS,
    is_search: Callable[[Any], bool] | None = None, extract: Callable[[Any], Any] | None = None,
    conversation: str | Callable[[Any], Any] | None = None, polls: Iterable[str] = (),
    search_tools: Iterable[str] = (), repair: str | None = None, learn: bool | None = None, ending: object = None,
    experience: Experience | None = None, wrap: Callable[[Any, str, Callable[..., Any]], object] | None = None,
    **limits: Any,
) -> T:  # fmt: skip
    """Guard an executor (a class or an instance) against loops, and return it.

    Its methods may be `def` or `async def`, and return text, messages, completions or dicts.

    - `timeout`: seconds that one call of the method `execute` may take (default: the `interactive_timeout` setting;
      never more than the task has left)
    - `turn`: the name of the method that asks the LLM. To end the loop, it returns `ending`
    - `ending`: None, a value, or a function that is called with the `Loop` (with None when the time is up)
    - `tools`: the name of the method that runs the tools, if the executor has it
    - `limits`, `max_consecutive_searches`: the limits, see `LoopGuard` (default: the settings)
    - `extract`, `is_search`, `polls`, `search_tools`: as in `LoopGuard`; both functions get what `turn` returns
    - `conversation`: the name of the attribute with the messages, or a function of the executor (default: the first
      list among the arguments of `turn`). Without it the guard sees only the answers
    - `repair="cut-tags"`: add a closing tool tag that a stop sequence cut off
    - `learn`: whether loops that no task has left are ended earlier (default: the setting)
    - `experience`: an `Experience` shared with other executors of the run

    The result's `error_type` says `timeout`, or the kind of the loop.

    Raises AttributeError, with the name, if a method is missing, and TypeError for something that cannot be guarded: a
    generator, a property, an attribute that cannot be set. Not guaranteed: a turn that is stuck in C code ends only
    with its task.
    """
    _check_methods(target, {"execute": execute, "turn": turn, "tools": None if tools == _TOOLS else tools})
    if max_consecutive_searches is not None:
        limits["max_consecutive_searches"] = check_whole("max_consecutive_searches", max_consecutive_searches)
    options = Options(
        timeout=timeout, limits=limits, extract=extract, is_search=is_search, polls=polls, search_tools=search_tools,
        repair=repair, conversation=conversation, learn=learn, ending=ending,
        experience=Experience() if experience is None else experience,
    )  # fmt: skip
    return _guard(target, {execute: functools.partial(_execute, options), turn: _turn}, tools, wrap or _put)


def _guard(target: T, methods: dict[str, Callable[..., Any]], tools: str | None, put: Callable[..., object]) -> T:
    for name, wrapper in methods.items():
        put(target, name, wrapper)
    if tools is not None and callable(getattr(target, tools, None)):
        put(target, tools, _tools)
    return target


def _check_methods(target: Any, methods: dict[str, str | None]) -> None:
    for role, name in methods.items():
        if name is None:
            continue
        if not isinstance(name, str):
            raise TypeError(f"{role} must be the name of a method, got {name!r}")
        if not callable(getattr(target, name, None)):
            found = inspect.getattr_static(target, name, None)
            if found is None:
                raise AttributeError(
                    f"guard_interactive: {target!r} has no method {name!r}; name yours in {role}="
                )
            raise TypeError(f"guard_interactive: {name!r} of {target!r} is a {type(found).__name__}, not a method")
        function = inspect.unwrap(getattr(target, name))
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"guard_interactive: {name!r} of {target!r} is a generator: its answer comes in pieces and cannot be "
                f"guarded; name a method that returns whole answers in {role}=, or use LoopGuard.see in your own loop"
            )
        if not inspect.isclass(target) and not hasattr(target, "__dict__"):
            raise TypeError(
                f"guard_interactive: {name!r} cannot be set on {target!r}, which has __slots__; guard its class"
            )


def _put(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    found = inspect.getattr_static(owner, name) if inspect.isclass(owner) else getattr(owner, name)
    kind = type(found) if isinstance(found, staticmethod | classmethod) else None
    original = found.__func__ if kind is not None else found

    method: Callable[..., Any]
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def method(*args: Any, **kwargs: Any) -> Any:
            return await wrapper(original, *args, **kwargs)

    else:

        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

    setattr(owner, name, method if kind is None else kind(method))


def guarded(**options: Any) -> Callable[[type[T]], type[T]]:
    """Class decorator form of `guard_interactive`: `@guarded(timeout=120)`."""

    def decorate(cls: type[T]) -> type[T]:
        return guard_interactive(cls, **options)

    return decorate
