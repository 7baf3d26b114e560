"""Torn ends, flipped bytes, power cuts: what is intact comes back, what is not is named."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from threadsafe_timeout.checkpoint import (
    CheckpointCorrupt,
    CheckpointVersionError,
    CheckpointWriter,
    _disk,
    _format,
    iter_records,
    load_checkpoint,
)
from threadsafe_timeout.checkpoint._repair import compact, repair, verify
from threadsafe_timeout.checkpoint._scan import Damage, Line, open_journal, scan


def fill(path: Path, count: int) -> list[bytes]:
    """A journal of `count` lines, its header among them, and its lines."""
    with CheckpointWriter(path, mode="fast") as writer:
        for number in range(count - 1):
            writer.save(f"k{number}", {"n": number, "sum": "0badf00d", "text": '{"v":1,"event":"done"'})
        writer.close()
    return path.read_bytes().splitlines(keepends=True)


def look(data: bytes) -> tuple[list[bytes], list[Damage]]:
    items = list(scan(io.BytesIO(data)))
    return ([item.raw for item in items if isinstance(item, Line)], [item for item in items if isinstance(item, Damage)])


def test_truncation_at_every_byte(path: Path) -> None:
    lines = fill(path, 50)
    data = b"".join(lines)
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    for size in range(len(data) + 1):
        intact, damage = look(data[:size])
        # A record whose newline alone is missing is whole.
        assert len(intact) == sum(size >= end - 1 for end in ends), size
        assert intact == [line[:-1] for line in lines[: len(intact)]]
        if size == 0 or any(size in (end, end - 1) for end in ends):
            assert damage == []
        else:
            (torn,) = damage
            assert torn.torn
            assert torn.byte + torn.length == size


def test_what_is_being_written_is_the_end_and_its_rest_no_damage(path: Path) -> None:
    """The reader meets half a line; the writer writes its other half before the reader reads on."""
    lines = fill(path, 10)
    data = path.read_bytes()
    for half in range(len(data) - len(lines[-1]) + 1, len(data)):
        path.write_bytes(data[:half])
        with open_journal(str(path)) as stream:
            items = []
            for item in scan(stream):
                items.append(item)
                if isinstance(item, Damage) or len(items) == len(lines):
                    path.write_bytes(data)
        *whole, last = items
        assert [item.raw + b"\n" for item in whole if isinstance(item, Line)] == lines[:-1]
        assert last.torn if isinstance(last, Damage) else last.raw + b"\n" == lines[-1]


@pytest.mark.parametrize("whole_lines", [0, 1, 3])
def test_what_is_cut_off_and_written_over_while_it_is_read_is_no_damage(path: Path, whole_lines: int) -> None:
    """A torn line that the next writer moves away, or lines that their writer takes back because they were not synced:
    the reader has the old bytes in its buffer, and gets the new ones from the file."""
    lines = fill(path, 20)
    kept = b"".join(lines[:10])
    longer = b"".join(lines[12:])
    for cut in range(1, len(lines[10])):
        torn = b"".join(lines[10 : 10 + whole_lines]) + lines[11][:cut]
        path.write_bytes(kept + torn)
        with open_journal(str(path)) as stream:
            reading = scan(stream)
            begin = [next(reading) for _ in range(10)]  # all of the file is in the buffer now
            with open(path, "r+b") as writer:
                writer.truncate(len(kept))
                writer.seek(0, os.SEEK_END)
                writer.write(longer)
            rest = list(reading)
        assert [item for item in begin + rest if isinstance(item, Damage) and not item.torn] == []
        found = [item.raw + b"\n" for item in rest if isinstance(item, Line)]
        assert found[-3:] == lines[-3:]
        if not whole_lines and cut < len(lines[11]) - 20:  # the ends of these lines look alike: it may be read as whole
            assert found == lines[12:]


def test_damage_is_believed_at_the_second_look(path: Path) -> None:
    lines = fill(path, 10)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:-9] + b"\n" + b"".join(lines[6:]))
    with open_journal(str(path)) as stream:
        items = list(scan(stream))
    assert [item.line for item in items if isinstance(item, Damage)] == [6]
    assert len(items) == 10


def test_loading_and_resuming_after_truncation(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = fill(path, 5)
    data = b"".join(lines)
    start = len(data) - len(lines[-1])
    for size in range(start - 1, len(data) + 1):
        path.write_bytes(data[:size])
        loaded = load_checkpoint(path)
        whole = size >= len(data) - 1
        assert len(loaded) == (4 if whole else 3)
        assert (loaded.torn is not None) == (start < size < len(data) - 1)
        with CheckpointWriter(path, mode="fast") as writer:
            writer.save("after", size)
        loaded = load_checkpoint(path)
        assert loaded["after"].result == size
        assert (loaded.torn, len(loaded)) == (None, 5 if whole else 4)
    assert any("not acknowledged" in record.getMessage() for record in caplog.records)
    aside = Path(f"{path}.torn").read_bytes()
    assert lines[-1][:-2] in aside


@pytest.mark.parametrize("flip", [0x01, pytest.param(0x80, marks=pytest.mark.stress), pytest.param(0xFF, marks=pytest.mark.stress), pytest.param(None, marks=pytest.mark.stress)])
def test_every_single_byte_flip_is_named_and_costs_at_most_its_own_record(path: Path, flip: int | None) -> None:
    """`None`: the byte becomes a newline, which splits a line."""
    lines = fill(path, 50)
    data = b"".join(lines)
    owners = [number for number, line in enumerate(lines) for _ in line]
    for place, owner in enumerate(owners):
        changed = bytearray(data)
        changed[place] = 0x0A if flip is None else changed[place] ^ flip
        if changed == data:
            continue
        intact, damage = look(bytes(changed))
        expected = [line[:-1] for number, line in enumerate(lines) if number != owner]
        if data[place] == 0x0A:  # nothing of the record itself changed
            expected = [line[:-1] for line in lines]
        assert intact == expected, place
        assert damage, place
        assert all(not item.torn for item in damage)
        # (A line that is cut in two at its first byte is an empty one, which is none, and the rest.)
        assert any(item.byte - (flip is None) <= place < item.byte + item.length for item in damage), place
        assert damage[0].line == owner + 1
        # Every byte is accounted for: records, their newlines, damage.
        assert sum(map(len, intact)) + sum(item.length for item in damage) <= len(data)


def test_damage_in_the_middle_is_an_error_that_names_the_place(path: Path) -> None:
    lines = fill(path, 10)
    lines[4] = lines[4].replace(b'"n":3', b'"n":4')
    path.write_bytes(b"".join(lines))
    byte = sum(map(len, lines[:4]))
    for use in (load_checkpoint, CheckpointWriter, lambda path: list(iter_records(path)), compact):
        with pytest.raises(CheckpointCorrupt, match=f"line 5, byte {byte}: .*checksum.*checkpoint repair") as caught:
            use(path)
        assert (caught.value.line, caught.value.byte) == (5, byte)
    assert path.read_bytes() == b"".join(lines)


def test_repair_keeps_every_intact_record_and_the_damaged_file(path: Path) -> None:
    lines = fill(path, 10)
    lines[4] = b"\0" * len(lines[4])
    lines[6] = lines[6][:-1] + b"#"
    damaged = b"".join(lines) + b'{"v":1,"eve'
    path.write_bytes(damaged)
    found = repair(path)
    assert [(item.line, item.torn) for item in found.damage] == [(5, False), (6, False), (9, True)]
    assert found.kept_aside is not None
    assert Path(found.kept_aside).read_bytes() == damaged
    assert path.read_bytes() == b"".join(line for n, line in enumerate(fill_again(lines)) if n != 4)
    assert verify(path).ok
    assert repair(path).kept_aside is None


def fill_again(lines: list[bytes]) -> list[bytes]:
    return [line[:-1] + b"\n" for line in lines]


def test_a_lost_header_is_replaced(path: Path) -> None:
    with CheckpointWriter(path, config={"a": 1}) as writer:
        writer.save("k", 1)
    data = path.read_bytes()
    path.write_bytes(b"#" + data[1:])
    with pytest.raises(CheckpointCorrupt, match="line 1, byte 0"):
        CheckpointWriter(path, config={"a": 1})
    repair(path)
    with CheckpointWriter(path, config={"a": 1}) as writer:
        writer.save("l", 2)
    assert {key: record.result for key, record in load_checkpoint(path).items()} == {"k": 1, "l": 2}


def test_what_has_no_record_is_not_repaired(path: Path) -> None:
    path.write_text("one\ntwo\n")
    with pytest.raises(CheckpointVersionError, match="not one intact record"):
        repair(path)
    assert path.read_text() == "one\ntwo\n"


def test_a_killed_header_is_written_anew(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        writer.close()
    header = path.read_bytes()
    for size in range(len(header)):
        path.write_bytes(header[:size])
        assert len(load_checkpoint(path)) == 0
        with CheckpointWriter(path, mode="fast") as writer:
            writer.save("k", size)
        assert load_checkpoint(path)["k"].result == size


def test_zeros_after_the_last_record_are_forgiven(path: Path) -> None:
    lines = fill(path, 5)
    for data in (b"".join(lines) + bytes(5000), b"".join(lines)[:-1] + bytes(3), b"".join(lines[:4]) + lines[4][:20] + bytes(9)):
        path.write_bytes(data)
        loaded = load_checkpoint(path)
        assert loaded.torn is not None
        before = len(loaded)
        with CheckpointWriter(path, mode="fast") as writer:
            writer.save("after", 1)
        assert (len(load_checkpoint(path)), load_checkpoint(path).torn) == (before + 1, None)


def test_compact_keeps_one_line_per_key(path: Path) -> None:
    with CheckpointWriter(path) as writer:
        for number in range(20):
            writer.started("again")
            writer.save("again", number)
        writer.started("in flight")
        writer.save("once", "x")
        writer.started("once")
    before = {key: (record.status, record.result, record.attempt) for key, record in load_checkpoint(path).items()}
    done = compact(path)
    loaded = load_checkpoint(path)
    assert {key: (record.status, record.result, record.attempt) for key, record in loaded.items()} == before
    assert loaded.ended
    assert (done.lines_after, done.bytes_after) == (6, path.stat().st_size)
    assert done.bytes_after < done.bytes_before


@pytest.mark.parametrize("change", [compact, repair])
def test_a_writer_goes_on_in_the_new_file(path: Path, change: Any) -> None:
    writer = CheckpointWriter(path)
    for number in range(5):
        writer.save("again", number)
    if change is repair:
        with open(path, "r+b") as stream:
            stream.seek(-60, os.SEEK_END)
            stream.write(b"####")
    change(path)
    writer.save("after", 1)
    writer.close(ended=True)
    loaded = load_checkpoint(path)
    assert loaded["after"].result == 1
    assert loaded["again"].result in (3, 4)
    assert loaded.ended


# --- power cuts -------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """Records what reaches the disk, in order: writes, truncations, syncs, and who was told that their save is done."""

    trace: list[tuple[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, value: Any = None) -> None:
        with self.lock:
            self.trace.append((what, value))

    def install(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        write, sync, truncate, sync_directory = _disk.write, _disk.sync, _disk.truncate, _disk.sync_directory

        def ours(fd: int) -> bool:
            return os.readlink(f"/proc/self/fd/{fd}") == str(path)

        def traced_write(fd: int, data: memoryview) -> int:
            if ours(fd):
                data = data[: max(1, len(data) * 2 // 3)]  # short writes: more places to be cut at
                self.note("write", bytes(data))
            return write(fd, data)

        def traced_sync(fd: int) -> None:
            sync(fd)
            if ours(fd):
                self.note("sync")

        def traced_truncate(fd: int, size: int) -> None:
            if ours(fd):
                self.note("truncate", size)
            truncate(fd, size)

        def traced_directory(name: str) -> None:
            sync_directory(name)
            if name == str(path.parent):
                self.note("directory")

        monkeypatch.setattr(_disk, "write", traced_write)
        monkeypatch.setattr(_disk, "sync", traced_sync)
        monkeypatch.setattr(_disk, "truncate", traced_truncate)
        monkeypatch.setattr(_disk, "sync_directory", traced_directory)


def states_after_cuts(trace: list[tuple[str, Any]]) -> Iterator[tuple[set[str], bytes | None]]:
    """For a cut after each event: what had been acknowledged, and each content that the disk may then hold."""
    durable, cached = b"", b""
    pending: list[bytes] = []  # contents since the last sync: the disk may hold any of them
    named = False
    acknowledged: set[str] = set()
    for what, value in trace:
        before = cached
        if what == "write":
            cached += value
            pending += [before + value[: len(value) // 2], before + value[:1] + bytes(len(value) - 1), before + bytes(len(value))]
        elif what == "truncate":
            cached = cached[:value]
        elif what == "sync":
            durable, pending = cached, []
        elif what == "directory":
            named = True
        else:
            acknowledged.add(value)
        if what in ("write", "truncate"):
            pending.append(cached)
        if not named:
            yield set(acknowledged), None  # the file itself may be gone
        for content in [durable, *pending]:
            yield set(acknowledged), content


def test_a_power_cut_at_any_moment_loses_nothing_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "threadsafe_timeout.checkpoint")
    disk = Disk()
    with monkeypatch.context() as patched:
        disk.install(patched, path)
        writer = CheckpointWriter(path)

        def work(thread: int) -> None:
            for number in range(4):
                writer.started(f"{thread}-{number}")
                writer.save(f"{thread}-{number}", number)
                disk.note("acknowledged", f"{thread}-{number}")

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        writer.close()
    assert sum(what == "acknowledged" for what, _ in disk.trace) == 32
    cut = path.with_name("cut.jsonl")
    seen = set()
    for acknowledged, content in states_after_cuts(disk.trace):
        if content is None:
            assert not acknowledged
            continue
        if (len(acknowledged), content) in seen:
            continue
        seen.add((len(acknowledged), content))
        cut.write_bytes(content)
        assert acknowledged <= {key for key, record in load_checkpoint(cut).items() if record.status == "done"}
    assert len(seen) > 50
    with CheckpointWriter(cut) as writer:  # and it can be gone on with
        writer.save("after", 1)
    assert load_checkpoint(cut)["after"].result == 1


def test_fast_mode_does_not_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    disk.install(monkeypatch, path)
    with CheckpointWriter(path, mode="fast") as writer:
        writer.save("k", 1)
    assert {what for what, _ in disk.trace} == {"write", "truncate"}


def test_format_constants_hold() -> None:
    line = _format.event_line("done", "k", 1.5, 1, 0.25, b'{"a":1}')
    assert _format.is_intact(line[:-1])
    assert _format.envelope(line[:-1]) == {
        "v": 1, "event": "done", "key": "k", "time": 1.5, "attempt": 1, "pid": os.getpid(), "elapsed": 0.25,
    }  # fmt: skip
    assert _format.result_bytes(line[:-1]) == b'{"a":1}'
