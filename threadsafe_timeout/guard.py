"""Find loops in the conversation of a model with its tools, and end them.

`find_loop(messages)` and `LoopGuard().see(message)` only look. `guard_interactive` and `guarded` end the loop of an
executor in its own way; `guarded_turns` guards a loop that you wrote. docs/guards.md lists the limits.
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
