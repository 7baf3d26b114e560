"""The exception table of a code object: which handler an exception meets, by the instruction that raised it."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType

__all__ = ["exception_table"]


def exception_table(code: CodeType) -> Iterator[tuple[int, int, int]]:
    """(start, end, target) of each range, in bytes: 6 bits a byte, bit 6 for "more", in units of two bytes."""
    stream = iter(code.co_exceptiontable)

    def number(byte: int) -> int:
        value = byte & 63
        while byte & 64:
            byte = next(stream)
            value = value << 6 | byte & 63
        return value

    for byte in stream:
        start, length, target = number(byte), number(next(stream)), number(next(stream))
        number(next(stream))  # the stack depth
        yield 2 * start, 2 * (start + length), 2 * target
