"""Run a program with `install()` in force, as if `import threadsafe_timeout.auto` were its first line.

    threadsafe-timeout run runner.py --its --own --arguments
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

__all__ = ["HELP", "add_arguments", "run"]

HELP = "run a program with the one line already in it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", help="the Python file to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")


def run(args: argparse.Namespace) -> int:
    if not Path(args.program).is_file():
        sys.stderr.write(f"threadsafe-timeout run: there is no file {args.program!r}\n")
        return 2
    sys.argv = [args.program, *args.arguments]
    sys.path[0] = str(Path(args.program).resolve().parent)
    # __main__ is this command until the program's own code runs: the patches look at the name it will have.
    main = sys.modules["__main__"]
    main.__file__ = args.program
    from threadsafe_timeout._patching.install import install

    install()
    runpy.run_path(args.program, run_name="__main__")
    return 0
