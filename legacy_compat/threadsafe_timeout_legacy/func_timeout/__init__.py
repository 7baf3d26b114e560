"""func_timeout's API on this library's scopes: `from threadsafe_timeout_legacy import func_timeout`.

As there, the function runs in a thread of its own, and the caller gets `FunctionTimedOut` (a BaseException) on time
whatever the function is stuck in. What is different: the function sees the caller's context variables and scopes; a
scope around the caller ends the wait; and the function is stopped through its own scope, politely first, never half-way
through a `with` or a `finally`. What it raises, of whatever kind, is raised in the caller.
"""

from threadsafe_timeout_legacy.func_timeout.dafunc import func_set_timeout, func_timeout
from threadsafe_timeout_legacy.func_timeout.exceptions import FunctionTimedOut
from threadsafe_timeout_legacy.func_timeout.StoppableThread import StoppableThread

__version__ = "4.3.5"  # of the API

__all__ = ["FunctionTimedOut", "StoppableThread", "func_set_timeout", "func_timeout"]
