"""Which variables a running function may still read, by its bytecode.

It errs on one side only: a variable that is reported as not read is not read by this function any more. (Unless a
debugger reads it.) Every path is followed that the function can take, those that exceptions take included.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator
from types import CodeType

from threadsafe_timeout._interruption.exception_table import exception_table

__all__ = ["names_mentioned", "on_stack_at", "returns_what_it_has", "still_read"]

# One instruction may do two things: LOAD_FAST_LOAD_FAST, STORE_FAST_LOAD_FAST.
_ACCESS = re.compile(r"(LOAD|STORE|DELETE)_(?:FAST|DEREF|CLASSDEREF|CLOSURE|NAME|GLOBAL|FROM_DICT_OR)")
_ENDS = frozenset({
    "INTERPRETER_EXIT", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_FORWARD", "RAISE_VARARGS", "RERAISE",
    "RETURN_CONST", "RETURN_VALUE",
})  # fmt: skip
# What reads variables without naming them.
_READS_ALL = frozenset({"dir", "eval", "exec", "locals", "vars"})


class _Step:
    """One instruction: what it reads and writes, and what may come next."""

    __slots__ = ("following", "handler", "instruction", "reads", "target", "writes")

    def __init__(self, instruction: dis.Instruction, following: int | None, handler: int | None) -> None:
        self.instruction = instruction
        self.reads: set[str] = set()
        self.writes: set[str] = set()
        value = instruction.argval
        names = value if isinstance(value, tuple) else (value,)
        for access, name in zip(_ACCESS.findall(instruction.opname), names, strict=False):
            (self.reads if access == "LOAD" else self.writes).add(str(name))
        jumps = instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs
        self.following = None if instruction.opname in _ENDS else following
        self.target = value if jumps and isinstance(value, int) else None
        self.handler = handler


def still_read(code: CodeType, offset: int) -> frozenset[str]:
    """The variables that `code` may read after the instruction at `offset` (a frame's `f_lasti`) before it gives them
    another value: local ones, those of closures, and, at the top of a module, global ones."""
    steps, at = _steps(code, offset)
    found = _live_after(steps, at)
    return frozenset(_all_names(code)) if found & _READS_ALL else frozenset(found)


def returns_what_it_has(code: CodeType, offset: int) -> bool:
    """Whether `code` may return, after the call at `offset`, a value that it has computed before that: `return x` in a
    `with` whose `__exit__` is being called, or in a `try` whose `finally` runs."""
    steps, at = _steps(code, offset)
    seen: set[int] = set()
    # The number of values above those that were there before the call, of which its own result is one.
    pending: list[tuple[int | None, int]] = [(steps[at].following, 1)]
    while pending:
        where, depth = pending.pop()
        if where is None or where in seen:
            continue
        seen.add(where)
        step = steps[where]
        instruction = step.instruction
        if instruction.opname == "RETURN_VALUE":
            if depth <= 0:
                return True
            continue
        argument = instruction.arg if instruction.opcode >= dis.HAVE_ARGUMENT else None
        for following, jump in ((step.following, False), (step.target, True)):
            pending.append((following, depth + dis.stack_effect(instruction.opcode, argument, jump=jump)))
    return False


def on_stack_at(code: CodeType, offset: int) -> frozenset[str]:
    """The local variables whose values are on the stack of `code` at the call at `offset`. (From 3.14 on most have no
    reference of their own there.) It errs towards more names."""
    instructions = list(dis.get_instructions(code))
    found: set[str] = set()
    for number, instruction in enumerate(instructions):
        if not instruction.opname.startswith("LOAD_FAST") or instruction.offset >= offset:
            continue
        value = instruction.argval
        if _stays(instructions[number + 1 :], offset):
            found.update(map(str, value if isinstance(value, tuple) else (value,)))
    return frozenset(found)


def _stays(following: list[dis.Instruction], offset: int) -> bool:
    """Whether what was just pushed is still on the stack at `offset`, with nothing but straight code until there."""
    depth = 1  # from the top, where it is the first
    for instruction in following:
        if instruction.offset >= offset:
            return instruction.offset == offset
        if instruction.opname in _ENDS:
            return False
        argument = instruction.arg if instruction.opcode >= dis.HAVE_ARGUMENT else None
        if instruction.opname == "SWAP" and argument is not None and depth in (1, argument):
            depth = 1 + argument - depth
            continue
        depth += dis.stack_effect(instruction.opcode, argument, jump=False)
        if depth < 1:
            return False
    return False


def _steps(code: CodeType, offset: int) -> tuple[dict[int, _Step], int]:
    """The instructions by their offsets, and the one that is at `offset`."""
    instructions = list(dis.get_instructions(code))
    offsets = [instruction.offset for instruction in instructions]
    handlers = list(exception_table(code))
    steps: dict[int, _Step] = {}
    for number, instruction in enumerate(instructions):
        following = offsets[number + 1] if number + 1 < len(offsets) else None
        handler = next((target for start, end, target in handlers if start <= instruction.offset < end), None)
        steps[instruction.offset] = _Step(instruction, following, handler)
    return steps, max(one for one in offsets if one <= max(offset, 0))


def _live_after(steps: dict[int, _Step], at: int) -> set[str]:
    """Forwards from `at`, with the set of names that were written on the way: the fewer, the more is live."""
    found: set[str] = set()
    seen: dict[int, set[str]] = {}
    nothing: set[str] = set()
    pending: list[tuple[int | None, set[str]]] = [(steps[at].following, nothing), (steps[at].handler, nothing)]
    while pending:
        offset, written = pending.pop()
        if offset is None:
            continue
        before = seen.get(offset)
        if before is not None:
            if before <= written:
                continue
            written = written & before
        seen[offset] = written
        step = steps[offset]
        found |= step.reads - written
        after = written | step.writes
        # What an exception in here finds was not written yet.
        pending += [(step.following, after), (step.target, after), (step.handler, written)]
    return found


def _all_names(code: CodeType) -> Iterator[str]:
    yield from code.co_varnames
    yield from code.co_cellvars
    yield from code.co_freevars
    yield from code.co_names


def names_mentioned(code: CodeType) -> set[str]:
    """The global names and attributes that the functions defined in `code` mention."""
    found: set[str] = set()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.update(constant.co_names)
            found |= names_mentioned(constant)
    return found
