"""Replay the eight-hour stall: the legacy runner as it is, then with one line, against the same fake LLM.

Everything happens on this machine: a fake LLM on loopback hangs, trickles and loops; a replica of the legacy runner
talks to it through the real openai client. Time is compressed: --minute says how many seconds a legacy minute takes.
The exit status is 1 if the run with the line breaks a promise of the library.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout._files import why_not_writable
from threadsafe_timeout_legacy.replay import _plan

if TYPE_CHECKING:
    from rich.console import Console

    from threadsafe_timeout_legacy.replay._analysis import SideResult
    from threadsafe_timeout_legacy.replay._promises import Promise

__all__ = ["HELP", "add_arguments", "run"]

HELP = "replay the eight-hour stall of a legacy batch runner, without the library and with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options on `parser`."""
    defaults = _plan.Plan()
    parser.add_argument("--quick", action="store_true",
                        help="a first look in under 20 seconds: 20 tasks, one legacy hour")
    parser.add_argument("--minute", type=float, metavar="SECONDS",
                        help=f"how long one legacy minute takes; 60 is real time (default {defaults.minute:g})")
    parser.add_argument("--workers", type=int, metavar="N", help=f"worker threads (default {defaults.workers})")
    parser.add_argument("--tasks", type=int, metavar="N", help=f"tasks of the batch (default {defaults.tasks})")
    parser.add_argument("--mix", metavar="NAME=N,...", help=f"how the model behaves (default {_plan.DEFAULT_MIX})")
    parser.add_argument("--seed", type=int, help="which task gets which behaviour (default 0)")
    parser.add_argument("--version", choices=("2025-08-16", "last"),
                        help=f"the runner of the incident, or the last one (default {defaults.version})")
    parser.add_argument("--engine", choices=("threads", "asyncio"),
                        help="what the second run is on: the runner's own threads, with one line added; or the same "
                             "batch with its loop on asyncio, on an AsyncPool (default threads)")
    parser.add_argument("--checkpoint-interval", type=int, metavar="N",
                        help="have the runner itself save every N results (default: its own, only at the end)")
    parser.add_argument("--only", choices=("before", "after"), help="run one of the two sides")
    parser.add_argument("--limit", type=float, metavar="MINUTES",
                        help=f"legacy minutes after which a run is ended (default {defaults.limit:g}: eight hours)")
    parser.add_argument("--kill-at", type=float, metavar="MINUTE",
                        help="kill -9 the run with the line at this legacy minute and start it again")
    parser.add_argument("--html", type=Path, metavar="PATH", help="write a page with the chart")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all numbers ('-': to stdout)")
    parser.add_argument("--keep", action="store_true", help="keep the work directory and say where it is")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR",
                        help="run nothing: show the replay kept in this directory again")


def run(arguments: argparse.Namespace) -> int:
    """Replay, show, check. 0: every promise held; 1: one was broken; 2: the options make no sense."""
    for module in ("h11", "openai", "rich"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("threadsafe-timeout replay", "replay", module)
    from rich.console import Console

    # with --json -, stdout belongs to the JSON
    console = Console(stderr=str(arguments.json) == "-", highlight=False)
    try:
        _check_files(arguments)
        with ExitStack() as cleanup:
            cleanup.enter_context(_ending_on_terminate())
            folder = arguments.source or _replayed(arguments, console, cleanup)
            return _report(folder, arguments, console)
    except ValueError as error:
        sys.stderr.write(f"replay: {error}\n")
        return 2


def _check_files(arguments: argparse.Namespace) -> None:
    """Before the run, not after it."""
    for name, path in (("--html", arguments.html), ("--json", arguments.json)):
        if path is not None and (name, str(path)) != ("--json", "-"):
            problem = why_not_writable(path)
            if problem is not None:
                raise ValueError(f"{name}: {path} cannot be written: {problem}")
    if arguments.html is not None and arguments.html == arguments.json:
        raise ValueError(f"--html and --json name one file, {arguments.html}")
    if arguments.source is not None:
        without = [field.name for field in fields(_plan.Plan) if getattr(arguments, field.name) is not None]
        without += [name for name in ("quick", "keep") if getattr(arguments, name)]
        if without:
            name = without[0].replace("_", "-")
            raise ValueError(f"--from shows a replay that was kept: --{name} does nothing with it")


def plan_of(arguments: argparse.Namespace) -> _plan.Plan:
    """The plan the options ask for; what they leave open is the default's, or --quick's. Raises ValueError."""
    from threadsafe_timeout.testing.fake_llm import parse_mix

    values: dict[str, Any] = dict(_plan.QUICK) if arguments.quick else {}
    for name in (field.name for field in fields(_plan.Plan)):
        value = getattr(arguments, name)
        if value is not None:
            values[name] = value
    if "mix" in values:
        values["mix"] = parse_mix(values["mix"])
    return _plan.Plan(**values)


@contextmanager
def _ending_on_terminate() -> Iterator[None]:
    """Have SIGTERM unwind like Ctrl-C does, so that every process that was started ends too."""
    def terminate(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _replayed(arguments: argparse.Namespace, console: Console, cleanup: ExitStack) -> Path:
    """Run the replay; the folder it left."""
    from threadsafe_timeout_legacy.replay._driver import replay
    from threadsafe_timeout_legacy.replay._progress import progress

    plan = plan_of(arguments)
    folder = Path(tempfile.mkdtemp(prefix="threadsafe-timeout-replay-"))
    if not arguments.keep:
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    with progress(console, plan) as show:
        replay(plan, folder, show)
    return folder


def _report(folder: Path, arguments: argparse.Namespace, console: Console) -> int:
    from threadsafe_timeout_legacy.replay._driver import read_results
    from threadsafe_timeout_legacy.replay._page import page
    from threadsafe_timeout_legacy.replay._promises import check
    from threadsafe_timeout_legacy.replay._terminal import print_results

    plan, results = read_results(folder)
    promises = check(plan, results["after"]) if "after" in results else []
    print_results(console, plan, results, promises)
    if arguments.html:
        arguments.html.write_text(page(plan, results, promises), encoding="utf-8")
        console.print(f"page: {arguments.html}", markup=False)
    if arguments.json:
        text = json.dumps(_numbers(plan, results, promises), indent=2) + "\n"
        if str(arguments.json) == "-":
            sys.stdout.write(text)
        else:
            arguments.json.write_text(text, encoding="utf-8")
            console.print(f"numbers: {arguments.json}", markup=False)
    if arguments.keep:
        console.print(f"kept: {folder}", markup=False)
    for promise in promises:
        if not promise.held:
            sys.stderr.write(f"replay: broken promise: {promise.text} ({promise.seen})\n")
    return 0 if all(promise.held for promise in promises) else 1


def _numbers(plan: _plan.Plan, results: dict[str, SideResult], promises: list[Promise]) -> dict[str, Any]:
    from threadsafe_timeout_legacy.replay._facts import notes
    from threadsafe_timeout_legacy.replay._timeline import INCIDENT, rows

    return {
        "plan": {**asdict(plan), "mix": dict(plan.mix), "deadline_seconds": plan.deadline, "grace_seconds": plan.grace,
                 "settings": plan.library_settings()},
        "incident": [asdict(moment) for moment in INCIDENT],
        **{side: {**asdict(result), "timeline": [asdict(row) for row in rows(result)]}
           for side, result in results.items()},
        "promises": [asdict(promise) for promise in promises],
        "notes": notes(plan, results),
        "ok": all(promise.held for promise in promises),
    }
