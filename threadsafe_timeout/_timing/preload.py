"""What the first interrupt needs, loaded before it is needed; and what a patch wants to have loaded in the same way.

An import reads files, and whoever does that gives the GIL away at each one. Against a thread that computes it gets the
GIL back five milliseconds later, each time: the first interrupt of a process came up to 0.4 s late. So the timer thread
loads it when it first has nothing to do, module by module, and looks at what is due in between. A program that enters
no scope pays nothing; nobody waits for it. (A deadline that passes before it is loaded is as late as ever.)
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from importlib import import_module

__all__ = ["also", "have_forks_wait", "load", "load_next", "wanted"]

# By name: they stand above the timer, which does not know them. From the ground up, so that each is a short step.
_MODULES = [
    "opcode", "enum", "inspect", "dataclasses", "importlib.util", "threadsafe_timeout._interruption.code_map",
    "threadsafe_timeout._settings", "threadsafe_timeout._interruption.pursuit",
]  # fmt: skip
if sys.version_info < (3, 12):
    _MODULES.insert(0, "ctypes")

wanted = True  # there is something left to load
_left = deque(_MODULES)
# Held while a module is loaded. A fork waits for it: in the child nobody would finish the import, and whoever needs the
# module there would wait for ever.
_loading = threading.Lock()


def also(name: str) -> None:
    """Have one more module loaded. Who needs it calls `load`: it may come before the timer thread does."""
    global wanted
    _left.append(name)
    wanted = True


def load(name: str) -> None:
    """Load a module that is first needed in the middle of a program, where another thread may fork. Raises what its
    import raises."""
    with _loading:
        import_module(name)


def load_next() -> None:
    """Load one more. Raises nothing: what cannot be loaded is an error where it is needed."""
    global wanted
    with _loading:
        try:
            if _left:
                import_module(_left.popleft())
            else:
                wanted = False
                sys.modules["threadsafe_timeout._interruption.pursuit"].prepare()
        except Exception:
            wanted = False


def have_forks_wait() -> None:
    """To be called once the timer has registered its own lock: what is registered last is taken first, and the thread
    that loads, holding this one, may want the timer's."""
    if hasattr(os, "register_at_fork"):
        # Given back in the child too, which may fork in its turn.
        os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)
