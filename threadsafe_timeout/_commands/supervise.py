"""`threadsafe-timeout run --supervise`: options to limits, lines to standard error."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Mapping, Sequence

from threadsafe_timeout._processes import tree
from threadsafe_timeout._supervision.supervisor import Limits, Supervisor, die_like

__all__ = ["supervise"]


def supervise(args: argparse.Namespace, program: Sequence[str], environ: Mapping[str, str]) -> int:
    if sys.platform == "win32" or not hasattr(signal, "sigtimedwait"):
        _say("--supervise needs a system with sigtimedwait, such as Linux; Windows and macOS have none")
        return 2
    if args.memory is not None and not tree.HAS_PROC:
        _say("--memory needs /proc, as Linux has it")
        return 2
    given = {"stall": args.stall, "restarts": args.restarts, "memory": args.memory and int(args.memory * 2**20)}
    limits = dataclasses.replace(Limits(), **{name: value for name, value in given.items() if value is not None})
    return die_like(Supervisor(program, environ, limits, _say).run())


def _say(line: str) -> None:
    sys.stderr.write(f"threadsafe-timeout supervise: {line}\n")
    sys.stderr.flush()
