"""Loops in the conversation of a model with its tools: seeing them, ending them, trying the guard on recorded runs.

`find_loop(messages)` and `LoopGuard().see(message)` look, and do nothing else. `guard_interactive` and `guarded` end an
executor's loop its own way, `guarded_turns` a loop you wrote. docs/guards.md has the limits and what they are worth.
"""

from __future__ import annotations

from threadsafe_timeout._errors import LoopDetected
from threadsafe_timeout._guard.experience import Experience
from threadsafe_timeout._guard.guard import guard_interactive, guarded
from threadsafe_timeout._guard.limits import DEFAULTS, Limit
from threadsafe_timeout._guard.loops import Loop, LoopGuard, find_loop
from threadsafe_timeout._guard.plain_loop import GuardedTurns, guarded_turns

__all__ = [
    "DEFAULTS",
    "Experience",
    "GuardedTurns",
    "Limit",
    "Loop",
    "LoopDetected",
    "LoopGuard",
    "find_loop",
    "guard_interactive",
    "guarded",
    "guarded_turns",
]
