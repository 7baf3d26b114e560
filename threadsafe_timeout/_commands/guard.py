"""Try the guard on your own logs, before it ends anything.

    threadsafe-timeout guard check runs.jsonl
    threadsafe-timeout guard check --limits 'cut_tags=6, no_action=off' --json logs/*.jsonl.gz

Says for each kind of loop how many runs the guard would have ended, how many LLM calls that would have saved, and how
many successful runs it would have harmed (a tool still succeeded after the stop), with three examples of each. Files
are JSON lines or JSON, gzip or not: one conversation a record, as docs/guards.md says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from threadsafe_timeout._guard.check import Check, Row
from threadsafe_timeout._guard.limits import parse_limits
from threadsafe_timeout._guard.transcripts import Transcript, TranscriptError, read_transcripts

__all__ = ["HELP", "add_arguments", "run"]

HELP = "what the guard against loops would have done to recorded runs"


def _limits(text: str) -> dict[str, Any]:
    try:
        return dict(parse_limits(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="check", required=True)
    check = actions.add_parser("check", help=HELP, description=__doc__,
                               formatter_class=argparse.RawDescriptionHelpFormatter)
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recorded conversations")
    check.add_argument("--limits", type=_limits, default={}, metavar="NAME=LIMIT,…",
                       help="other limits than the defaults: cut_tags=6, repeats=warn:3+stop:8, no_action=off")
    check.add_argument("--json", action="store_true", help="as JSON, without memory and with what the run teaches")
    check.add_argument("--no-learn", action="store_true", help="leave out what the run would have taught")
    check.add_argument("--examples", type=int, default=3, choices=range(4), metavar="N",
                       help="examples of each kind, from 0 to 3")
    check.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    checks = [Check(args.limits)] + ([] if args.no_learn else [Check(args.limits, learn=True)])
    try:
        for transcript in _with_progress(args.files, shown=not (args.quiet or args.json) and sys.stderr.isatty()):
            for check in checks:
                check.add(transcript)
    except TranscriptError as error:
        sys.stderr.write(f"threadsafe-timeout guard check: {error}\n")
        return 2
    if not checks[0].runs:
        sys.stderr.write("threadsafe-timeout guard check: the files hold no conversation\n")
        return 2
    if args.json:
        names = ("without_memory", "with_learning")
        found = {name: check.as_dict() for name, check in zip(names, checks, strict=False)}
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=True) + "\n")
    else:
        _print(checks, args.examples)
    return 0


def _with_progress(files: Iterable[Path], shown: bool) -> Iterator[Transcript]:
    """The transcripts; with rich, and a terminal, a bar that counts them."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        shown = False
    if not shown:
        for path in files:
            yield from read_transcripts(path)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} conversations"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for path in files:
            bar = progress.add_task(path.name, total=None)
            for transcript in read_transcripts(path):
                yield transcript
                progress.advance(bar)
            progress.update(bar, total=progress.tasks[bar].completed)


_HEAD = ("limit", "kind", "runs ended", "calls saved", "successful runs harmed")


def _cells(check: Check, row: Row) -> tuple[str, ...]:
    return (
        row.limit, row.kind or "-", str(row.ended), f"{row.saved} ({check.share_saved(row):.1f} %)",
        f"{row.harmed} ({check.share_harmed(row):.2f} %)" if check.successful else "- (no record says success)",
    )  # fmt: skip


def _print(checks: list[Check], examples: int) -> None:
    first = checks[0]
    rows = [row for row in first.rows.values() if row.ended]
    table = [_cells(first, row) for row in sorted(rows, key=lambda row: -row.saved)]
    table.append(_cells(first, first.total))
    if len(checks) > 1:
        learned = checks[1].total
        table.append(("with learning", *_cells(checks[1], learned)[1:]))
    sys.stdout.write(
        f"{first.runs} conversations, {first.calls} LLM calls, {first.successful} of them successful\n\n"
    )
    _print_table(table)
    for row in rows:
        for example in row.examples[:examples]:
            sys.stdout.write(f"\n{row.limit}: {_printable(example)}")
    sys.stdout.write("\n\nlimits: " + ", ".join(f"{name}={limit}" for name, limit in first.limits.items()) + "\n")
    if first.mendable:
        sys.stdout.write(f"{first.mendable} answers ended in an unclosed tag; guard_repair=cut-tags mends such\n")
    if first.unread:
        sys.stdout.write(f"{first.unread} messages could not be read and were passed over\n")


def _print_table(table: list[tuple[str, ...]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(row[place]) for row in [_HEAD, *table]) for place in range(len(_HEAD))]
        for row in [_HEAD, *table]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            sys.stdout.write(line.rstrip() + "\n")
        return
    shown = Table(*_HEAD)
    for row in table:
        shown.add_row(*row)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, markup=False).print(shown)


def _printable(text: str) -> str:
    """What a model or a file wrote, without control characters: a terminal obeys those."""
    return "".join(char if char.isprintable() else "?" for char in text)
