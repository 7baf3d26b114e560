"""Where in a function an exception appears that is sent to a thread of CPython 3.11 while it waits for the interpreter.

See `async_exception`. Only for 3.11: the instructions, and what they are replaced by, are those of that version.
"""

from __future__ import annotations

import opcode
from types import CodeType, FunctionType
from typing import Any

from threadsafe_timeout._interruption.code_map import code_map

__all__ = ["arrival"]

# Instructions of 3.11 at which a thread can be found waiting with nothing under way. (JUMP_BACKWARD_NO_INTERRUPT is
# what an await goes round with, and is none.)
_CHECKS = frozenset(
    name for name in opcode.opmap if name in ("JUMP_BACKWARD", "RESUME") or name.startswith("POP_JUMP_BACKWARD_")
)


def _compare_and_jump() -> frozenset[int]:
    """The opcodes that a comparison and the jump after it are replaced by when the interpreter has warmed up.

    Such a pair is one instruction, and a thread that waits at the jump is found at the comparison. They have no names.
    """

    def warm(last: Any, step: Any) -> None:
        now = step
        while now < last:
            now += step

    def equal(last: str, now: str) -> None:
        while now != last:
            now = last

    found = set()
    compare = opcode.opmap["COMPARE_OP"]
    for function, last, step in ((warm, 99, 1), (warm, 99.0, 1.0), (equal, "b", "a")):
        fresh = FunctionType(function.__code__.replace(co_name="warm"), {})  # not specialised for anything yet
        for _ in range(99):
            fresh(last, step)
        adapted = fresh.__code__._co_code_adaptive  # type: ignore[attr-defined]  # private
        found |= {adapted[offset] for offset in code_map(fresh.__code__).names if _before_jump(fresh.__code__, offset)}
    return frozenset(found - {compare})


def _before_jump(code: CodeType, offset: int) -> bool:
    """Whether the instruction at `offset` is a comparison, and the next one a jump at which a thread may wait."""
    mapped = code_map(code)
    return mapped.names.get(offset) == "COMPARE_OP" and mapped.names.get(mapped.next[offset]) in _CHECKS


def arrival(code: CodeType, offset: int) -> int | None:
    """Where what is sent to a thread that is found at `offset`, innermost, appears; None if that is not known.

    As the instruction that is next; the handlers are its own.
    """
    mapped = code_map(code)
    if _before_jump(code, offset):
        if code._co_code_adaptive[offset] not in _PAIRS:  # type: ignore[attr-defined]  # private
            return None
        offset = mapped.next[offset]
    elif mapped.names.get(offset) not in _CHECKS:
        return None
    return mapped.lands(offset)


_PAIRS = _compare_and_jump()
