"""What a process that was started by `threadsafe-timeout run`, or is a child of such a one, does before its program."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import sys
from pathlib import PurePath
from typing import NoReturn

from threadsafe_timeout._startup.launch import FOLDER, HEART, HERE, MARK

__all__ = ["begin"]


def begin() -> None:
    """Have `install()` in force. A bad setting ends the program that was started, with one line and status 2. A child
    process, which may read another pyproject.toml, goes on without it."""
    mark = os.environ.get(MARK)
    if mark is None or _is_helper():
        return  # PYTHONPATH was passed on without the mark, by hand
    heart = os.environ.pop(HEART, None)
    if heart is not None:
        heartbeat = importlib.import_module("threadsafe_timeout._startup.heartbeat")
        heartbeat.start(heart)
    if mark == HERE:
        _forget()
    else:
        os.environ[MARK] = "child"
    from threadsafe_timeout._environment.surroundings import in_main_interpreter
    from threadsafe_timeout._errors import ThreadsafeTimeoutError

    if not in_main_interpreter():
        return
    try:
        _install()
    except ThreadsafeTimeoutError as error:
        if mark != "child":
            _refuse(f"threadsafe-timeout: {error}\n")
        _say(f"threadsafe-timeout: {error}; this process runs without deadlines\n")
    except Exception as error:
        _say(f"threadsafe-timeout: {type(error).__name__}: {error}; this process runs without deadlines\n")


def _is_helper() -> bool:
    """It is multiprocessing's own process that runs nothing of the program."""
    return any(word.startswith("from multiprocessing.resource_tracker import") for word in sys.orig_argv)


def _install() -> None:
    """The patches look at the name of the program's file, which `__main__` does not have yet."""
    from threadsafe_timeout._patching.install import install

    main = vars(sys.modules["__main__"])
    had = "__file__" in main
    if not had:
        main["__file__"] = _program()
    try:
        install()
    finally:
        if not had:
            del main["__file__"]


def _program() -> str:
    """The file that will be `__main__`, as far as its name goes."""
    name = sys.argv[0] if sys.argv else ""
    if name != "-m":
        return name
    words = sys.orig_argv
    module = next((after for word, after in itertools.pairwise(words) if word.endswith("m")), "")
    return str(PurePath(*module.split("."))) + ".py" if module else ""


def _forget() -> None:
    """The children of this process are none of ours."""
    del os.environ[MARK]
    rest = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if rest[0] == FOLDER:
        del rest[0]
    if rest:
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    else:
        del os.environ["PYTHONPATH"]


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be closed, or None
        sys.stderr.write(line)
        sys.stderr.flush()


def _refuse(line: str) -> NoReturn:
    _say(line)
    os._exit(2)  # an exception of a sitecustomize is only reported
