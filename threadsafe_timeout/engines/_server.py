"""The fork server that the processes of tasks are forked from. Never from the program itself: it has threads.

A child of a fork server imports the program's main module again, once each (CPython's gh-126631, before 3.13.8 and
3.14.1). So the server imports it, when it loads this module: what a child then finds, it does not import again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Iterable
from multiprocessing import forkserver, get_context, process, spawn
from typing import Any

__all__ = ["context", "main_was_preloaded"]

_VARIABLE = "_THREADSAFE_TIMEOUT_MAIN"
_lock = threading.Lock()
_prepared_by: int | None = None  # guarded by _lock
_preloaded = False


def context(modules: Iterable[str] = ()) -> Any:
    """The `multiprocessing` context of the fork server, which has been started. If that is now, it imports `modules`,
    so that its children need not."""
    global _prepared_by
    with _lock:
        if _prepared_by != os.getpid():
            _start(modules)
            _prepared_by = os.getpid()
    return get_context("forkserver")


def _start(modules: Iterable[str]) -> None:
    server: Any = forkserver._forkserver
    if __name__ not in server._preload_modules:
        server.set_forkserver_preload([*server._preload_modules, __name__])
    about = spawn.get_preparation_data("ignore")
    kept = {name: about[name] for name in ("sys_path", "init_main_from_name", "init_main_from_path") if name in about}
    os.environ[_VARIABLE] = json.dumps(kept | {"modules": [*modules]})
    try:
        server.ensure_running()
    finally:
        del os.environ[_VARIABLE]


def main_was_preloaded() -> bool:
    """In a child: whether the server had the main module."""
    return _preloaded


def _preload(text: str) -> None:
    """In the server. What goes wrong here goes wrong again in the child, which reports it."""
    global _preloaded
    about = json.loads(text)
    sys.path[:] = about["sys_path"]
    current: Any = process.current_process()
    current._inheriting = True  # a main module without `if __name__ == "__main__"` must not start processes here
    try:
        # SystemExit too: of a main module that runs when it is imported.
        with contextlib.suppress(BaseException):
            import cloudpickle  # type: ignore[import-untyped]  # noqa: F401  (for the children, as the next)

            import threadsafe_timeout._patching.install
            import threadsafe_timeout.engines._child  # noqa: F401

            if "init_main_from_name" in about:
                spawn._fixup_main_from_name(about["init_main_from_name"])  # type: ignore[attr-defined]
            elif "init_main_from_path" in about:
                spawn._fixup_main_from_path(about["init_main_from_path"])  # type: ignore[attr-defined]
            _preloaded = True
        for name in about["modules"]:
            with contextlib.suppress(BaseException):
                importlib.import_module(name)
    finally:
        del current._inheriting


if _VARIABLE in os.environ:
    _preload(os.environ.pop(_VARIABLE))
