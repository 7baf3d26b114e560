"""Write one page about a run: what its workers did, what was stuck, how to start it again.

  threadsafe-timeout report                     the newest run of this folder
  threadsafe-timeout report 4711 -o run.html    the run of a process
  threadsafe-timeout report -o - > run.html     to standard output

The page is one file. It loads nothing and runs no script. It can be made of a run that still runs, and of one that was
killed. The exit status is 2 if there is no such run, or the page cannot be written.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile

from threadsafe_timeout._text import escaped

__all__ = ["HELP", "add_arguments", "run"]

HELP = "write a page about a run: what its workers did, what was stuck, how to start it again"
_DEFAULT = "threadsafe-timeout-report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_of", nargs="?", metavar="DIR|PID",
                        help="the folder of a run, its status_dir, or a process (the newest run of this folder)")
    parser.add_argument("-o", "--output", default=_DEFAULT, metavar="FILE",
                        help=f"the page; '-' is standard output ({_DEFAULT})")


def run(args: argparse.Namespace) -> int:
    from threadsafe_timeout._view.reading import NoRunError, find_run
    from threadsafe_timeout._view.report import report

    try:
        page = report(find_run(args.run_of))
        if args.output == "-":
            sys.stdout.buffer.write(page.encode())
            sys.stdout.flush()
            return 0
        _write(args.output, page)
    except NoRunError as error:
        return _complain(error)
    except BrokenPipeError:  # | head
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(f"{error.filename or args.output}: {error.strerror or error}")
    sys.stdout.write(f"page: {escaped(os.path.abspath(args.output))}\n")
    return 0


def _write(path: str, page: str) -> None:
    """Under another name first: a page that was there stays whole if this one cannot be written. The page names what
    the run worked on, so it is the owner's to read, as the run's files are."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "w", encoding="utf-8") as device:
            device.write(page)
        return
    folder, name = os.path.split(os.path.realpath(path))
    handle, made = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.replace(made, os.path.join(folder, name))
    except BaseException:
        os.unlink(made)
        raise


def _complain(problem: object) -> int:
    sys.stderr.write(f"threadsafe-timeout report: {escaped(str(problem))}\n")
    return 2
