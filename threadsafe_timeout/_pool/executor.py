"""The way in to `ThreadPoolExecutor`: whoever wants it imports this.

The class derives from the standard one, so its module imports `concurrent.futures.thread`; and the patch of that
module imports the class, whenever the standard module arrives. So the standard module has to come first: then nobody
gets half of either, in whatever order a program imports them, and two threads that import at once wait for each other
in one order only. `_pool.thread_pool` itself is imported from here and from that patch, and from nowhere else.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # first, see above

from threadsafe_timeout._pool.thread_pool import StandardThreadPoolExecutor, Submitter, ThreadPoolExecutor

__all__ = ["StandardThreadPoolExecutor", "Submitter", "ThreadPoolExecutor"]
