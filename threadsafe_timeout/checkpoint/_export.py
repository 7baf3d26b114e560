"""Records for other programs: JSON, CSV, Parquet, and whatever format an installed package offers."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import ModuleType
from typing import IO, Any

from threadsafe_timeout._environment.distributions import entry_points
from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout._text import place
from threadsafe_timeout.checkpoint import _format
from threadsafe_timeout.checkpoint._records import Record
from threadsafe_timeout.checkpoint._values import one_line, plain_json

__all__ = ["ENVELOPE", "FORMATS", "GROUP", "export", "foreign_formats", "write_csv", "write_json", "write_parquet"]

GROUP = "threadsafe_timeout.checkpoint_formats"
ENVELOPE = ("key", "status", "time", "attempt", "elapsed", "pid", "where")
_ROWS = 1000

Records = Callable[[], Iterable[Record]]  # may be called more than once


def foreign_formats() -> dict[str, Callable[[], ModuleType]]:
    """Formats of other packages: modules with `write(records, stream) -> int` and `read(path, **given)`."""
    return {entry.name: entry.load for entry in entry_points(GROUP)}


def export(write: Callable[[Records, Any], int], records: Records, target: str | None, *, binary: bool) -> int:
    """Write `records` to the file `target` (None: standard output), whole or not at all; how many there are."""
    if target is None:
        with _standard_output(binary) as stream:
            return write(records, stream)
    real = os.path.realpath(target)  # a link goes on pointing to the file
    if os.path.exists(real) and not os.path.isfile(real):  # a pipe, a device: to be written to, not to be replaced
        with _opened(real, binary) as stream:
            return write(records, stream)
    fresh = f"{real}.new-{os.getpid()}"
    try:
        with _opened(fresh, binary) as stream:
            count = write(records, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if os.path.exists(real):
            shutil.copymode(real, fresh)
        os.replace(fresh, real)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        if isinstance(error, OSError) and error.filename == fresh:
            error.filename = target
        raise
    return count


def _opened(path: str, binary: bool) -> IO[Any]:
    return open(path, "wb") if binary else open(path, "w", encoding="utf-8", newline="")


@contextlib.contextmanager
def _standard_output(binary: bool) -> Iterator[IO[Any]]:
    """In UTF-8 and with the format's own line ends, whatever the terminal's encoding is."""
    sys.stdout.flush()
    if binary:
        yield sys.stdout.buffer
        return
    stream = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="")
    try:
        yield stream
    finally:
        stream.detach()  # flushes, and leaves standard output open


def _envelope(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ENVELOPE}


def _envelope_as_text(record: Record) -> dict[str, Any]:
    """The same for formats whose fields are numbers and text."""
    return {**_envelope(record), "where": None if record.where is None else place(record.where)}


def _result_json(record: Record) -> str:
    # `one_line`: earlier releases wrote U+2028 and its like as they are.
    return one_line((_format.result_bytes(record.raw_line()) or b"null").decode())


def write_json(records: Records, stream: IO[str]) -> int:
    """A JSON array, one record per line; results as they are in the journal. The number of records."""
    count = 0
    stream.write("[")
    for record in records():
        text = json.dumps(_envelope(record), ensure_ascii=True)
        stream.write(f"{',' if count else ''}\n{text[:-1]}, \"result\": {_result_json(record)}}}")
        count += 1
    stream.write("\n]\n")
    return count


def _columns(record: Record) -> dict[str, Any]:
    """A row: the envelope, and the result's own top-level fields (or the whole of it, if it has none)."""
    plain = record.plain()
    fields = plain if isinstance(plain, dict) else {} if plain is None else {"result": plain}
    row = _envelope_as_text(record)
    taken = {*ENVELOPE, *fields}
    for name, value in fields.items():
        column = name
        while column in ENVELOPE or (column != name and column in taken):
            column = f"result.{column}"
        row[column] = value
    return row


def _text(value: str) -> str:
    """Text that UTF-8 has no form for (a lone surrogate, half of a cut emoji) as its escape."""
    return value.encode("utf-8", "backslashreplace").decode()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        # A spreadsheet would take what a model wrote for a formula.
        return _text(f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value)
    return plain_json(value).decode() if isinstance(value, (dict, list, bool)) else value


def write_csv(records: Records, stream: IO[str]) -> int:
    """One row per record, one column per top-level field of any result; nested values as JSON.

    Text that a spreadsheet would run as a formula gets an apostrophe in front. A lone surrogate is written as its
    escape (`\\ud83d`).
    """
    names: dict[str, None] = dict.fromkeys(ENVELOPE)
    for record in records():
        names.update(dict.fromkeys(_columns(record)))
    writer = csv.writer(stream)
    writer.writerow([_cell(name) for name in names])
    count = 0
    for record in records():
        row = _columns(record)
        writer.writerow([_cell(row.get(name, "")) for name in names])
        count += 1
    return count


def write_parquet(records: Records, stream: IO[bytes]) -> int:
    """The envelope as typed columns, the result as JSON text in the column `result` (results have no common type)."""
    try:
        import pyarrow  # type: ignore[import-untyped, import-not-found, unused-ignore]  # optional, and untyped
        from pyarrow import parquet  # type: ignore[import-untyped, import-not-found, unused-ignore]  # same
    except ImportError as error:
        raise MissingExtraError("checkpoint export --to parquet", "parquet", "pyarrow") from error
    number, whole = pyarrow.float64(), pyarrow.int64()
    kinds = {"time": number, "elapsed": number, "attempt": whole, "pid": whole}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in (*ENVELOPE, "result")])
    count = 0
    with parquet.ParquetWriter(stream, schema) as writer:
        for rows in _groups(records()):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _groups(records: Iterable[Record]) -> Iterator[list[dict[str, Any]]]:
    rows = (
        {**_envelope_as_text(record), "key": _text(str(record.key)), "status": _text(record.status),
         "result": _result_json(record) if record.status != _format.STARTED else ""}
        for record in records
    )  # fmt: skip
    while group := list(islice(rows, _ROWS)):
        yield group


FORMATS: dict[str, Callable[[Records, Any], int]] = {"json": write_json, "csv": write_csv, "parquet": write_parquet}
