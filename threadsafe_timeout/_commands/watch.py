"""See a run from a second terminal: what is done, what is stuck, where and since when.

  threadsafe-timeout watch              the newest run of this directory that lives, else the newest
  threadsafe-timeout watch 1234         the run of a process
  threadsafe-timeout watch FOLDER       a run's folder, a status_dir, or a directory that has one
  threadsafe-timeout watch --once       what there is now, in lines
  threadsafe-timeout watch --json       the same for programs

It reads the run's files, so it also shows a run that was killed. On a terminal it needs the extra `view`. Where
standard output is no terminal it writes lines, until the run is over. ? shows the keys.
"""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "see a run from a second terminal: what is done, what is stuck, where and since when"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_of", nargs="?", metavar="FOLDER|PID", help="which run (the newest of this directory)")
    parser.add_argument("--once", action="store_true", help="what there is now, in lines")
    parser.add_argument("--json", action="store_true", help="what there is now, for programs")


def run(args: argparse.Namespace) -> int:
    from threadsafe_timeout._view.output import quiet_if_closed
    from threadsafe_timeout._view.watch import watch

    return quiet_if_closed(lambda: watch(args.run_of, args.once, args.json))
