"""The stack of every worker of a run, now, without the values of variables.

  threadsafe-timeout stacks             of the newest run of this directory that lives
  threadsafe-timeout stacks 1234        of the run of a process
  threadsafe-timeout stacks FOLDER      of the run whose files are there

The run is asked first. If a call of C holds its interpreter it cannot answer; then a signal has faulthandler write the
stacks. If that fails too, py-spy is called, if it is installed; it needs the right to trace the process. For a run that
is over, it prints what that wrote last. The exit status is 1 if no stacks could be had, 2 if there is no such run.
"""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "print the stack of every worker of a run, also while a call of C holds its interpreter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_of", nargs="?", metavar="FOLDER|PID", help="which run (the newest of this directory)")


def run(args: argparse.Namespace) -> int:
    from threadsafe_timeout._view.output import quiet_if_closed
    from threadsafe_timeout._view.print_stacks import print_stacks

    return quiet_if_closed(lambda: print_stacks(args.run_of))
