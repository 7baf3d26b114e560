"""A program that looks at the frames of its threads, while the collector runs now and then, and a thread is begun in it.

    python collected_while_looking.py MODULE FUNCTION

The interpreter is in trouble, on 3.11, if that happens while it holds the lock on its list of threads: it waits for
itself, and no thread runs any more.
"""

from __future__ import annotations

import _thread
import faulthandler
import gc
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module

import threadsafe_timeout
from threadsafe_timeout._environment import finder
from threadsafe_timeout._introspection.frames import have_others_look_safely

LONG = 240.0  # seconds, after which it has frozen


def begin_a_thread(_phase: str, _about: object) -> None:
    _thread.start_new_thread(int, ())


def deep(ready: threading.Event, go_on: threading.Event, calls: int = 5) -> None:
    """Frames that nobody has looked at yet: a frame is made an object when somebody does."""
    if calls:
        deep(ready, go_on, calls - 1)
    else:
        ready.set()
        go_on.wait(LONG)


def main(module: str, function: str) -> None:
    with ExitStack() as stack:
        if module == "sys":  # a profiler's; the library's own looks are safe by themselves
            have_others_look_safely(stack)
        collect_while(getattr(import_module(module), function))
    sys.stdout.write("went on\n")


def collect_while(look: Callable[[], object]) -> None:
    threadsafe_timeout.install(checkpoint=None)
    # One that is being run: it is not ready, however often it is looked at.
    sys.modules[next(name for name in finder._names if name not in sys.modules)] = sys.modules["__main__"]
    gc.callbacks.append(begin_a_thread)
    usual = gc.get_threshold()
    for threshold in range(1, 120):
        ready, go_on = threading.Event(), threading.Event()
        thread = threading.Thread(target=deep, args=(ready, go_on))
        thread.start()
        ready.wait(LONG)
        gc.collect()
        gc.set_threshold(threshold)
        look()
        gc.set_threshold(*usual)
        go_on.set()
        thread.join(LONG)
    gc.callbacks.remove(begin_a_thread)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LONG, exit=True)
    main(*sys.argv[1:])
