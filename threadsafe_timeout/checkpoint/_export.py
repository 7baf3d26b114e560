"""Records for other programs: JSON, CSV, Parquet, and whatever format an installed package offers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from itertools import islice
from types import ModuleType
from typing import IO, Any

from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout.checkpoint import _format
from threadsafe_timeout.checkpoint._records import Record

__all__ = ["ENVELOPE", "FORMATS", "GROUP", "foreign_formats", "write_csv", "write_json", "write_parquet"]

GROUP = "threadsafe_timeout.checkpoint_formats"
ENVELOPE = ("key", "status", "time", "attempt", "elapsed", "pid")
_ROWS = 1000

Records = Callable[[], Iterable[Record]]  # may be called more than once


def foreign_formats() -> dict[str, Callable[[], ModuleType]]:
    """Formats of other packages: modules with `write(records, stream) -> int` and `read(path, **given)`."""
    return {entry.name: entry.load for entry in entry_points(group=GROUP)}


def _envelope(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ENVELOPE}


def write_json(records: Records, stream: IO[str]) -> int:
    """A JSON array, one record per line; results as they are in the journal. The number of records."""
    count = 0
    stream.write("[")
    for record in records():
        text = json.dumps(_envelope(record), ensure_ascii=True)
        result = (_format.result_bytes(record.raw_line()) or b"null").decode()
        stream.write(f"{',' if count else ''}\n{text[:-1]}, \"result\": {result}}}")
        count += 1
    stream.write("\n]\n")
    return count


def _columns(record: Record) -> dict[str, Any]:
    """A row: the envelope, and the result's own top-level fields (or the whole of it, if it has none)."""
    plain = record.plain()
    fields = plain if isinstance(plain, dict) else {} if plain is None else {"result": plain}
    return {**_envelope(record), **{(f"result.{name}" if name in ENVELOPE else name): v for name, v in fields.items()}}


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"  # a spreadsheet would take what a model wrote for a formula
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list, bool)) else value


def write_csv(records: Records, stream: IO[str]) -> int:
    """One row per record, one column per top-level field of any result; nested values as JSON.

    Text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    names: dict[str, None] = dict.fromkeys(ENVELOPE)
    for record in records():
        names.update(dict.fromkeys(_columns(record)))
    writer = csv.DictWriter(stream, fieldnames=list(names), restval="")
    writer.writeheader()
    count = 0
    for record in records():
        writer.writerow({name: _cell(value) for name, value in _columns(record).items()})
        count += 1
    return count


def write_parquet(records: Records, stream: IO[bytes]) -> int:
    """The envelope as typed columns, the result as JSON text in the column `result` (results have no common type)."""
    try:
        import pyarrow  # type: ignore[import-not-found, unused-ignore]  # optional; not installed where mypy runs
        from pyarrow import parquet  # type: ignore[import-not-found, unused-ignore]  # same
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
        {**_envelope(record), "key": str(record.key), "result": (_format.result_bytes(raw) or b"").decode()}
        for record in records
        for raw in (record.raw_line(),)
    )
    while group := list(islice(rows, _ROWS)):
        yield group


FORMATS: dict[str, Callable[[Records, Any], int]] = {"json": write_json, "csv": write_csv, "parquet": write_parquet}
