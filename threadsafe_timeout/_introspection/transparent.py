"""Through which frames an interrupt may pass."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

__all__ = ["DEBUGGERS", "PROTECTED", "is_protected", "transparent"]

F = TypeVar("F", bound=Callable[..., Any])

# Debuggers: what a thread runs while somebody looks at it.
DEBUGGERS = frozenset({
    "_pydev_bundle", "_pydevd_bundle", "_pydevd_frame_eval", "_pydevd_sys_monitoring", "bdb", "debugpy", "ipdb",
    "pdb", "pydevd", "pydevd_file_utils", "pydevd_plugins",
})  # fmt: skip
# Packages whose functions hold locks, queues or half-made state between two lines. (Those that speak a protocol wait
# in patched calls, which raise by themselves. Between two of them, a response that nobody has a name for yet would
# keep its connection out of the pool for ever. Whatever is raised in a function that pydantic calls from C becomes an
# error of pydantic's own.)
PROTECTED = frozenset({
    "_frozen_importlib", "_weakrefset", "asyncio", "concurrent", "contextlib", "filelock", "h11", "h2", "http",
    "httpcore", "httpcore2", "httpx", "httpx2", "importlib", "logging", "multiprocessing", "pydantic", "queue",
    "requests", "socket", "ssl", "subprocess", "threading", "threadsafe_timeout", "threadsafe_timeout_patches",
    "urllib", "urllib3", "weakref",
}) | DEBUGGERS  # fmt: skip
# Modules of packages that also call the program's own functions.
_PROTECTED_MODULES = frozenset({"anthropic._base_client", "openai._base_client"})
# Functions that are critical by convention, whoever wrote them. Finalisers' exceptions would be printed and dropped.
_CRITICAL_NAMES = frozenset({
    "__aenter__", "__aexit__", "__del__", "__enter__", "__exit__", "acquire", "acquire_lock", "release", "release_lock",
})  # fmt: skip

_transparent: set[CodeType] = set()  # grows at import and at decoration only


def transparent(function: F) -> F:
    """Mark a wrapper of ours that calls user code: the interrupt may pass through its frame.

    Only for functions whose state is safe at that call: behind a `with` or a `try`, or with none at all.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        raise TypeError(f"transparent() needs a Python function, got {function!r}")
    _transparent.add(code)
    return function


def is_protected(frame: FrameType) -> bool:
    """Whether no exception may pass through this frame."""
    code = frame.f_code
    if code.co_name in _CRITICAL_NAMES:
        return True
    # The collector calls these wherever it runs. What they raise is printed and dropped.
    if gc.callbacks and any(getattr(callback, "__code__", None) is code for callback in gc.callbacks):
        return True
    module = frame.f_globals.get("__name__")
    if not isinstance(module, str):
        return False
    if module.partition(".")[0] not in PROTECTED and module not in _PROTECTED_MODULES:
        return False
    if code in _transparent or module.startswith("threadsafe_timeout.testing"):
        return False
    # A decorated function runs inside this one; a decorated generator, since 3.15, inside the other.
    return not (module == "contextlib" and code.co_name in ("inner", "gen_inner"))
