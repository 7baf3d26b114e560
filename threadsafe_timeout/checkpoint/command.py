"""Look into a checkpoint, check it, mend it, and get its records out.

  threadsafe-timeout checkpoint show run.jsonl          counts by status, the slowest, the errors by kind
  threadsafe-timeout checkpoint verify run.jsonl        check every line; exit status 1 if there is damage
  threadsafe-timeout checkpoint repair run.jsonl        keep every intact record; the damaged file is kept aside
  threadsafe-timeout checkpoint compact run.jsonl       one line per key
  threadsafe-timeout checkpoint export run.jsonl --to csv -o run.csv
  threadsafe-timeout checkpoint import run.jsonl --from legacy results.json
  threadsafe-timeout checkpoint diff old.jsonl new.jsonl    exit status 1 if they differ
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import re
import sys
from collections.abc import Callable, Iterator
from heapq import nlargest

from threadsafe_timeout._checks import check_seconds, in_seconds
from threadsafe_timeout._text import escaped, nearest, place, shown
from threadsafe_timeout.checkpoint import _export
from threadsafe_timeout.checkpoint._compare import compare
from threadsafe_timeout.checkpoint._errors import CheckpointError
from threadsafe_timeout.checkpoint._format import POISON
from threadsafe_timeout.checkpoint._progress import progress_bar
from threadsafe_timeout.checkpoint._records import Checkpoint, Record, load_checkpoint
from threadsafe_timeout.checkpoint._repair import compact, repair, verify
from threadsafe_timeout.checkpoint._run import STATUSES
from threadsafe_timeout.checkpoint._writer import CheckpointWriter

__all__ = ["HELP", "add_arguments", "run"]

# What differs between texts of one kind: what is quoted, numbers and what holds one.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\w*\d[\w.]*")

HELP = "show, verify, repair, compact, export, import or compare checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text)
        made.set_defaults(checkpoint_action=function)
        if name != "diff":
            made.add_argument("path", help="the checkpoint")
        return made

    show = action("show", _show, "counts by status, the slowest tasks, the errors by kind")
    show.add_argument("-n", "--number", type=_whole, default=5, help="how many of the slowest and of the errors (5)")
    action("verify", _verify, "check every line; exit status 1 if there is damage")
    for name, function, text in (
        ("repair", _repair, "keep every intact record; the damaged file is kept aside"),
        ("compact", _compact, "one line per key: its last outcome"),
    ):
        mended = action(name, function, text)
        mended.add_argument("--lock-timeout", type=_seconds, default=30.0, metavar="SECONDS",
                            help="how long to wait for a process that is writing (30)")
    formats = sorted({*_export.FORMATS, *_export.foreign_formats()})
    exported = action("export", _export_records, "write the last record of each key in another format")
    exported.add_argument("--to", required=True, choices=formats)
    exported.add_argument("-o", "--output", help="the file to write (standard output)")
    exported.add_argument("--status", action="append", help="only records of this status; may be repeated")
    imported = action("import", _import_records, "add what another program left, as finished tasks")
    imported.add_argument("--from", required=True, dest="source", choices=sorted(_export.foreign_formats()))
    imported.add_argument("files", nargs="+", help="the files it left")
    imported.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="given",
                          help="a task field that the files do not hold, such as model=NAME; may be repeated")
    compared = action("diff", _diff, "keys, statuses and results that differ; exit status 1 if any do")
    compared.add_argument("a")
    compared.add_argument("b")


def _seconds(text: str) -> float:
    try:
        return check_seconds("it", text)
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds >= 0{in_seconds(text)}") from None


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 0")
    return int(text)


def run(args: argparse.Namespace) -> int:
    function: Callable[[argparse.Namespace], int] = args.checkpoint_action
    try:
        return function(args)
    except CheckpointError as error:
        _complain(error)
        return 1
    except BrokenPipeError:  # | head
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _complain(error)
        return 1


def _say(text: str) -> None:
    """One line on standard output."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(escaped(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _complain(problem: object) -> None:
    sys.stderr.write(f"threadsafe-timeout: {escaped(str(problem))}\n")


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _load(path: str) -> Checkpoint:
    with progress_bar(f"reading {path}", _size(path)) as advance:
        return load_checkpoint(path, progress=advance)


# --- show -------------------------------------------------------------------------------------------------------


def _show(args: argparse.Namespace) -> int:
    loaded = _load(args.path)
    if loaded.run is None and not loaded:
        _complain(f"{args.path}: there is not one record in it: it is empty, or no checkpoint")
        return 1
    _say(f"{loaded.path}: run {loaded.run or '(unknown)'} begun {_moment(loaded.created)}, "
         f"{'ended' if loaded.ended else 'not ended'}")
    counts = loaded.counts()
    width = max((len(shown(status)) for status in counts), default=0)
    for status, count in counts.most_common():
        note = "  (in flight: no outcome was saved)" if status == "started" else ""
        _say(f"  {shown(status):{width}}  {count:>8}{note}")
    _say(f"  {'all':{max(width, 3)}}  {len(loaded):>8}")
    if loaded.torn is not None:
        _say(f"torn last line: {loaded.torn.length} bytes at byte {loaded.torn.byte}, never acknowledged")
    for spill in loaded.spills:
        _say(f"with the spill file {spill}")
    _show_slowest(loaded, args.number)
    _show_errors(loaded, args.number)
    return 0


def _show_slowest(loaded: Checkpoint, number: int) -> None:
    slowest = nlargest(number, (record for record in loaded.values() if record.elapsed is not None),
                       key=lambda record: record.elapsed or 0.0)
    if slowest:
        _say("slowest:")
    for record in slowest:
        _say(f"  {record.elapsed:10.3f} s  {shown(record.status)}  {shown(record.key)}  (attempt {record.attempt})")


def _show_errors(loaded: Checkpoint, number: int) -> None:
    """By kind and place, with how many there are; the most frequent first."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in loaded.values():
        if record.status not in ("done", "started"):
            found.setdefault(_kind(record), []).append(record)
    if found:
        _say("errors:")
    ranked = sorted(found.items(), key=lambda item: len(item[1]), reverse=True)
    for (status, kind, where, _), records in ranked[:number]:
        what = f"{shown(status)}: {shown(kind)}" if kind else shown(status)
        _say(f"  {len(records):>8} × {what}{f' at {where}' if where else ''}")
        _say(f"             first {shown(records[0].key)}: {_error_of(records[0])[1]}")
    if len(ranked) > number:
        _say(f"  and {len(ranked) - number} other kinds (-n {len(ranked)} shows them)")


def _kind(record: Record) -> tuple[str, ...]:
    """What equal errors have in common: status, class and place; without those, what their texts have in common."""
    name, text = _error_of(record)
    if name and record.where is not None:
        return record.status, name, place(record.where), ""
    key = str(record.key)
    alike = _VARYING.sub("…", text.replace(key, "…") if len(key) > 1 else text)
    return record.status, name, "" if record.where is None else place(record.where), alike


def _error_of(record: Record) -> tuple[str, str]:
    """The class of what was saved, if it is an exception; and the first line of its text, in short."""
    plain = record.plain()
    name, text = "", plain
    if isinstance(plain, dict):
        if plain.get("$type") == "exception":
            name, text = plain["class"], plain["message"]
            name = name.removeprefix("builtins.").removeprefix("threadsafe_timeout._errors.")
        elif record.status == POISON:
            text = f"it has brought the program down: {'; '.join(map(str, plain.get('ended', ())))}"
        else:
            text = next((plain[name] for name in ("error", "message", "reason") if plain.get(name)), "(no message)")
    lines = str(text).splitlines() or [""]
    return name, lines[0][:160]


# --- the others -------------------------------------------------------------------------------------------------


def _verify(args: argparse.Namespace) -> int:
    with progress_bar(f"checking {args.path}", _size(args.path)) as advance:
        found = verify(args.path, advance)
    for item in found.damage:
        what = "forgiven" if item.torn else "damage"
        _say(f"{args.path}: line {item.line}, byte {item.byte}: {item.reason} ({item.length} bytes; {what})")
    _say(f"{args.path}: {found.lines} intact lines, {found.size} bytes, "
         f"{sum(not item.torn for item in found.damage)} damaged places")
    return 0 if found.ok else 1


def _repair(args: argparse.Namespace) -> int:
    with progress_bar(f"repairing {args.path}", _size(args.path)) as advance:
        done = repair(args.path, lock_timeout=args.lock_timeout, progress=advance)
    for item in done.damage:
        _say(f"left out: line {item.line}, byte {item.byte}: {item.reason} ({item.length} bytes)")
    if done.kept_aside is None:
        _say(f"{args.path}: nothing to repair, {done.kept} intact lines")
    else:
        _say(f"{args.path}: {done.kept} intact lines kept; the damaged file is {done.kept_aside}")
    return 0


def _compact(args: argparse.Namespace) -> int:
    with progress_bar(f"compacting {args.path}", _size(args.path)) as advance:
        done = compact(args.path, lock_timeout=args.lock_timeout, progress=advance)
    _say(f"{args.path}: {done.lines_before} → {done.lines_after} lines, {done.bytes_before} → {done.bytes_after} bytes")
    return 0


def _export_records(args: argparse.Namespace) -> int:
    loaded = _load(args.path)
    for status in args.status or ():
        there = loaded.counts()
        if status not in there and status not in STATUSES:
            words = ", ".join(map(shown, there)) or "none"
            _complain(f"no record has the status {status!r}{nearest(status, [*there, *STATUSES])}; there are: {words}")
            return 2

    def records() -> Iterator[Record]:
        return (record for record in loaded.values() if not args.status or record.status in args.status)

    if args.output is not None and os.path.exists(args.output) and os.path.samefile(args.path, args.output):
        _complain(f"{args.output} is the checkpoint itself: give another file with -o")
        return 2
    write = _export.FORMATS.get(args.to) or _export.foreign_formats()[args.to]().write
    count = _export.export(write, records, args.output, binary=args.to == "parquet")
    if args.output is not None:
        _say(f"{args.output}: {count} records")
    left_out = sum(1 for _ in records()) - count
    if left_out:
        _complain(f"{left_out} records are not in it: {args.to} has no form for them")
    return 0


def _import_records(args: argparse.Namespace) -> int:
    wrong = [item for item in args.given if "=" not in item]
    if wrong:
        _complain(f"--set takes FIELD=VALUE, not {wrong[0]!r}")
        return 2
    given = dict(item.partition("=")[::2] for item in args.given)
    read = _export.foreign_formats()[args.source]().read
    try:
        finished = list(read(args.files, **given))  # all of it first: a bad file must not leave half an import
    except ValueError as error:
        _complain(error)
        return 1
    known = set(load_checkpoint(args.path)) if os.path.exists(args.path) else set()
    counts = {"added": 0, "known": 0}
    with CheckpointWriter(args.path, default=repr) as writer:
        for key, status, result in finished:
            if key in known:
                counts["known"] += 1
                continue
            known.add(key)
            writer.save(key, result, status)
            counts["added"] += 1
        writer.close()  # not the end of a run: the next one goes on from here
    _say(f"{args.path}: {counts['added']} records added, {counts['known']} were there already")
    return 0


def _diff(args: argparse.Namespace) -> int:
    found = compare(_load(args.a), _load(args.b))
    for key in found.only_a:
        _say(f"- {shown(key)}")
    for key in found.only_b:
        _say(f"+ {shown(key)}")
    for key, (old, new) in found.status.items():
        _say(f"! {shown(key)}: {shown(old)} → {shown(new)}")
    for key in found.result:
        _say(f"~ {shown(key)}: another result")
    _say(f"{found.same} the same, {len(found.result)} with another result, {len(found.status)} with another status, "
         f"{len(found.only_a)} only in {args.a}, {len(found.only_b)} only in {args.b}")
    return 1 if found else 0
