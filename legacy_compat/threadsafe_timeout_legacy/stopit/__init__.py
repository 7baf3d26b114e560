"""stopit's API on this library's scopes: `from threadsafe_timeout_legacy import stopit` instead of `import stopit`.

What is different, on purpose: nested timeouts take the shorter one; a timeout never appears outside its block, nor in
a `with` or a `finally` half-way; `except Exception` inside the block does not swallow it, because what is raised there
is `Cancelled`, a BaseException (it becomes `TimeoutException` at the block's edge); no thread is started; and
`SignalTimeout` works in every thread, without SIGALRM.
"""

from threadsafe_timeout_legacy.stopit.signalstop import SignalTimeout, signal_timeoutable
from threadsafe_timeout_legacy.stopit.threadstop import ThreadingTimeout, async_raise, threading_timeoutable
from threadsafe_timeout_legacy.stopit.utils import TimeoutException

__version__ = "1.1.2"  # of the API

__all__ = [
    "SignalTimeout",
    "ThreadingTimeout",
    "TimeoutException",
    "async_raise",
    "signal_timeoutable",
    "threading_timeoutable",
]
