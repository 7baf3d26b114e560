"""A guard for a loop that is written out: `for turn in guarded_turns(messages): …`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from threadsafe_timeout._checks import check_seconds
from threadsafe_timeout._guard.limits import limits_from
from threadsafe_timeout._guard.loops import Loop, LoopGuard
from threadsafe_timeout._guard.watch import limits_in_force, note_in_log, tell_pool
from threadsafe_timeout._scopes import time_left as _time_left
from threadsafe_timeout._timing import clock as _clock

__all__ = ["GuardedTurns", "guarded_turns"]

logger = logging.getLogger("threadsafe_timeout")
_READS = {"extract", "is_search", "polls", "search_tools", "experience", "model"}


class GuardedTurns:
    """An iterator over the numbers of the turns, from 1. It ends when the conversation is in a loop or its time is up.

    `ended` says why it ended: the kind of the loop, "timeout", "max_turns", or None. `loop` is the loop. If the
    conversation is shortened meanwhile, reading continues at its new end.
    """

    def __init__(self, messages: list[Any], timeout: float | None, max_turns: int | None, options: dict[str, Any]):
        limits = {name: options.pop(name) for name in list(options) if name not in _READS}
        limits_from(limits)
        self._messages = messages
        self._max_turns = max_turns
        self._read = 0
        self._guard = LoopGuard(**options, **limits_in_force(limits))
        until = float("inf") if timeout is None else _clock.monotonic() + timeout
        self._until = min(_time_left.current_deadline(), until)
        self.ended: str | None = None

    @property
    def loop(self) -> Loop | None:
        return self._guard.loop

    def __iter__(self) -> Iterator[int]:
        turn = 0
        try:
            while self._goes_on(turn):
                turn += 1
                yield turn
        finally:
            self._look()
            self._guard.finish()

    def _look(self) -> None:
        self._read = min(self._read, len(self._messages))
        fresh = self._messages[self._read :]
        self._read = len(self._messages)
        self._guard.see(fresh)
        self._guard.settle()
        while self._guard.notes:
            note_in_log(self._guard.notes.popleft(), "observed only")

    def _goes_on(self, turn: int) -> bool:
        self._look()
        loop = self._guard.loop
        if loop is not None:
            self.ended = loop.kind
            note_in_log(loop, "the loop is ended")
            tell_pool(loop)
        elif _clock.monotonic() >= self._until:
            self.ended = "timeout"
            logger.warning("threadsafe-timeout: the time of a guarded loop is up", extra={"event": "timeout"})
        elif turn == self._max_turns:
            self.ended = "max_turns"
        return self.ended is None


def guarded_turns(
    messages: list[Any], *, timeout: float | None = None, max_turns: int | None = None, **options: Any
) -> GuardedTurns:
    """Guard a loop of your own. `messages` is the list to which your loop appends answers and results.

    `timeout`: no turn begins more than so many seconds from now. `max_turns`: the most turns. `options`: the arguments
    of `LoopGuard`. Warnings are logged, because they cannot be added to the conversation.

        turns = guarded_turns(messages, timeout=300, max_turns=50)
        for turn in turns:
            messages.append(ask(messages))
            messages += run_tools(messages[-1])
        print(turns.ended)
    """
    if timeout is not None:
        check_seconds("timeout", timeout)
    return GuardedTurns(messages, timeout, max_turns, options)
