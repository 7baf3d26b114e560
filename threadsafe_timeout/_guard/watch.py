"""One run of a guarded executor: its time, its conversation, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from threadsafe_timeout._checks import check_callable, check_seconds
from threadsafe_timeout._guard.conversation import Conversation, with_line
from threadsafe_timeout._guard.experience import Experience
from threadsafe_timeout._guard.limits import limits_from
from threadsafe_timeout._guard.loops import Loop, LoopGuard
from threadsafe_timeout._guard.readers import check_names
from threadsafe_timeout._guard.tags import mend
from threadsafe_timeout._guard.tally import cut_answers
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import time_left as _time_left
from threadsafe_timeout._settings import settings
from threadsafe_timeout._timing import clock as _clock

__all__ = ["Options", "Watch", "current_watch", "limits_in_force", "note_in_log", "tell_pool"]

logger = logging.getLogger("threadsafe_timeout")
current_watch: ContextVar[Watch | None] = ContextVar("threadsafe_timeout_guard", default=None)
# What the executor's evaluation gets of a task's last seconds, so that it does not run into the task's own deadline.
_RESERVE_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one executor is guarded; see `guard_interactive`."""

    timeout: float | None = None
    limits: Mapping[str, Any]
    extract: Callable[[Any], Any] | None = None
    is_search: Callable[[Any], bool] | None = None
    polls: Iterable[str] = ()
    search_tools: Iterable[str] = ()
    conversation: str | Callable[[Any], Any] | None = None
    repair: str | None = None
    learn: bool | None = None
    ending: object = None
    experience: Experience

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError, naming the parameter."""
        if self.timeout is not None:
            object.__setattr__(self, "timeout", check_seconds("timeout", self.timeout))
        for parameter in ("is_search", "extract"):
            if getattr(self, parameter) is not None:
                check_callable(parameter, getattr(self, parameter))
        for parameter in ("polls", "search_tools"):
            object.__setattr__(self, parameter, check_names(parameter, getattr(self, parameter)))
        if self.repair not in (None, "off", "cut-tags"):
            raise ValueError(f'guard_interactive: repair must be "cut-tags" or "off", got {self.repair!r}')
        if self.learn is not None and not isinstance(self.learn, bool):
            raise TypeError(f"learn must be True, False or None, got {self.learn!r}")
        if not isinstance(self.experience, Experience):
            raise TypeError(f"experience must be an Experience, got {self.experience!r}")
        if self.conversation is not None and not isinstance(self.conversation, str) and not callable(self.conversation):
            raise TypeError(f"conversation must name an attribute or be a function, got {self.conversation!r}")
        limits_from(self.limits)


def limits_in_force(given: Mapping[str, Any]) -> dict[str, Any]:
    """The limits: what is given, else the settings, else the defaults; no more than `loop_guard` allows."""
    chosen = settings()
    base = limits_from({"max_consecutive_searches": chosen.max_consecutive_searches})
    base.update(chosen.guard_limits)
    return {name: limit.lowered(chosen.loop_guard) for name, limit in limits_from(given, base).items()}


class Watch:
    """What the guard knows of one run of an executor. Used by one thread, or one task of an event loop."""

    def __init__(self, options: Options, executor: Any) -> None:
        self._options = options
        self._executor = executor
        chosen = settings()
        learn = chosen.guard_learn if options.learn is None else options.learn
        model = getattr(executor, "model", None)
        self.guard = LoopGuard(
            extract=options.extract, is_search=options.is_search, polls=options.polls,
            search_tools=options.search_tools,
            experience=options.experience if learn else None, model=model if isinstance(model, str) else "",
            **limits_in_force(options.limits),
        )  # fmt: skip
        self._repair = chosen.guard_repair if options.repair is None else options.repair
        self._conversation = Conversation(options.conversation)
        self._handed_over = False
        self._mended = 0
        self._noted = 0
        self._told_unread = False
        self._told_no_conversation = False
        self.awaited = False  # the turn method gave an awaitable
        self._line: str | None = None
        self.ended: str | None = None  # "timeout", or the kind of the loop
        self.started = _clock.monotonic()
        remaining = _time_left.time_remaining()
        reserve = min(chosen.grace, remaining * _RESERVE_SHARE)
        timeout = chosen.interactive_timeout if options.timeout is None else options.timeout
        own = float("inf") if timeout is None else timeout
        self.deadline = self.started + min(own, remaining - reserve if reserve < remaining else remaining)

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Look at what the model is handed. The arguments to ask it with; None if the loop ends here."""
        if self.ended is not None:
            return None
        messages = self._conversation.messages(self._executor, args, kwargs)
        if messages is None and self._options.conversation is not None:
            self._tell_no_conversation()
        if messages is not None:
            self._handed_over = True
            self.guard.see(self._conversation.news(messages) if self.guard.turns else
                           self._conversation.prompt(messages))
        self.guard.settle()
        self._note()
        if self.guard.loop is not None:
            self._end(self.guard.loop)
            return None
        return self._with_warning(messages, args, kwargs)

    def after(self, response: Any, cut_off: bool) -> Any:
        """Look at what the model answered. What the executor is to be given."""
        if cut_off or (response is None and _clock.monotonic() >= self.deadline):
            self.ended = "timeout"
            logger.warning("threadsafe-timeout: %s; the loop is ended", self.explain(), extra={"event": "timeout"})
            return None
        mended = mend(response) if self._repair == "cut-tags" and isinstance(response, str) else None
        if mended is not None:
            self._mended += 1
            response = mended
        self._conversation.answered(response)
        loop = self.guard.say(response)
        self._note()
        if loop is not None:
            self._end(loop)
        elif self.guard.unread and not self._told_unread:
            self._told_unread = True
            logger.warning(
                "threadsafe-timeout: the guard cannot read a response of type %s and sees no loops in such; give "
                "guard_interactive an extract= that returns it in OpenAI's chat form", type(response).__name__,
                extra={"event": "guard_unread"},
            )  # fmt: skip
        return response

    def _tell_no_conversation(self) -> None:
        told, self._told_no_conversation = self._told_no_conversation, True
        if not told:
            where = self._options.conversation
            logger.warning(
                "threadsafe-timeout: conversation=%s of guard_interactive gives no list of messages for a %s; the "
                "guard sees the answers only",
                repr(where) if isinstance(where, str) else getattr(where, "__name__", "…"),
                type(self._executor).__name__, extra={"event": "guard_unread"},
            )  # fmt: skip

    def heard_from_tools(self, results: Any) -> None:
        """What the tools gave, for an executor that does not hand its conversation over."""
        if not self._handed_over and results is not None:
            self.guard.see({"role": "tool", "content": results if isinstance(results, str) else repr(results)})

    def ending(self, values: Iterable[Any]) -> Any:
        """What the turn method returns once the loop has to end."""
        for value in values:
            if self.ended == "timeout" and hasattr(value, "timeout_occurred"):
                value.timeout_occurred = True
        ending = self._options.ending
        return ending(self.guard.loop) if callable(ending) else ending

    def close(self, result: Any) -> None:
        """The executor has returned: its result says why the loop ended, and the run learns."""
        if self._handed_over and self.guard.loop is None:
            self.guard.settle()
        if self.ended != "timeout":
            self.guard.finish()
        cut_answers.add(self.guard.cut_answers + self._mended, self._mended)
        if self.ended is None:
            return
        if isinstance(result, dict):
            # First, because runners tell a timeout by this text; what the executor made of it stays behind.
            made_of_it = result.get("error")
            result["error_type"] = self.ended
            result["error"] = self.explain() + (f" ({made_of_it})" if made_of_it else "")
        elif result is not None and hasattr(result, "__dict__"):
            result.error_type = self.ended

    def explain(self) -> str:
        loop = self.guard.loop
        if self.ended == "timeout" or loop is None:
            return f"Interactive timeout after {_clock.monotonic() - self.started:.1f} seconds"
        return f"{loop.kind.replace('_', ' ').capitalize()}: {loop.detail}"

    def _end(self, loop: Loop) -> None:
        self.ended = loop.kind
        note_in_log(loop, "the loop is ended" + (" early" if loop.early else ""))
        tell_pool(loop)

    def _note(self) -> None:
        """Log what was to be observed, and keep what was to be warned of."""
        notes = list(self.guard.notes)
        self.guard.notes.clear()
        for loop in notes:
            note_in_log(loop, "observed only" if loop.action == "observe" else "the model is told")
            if loop.action == "warn":
                self._line = f"Note: {loop.detail}. Do something else, or finish with what there is."

    def _with_warning(
        self, messages: list[Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        line, self._line = self._line, None
        if line is None:
            return args, kwargs
        told = None if messages is None else with_line(messages, line)
        if told is None or not any(value is messages for value in (*args, *kwargs.values())):
            logger.warning("threadsafe-timeout: the model could not be told (%s): its conversation is not among the "
                           "arguments of the turn method, or has a form of its own", line)  # fmt: skip
            return args, kwargs
        swapped = tuple(told if value is messages else value for value in args)
        return swapped, {name: told if value is messages else value for name, value in kwargs.items()}


def note_in_log(loop: Loop, what: str) -> None:
    """One line about a loop. Nothing the model wrote is in it."""
    logger.warning(
        "threadsafe-timeout: %s (%s, turn %d); %s", loop.detail, loop.limit, loop.turn, what,
        extra={"event": loop.kind, "limit": loop.limit, "count": loop.count, "turn": loop.turn},
    )  # fmt: skip


def tell_pool(loop: Loop) -> None:
    """Count a loop that was ended for the pool whose task this is, if it is one's."""
    scope = _around.current_scope()
    while scope is not None:
        task = getattr(scope, "task", None)
        if task is not None:
            task._loop_ended(loop.kind, loop.detail)
            return
        scope = scope._parent
    if _observer.looped is not None:
        _observer.looped(loop.kind, loop.detail)
