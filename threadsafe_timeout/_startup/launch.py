"""The command line and the environment of a program that begins with `install()`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

__all__ = ["FOLDER", "HEART", "HERE", "MARK", "become", "command", "environment", "why_not"]

FOLDER = str(Path(__file__).parent / "path")
HEART = "_THREADSAFE_TIMEOUT_HEART"  # what `heartbeat.start` is told; only under a supervisor
MARK = "_THREADSAFE_TIMEOUT_RUN"  # no setting, so not under the prefix of settings
HERE = "here"  # MARK's value for a program whose children are not to be patched


def why_not() -> str | None:
    """Why a program cannot be started in this way by this interpreter, if it cannot."""
    if sys.flags.no_site:
        return "python -S runs no sitecustomize, through which the program gets its deadlines"
    if sys.flags.ignore_environment:
        return "python -E and -I ignore PYTHONPATH, through which the program gets its deadlines"
    return None


def command(program: Sequence[str]) -> list[str]:
    """`python program…`, with the options that this interpreter was given."""
    return [sys.executable, *_interpreter_options(), *program]


def _interpreter_options() -> list[str]:
    given, ours = sys.orig_argv[1:], sys.argv[1:]
    if given[len(given) - len(ours) :] != ours:
        return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]  # a program called us
    options = given[: len(given) - len(ours)]
    *before, last = options[:-1] or [""]
    if last.startswith("-") and not last.startswith("--") and last[-1:] in ("m", "c"):
        return before + ([last[:-1]] if len(last) > 2 else [])  # -m threadsafe_timeout
    return options[:-1]  # the console script


def environment(environ: Mapping[str, str], *, children: bool) -> dict[str, str]:
    """`environ`, changed so that Python begins with `begin.begin`."""
    rest = environ.get("PYTHONPATH", "").removeprefix(FOLDER).removeprefix(os.pathsep)
    return {**environ, "PYTHONPATH": FOLDER + os.pathsep + rest if rest else FOLDER, MARK: "main" if children else HERE}


def become(program: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Be that program: the same process, its pid, its terminal, its standard streams and its signals."""
    if sys.platform == "win32":  # there an exec is a new process, and the caller would not wait for it
        _wait_for(command(program), environ)
    # Python ignores these two, and what is ignored stays so. The program is to find them as we did.
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)
    sys.stdout.flush()
    os.execve(sys.executable, command(program), environ)


def _wait_for(arguments: list[str], environ: Mapping[str, str]) -> NoReturn:
    with subprocess.Popen(arguments, env=environ) as process:
        while True:
            try:
                sys.exit(process.wait())
            except KeyboardInterrupt:  # it is the program's
                continue
