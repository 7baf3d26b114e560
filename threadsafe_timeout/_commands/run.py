"""Run a program as `python` would, with `import threadsafe_timeout.auto` in force from its first line on.

  threadsafe-timeout run runner.py --its --own --arguments
  threadsafe-timeout run -m package --its --own --arguments
  threadsafe-timeout run --set task_timeout=600 --set llm_timeout=off runner.py
  threadsafe-timeout run --save runner.py          # kill it, run it again: what had finished is not run again

The program may be a file, a folder or a zip file with a `__main__.py`, a module (-m), a string (-c) or standard input
(-). Its process, exit status, signals, standard streams and tracebacks are those of a plain `python`. Python processes
that it starts are patched too. A bad setting is one line and status 2.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from threadsafe_timeout import _settings
from threadsafe_timeout._startup import launch

__all__ = ["HELP", "add_arguments", "run"]

HELP = "run a program with the one line already in it"


def _setting(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name.strip():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name.strip().replace("-", "_"), value.strip()


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text!r}")
    return number


_above_zero.__name__ = "number"  # what argparse calls it


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0, got {text!r}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "threadsafe-timeout run [options] (FILE | -m MODULE | -c CODE) [arguments]"
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE …",
                        help="run a module, as python -m does; what follows is its")
    parser.add_argument("-c", dest="code", nargs=argparse.REMAINDER, metavar="CODE …",
                        help="run a string, as python -c does; what follows is its")
    parser.add_argument("--set", dest="settings", action="append", type=_setting, default=[], metavar="NAME=VALUE",
                        help="a setting, for the program and its children (docs/settings.md)")
    parser.add_argument("--save", action="store_true",
                        help="save each task of a pool; a killed run goes on where it was (docs/resume.md)")
    parser.add_argument("--no-children", action="store_true", help="leave Python processes that it starts as they are")
    parser.add_argument("--supervise", action="store_true",
                        help="start the program again when it stalls as a whole, is killed, or exits with status 75")
    parser.add_argument("--stall", type=_above_zero, metavar="SECONDS",
                        help="without any movement; then it has stalled (300)")
    parser.add_argument("--restarts", type=_count, metavar="N", help="at most this often (5)")
    parser.add_argument("--memory", type=_above_zero, metavar="MIB", help="end it when it holds more (no limit)")
    parser.add_argument("program", nargs="?", help="the file, folder or zip file to run, or - for standard input")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")


def run(args: argparse.Namespace) -> int:
    # From here on Ctrl-C is the program's: it dies of it, as it would without us.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = _program(args)
    problem = launch.why_not() if program else "name a file to run, or -m MODULE, or -c CODE"
    if problem is not None:
        sys.stderr.write(f"threadsafe-timeout run: {problem}\n")
        return 2
    settings = [*args.settings, *([("save", "tasks")] if args.save else [])]
    for name, value in settings:
        _settings.parse(name, value, "--set")
    chosen = {_settings.PREFIX + name.upper(): value for name, value in settings}
    environ = launch.environment({**os.environ, **chosen}, children=not args.no_children)
    if args.supervise:
        from threadsafe_timeout._commands.supervise import supervise

        return supervise(args, program, environ)
    for option in ("stall", "restarts", "memory"):
        if getattr(args, option) is not None:
            sys.stderr.write(f"threadsafe-timeout run: --{option} needs --supervise\n")
            return 2
    launch.become(program, environ)


def _program(args: argparse.Namespace) -> list[str]:
    rest = [*filter(None, [args.program]), *args.arguments]
    if args.module:
        return ["-m", *args.module, *rest]
    if args.code:
        return ["-c", *args.code, *rest]
    return rest
