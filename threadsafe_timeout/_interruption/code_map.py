"""Where in a function's bytecode an exception can appear without skipping a clean-up that is due.

The interpreter finds the handler of an exception in the code object's exception table, by the offset of the
instruction that raised. That table has holes: between a `with` body and the call of `__exit__`, in the normal copy
of a `finally` body, at the `try:` line itself, and, on 3.12 and 3.13, at instructions the compiler forgot (the
`JUMP_BACKWARD` of `while cond(): pass`). An exception that appears in a hole leaves a lock held or a `finally` not
run. `CodeMap.verdict` says for every instruction whether it is one.

What is computed, once per code object:

- *pending*: which `with` blocks have been entered and not yet left when an instruction is about to run, by following
  the control flow. The instruction is a hole unless every one of them has its handler in the instruction's chain.
- *final*: the source positions of `finally` bodies. The compiler emits each twice, for the normal and for the
  exceptional path; only the second is marked in the table, and its positions give away the first.
- *before_try*: the `try:` line that follows `lock.acquire()`, and the jump back to it; there the lock is held and the
  handler not yet in force.
- *acquired*: from a call of a method named `acquire` to the `try:` that protects it, or to the `release`: other lines
  may stand between. Only where the function also releases: what is released elsewhere is no section of its own.
"""

from __future__ import annotations

import opcode
import sys
from enum import IntEnum
from types import CodeType

from threadsafe_timeout._interruption.exception_table import exception_table

__all__ = ["CodeMap", "Verdict", "code_map"]

_NAMES = opcode.opname
_CACHES: dict[int, int] = (
    # A list by opcode on 3.11 and 3.12, a mapping by name from 3.13 on; the number of cache units after an instruction.
    {op: opcode._inline_cache_entries.get(_NAMES[op], 0) for op in range(256)}  # type: ignore[attr-defined]  # private
    if hasattr(opcode._inline_cache_entries, "get")  # type: ignore[attr-defined]  # private
    else dict(enumerate(opcode._inline_cache_entries))  # type: ignore[attr-defined]  # private
)
# END_ASYNC_FOR is listed since 3.14, and does not jump: its argument tells where it is reached from.
_RELATIVE = frozenset(opcode.hasjrel) - {opcode.opmap["END_ASYNC_FOR"]}
_NO_FALL_THROUGH = frozenset({
    "RETURN_VALUE", "RETURN_CONST", "RERAISE", "RAISE_VARARGS", "JUMP_FORWARD", "JUMP_BACKWARD",
    "JUMP_BACKWARD_NO_INTERRUPT",
})  # fmt: skip
# The instruction that calls __enter__. Since 3.14 an ordinary CALL, after a LOAD_SPECIAL: it is given the name it had.
_ENTERS = frozenset({"BEFORE_WITH", "BEFORE_ASYNC_WITH"})
_SPECIAL = {0: "BEFORE_WITH", 2: "BEFORE_ASYNC_WITH"}  # by LOAD_SPECIAL's argument: __enter__, __aenter__
_EXIT_ARGUMENTS = 3 if sys.version_info >= (3, 14) else 2  # of the call of __exit__, as CALL counts them
# Instructions that call Python functions whose exceptions they pass on. Any other one (STORE_FAST, POP_TOP, …) that
# has a callee runs a finaliser or a weak reference's callback, whose exceptions are printed and dropped.
_CALLING = frozenset({
    "BINARY_OP", "BINARY_SLICE", "BINARY_SUBSCR", "CALL", "CALL_FUNCTION_EX", "CALL_INTRINSIC_1", "CALL_INTRINSIC_2",
    "CALL_KW", "COMPARE_OP", "CONTAINS_OP", "CONVERT_VALUE", "DICT_MERGE", "DICT_UPDATE", "FORMAT_SIMPLE",
    "FORMAT_VALUE", "FORMAT_WITH_SPEC", "FOR_ITER", "GET_ITER", "JUMP_IF_FALSE_OR_POP", "JUMP_IF_TRUE_OR_POP",
    "LIST_EXTEND", "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "POP_JUMP_BACKWARD_IF_FALSE",
    "POP_JUMP_BACKWARD_IF_TRUE", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_IF_FALSE",
    "POP_JUMP_IF_TRUE", "PRECALL", "SEND", "SET_UPDATE", "STORE_ATTR", "STORE_SLICE", "STORE_SUBSCR", "TO_BOOL",
    "UNARY_INVERT", "UNARY_NEGATIVE", "UNARY_NOT", "UNPACK_EX", "UNPACK_SEQUENCE",
})  # fmt: skip
_ASYNC_FLAGS = 0x80 | 0x100 | 0x200  # a coroutine, a generator-based one, an asynchronous generator
# What may stand between a call and the end of its statement, and between that and the head of a loop.
_USES_RESULT = frozenset({
    "CACHE", "COPY", "JUMP_BACKWARD", "JUMP_FORWARD", "NOP", "NOT_TAKEN", "POP_TOP", "TO_BOOL", "UNARY_NOT",
})  # fmt: skip
_CACHE_SIZE = 2048

_Position = tuple[int | None, int | None, int | None, int | None]  # line, end line, column, end column


class Verdict(IntEnum):
    """Whether an exception may appear at an instruction."""

    NEVER = 0
    IN_HANDLER = 1  # inside an `except` body: it may be a roll-back, so only when there is no other way
    CLEAN = 2


class CodeMap:
    """The verdict for each instruction of one code object."""

    def __init__(self, code: CodeType) -> None:
        self.asynchronous = bool(code.co_flags & _ASYNC_FLAGS)
        self.names: dict[int, str] = {}
        self._arguments: dict[int, int] = {}
        self.next: dict[int, int] = {}
        self._jumps: dict[int, int] = {}
        self._start: list[int] = []  # by code unit: the offset of the instruction it belongs to
        self._decode(code.co_code)
        self._handlers: list[int | None] = [None] * len(self._start)  # by code unit: the innermost handler
        for start, end, target in exception_table(code):
            self._handlers[start // 2 : end // 2] = [target] * ((end - start) // 2)
        self._chains: dict[int, tuple[int, ...]] = {}
        # An `async with` is entered by an await, which the handlers of what is around it cover. None of its places
        # counts as covered: in a coroutine the scope's cancellation comes by way of the event loop.
        self._with_handlers = {
            offset: self._handlers[self.next[offset] // 2] if name == "BEFORE_WITH" else -1
            for offset, name in self.names.items()
            if name in _ENTERS
        }
        # Where every round of a loop passes by, and where a function starts. (Not where an await goes round.)
        self.heads = frozenset(
            target
            for source, target in self._jumps.items()
            if target <= source and "NO_INTERRUPT" not in self.names[source] and self._leads_to(target, source)
        )
        self._pending = self._follow()
        self._guards: dict[int, int] = {}  # by handler of an except or finally: the clean-up that guards its body
        self._excepts, self._finals = self._clean_ups()
        self._acquired = self._follow_acquired(code.co_names)
        self._before = {following: offset for offset, following in self.next.items()}
        self._risky_heads = {head for head in self.heads if self._follows_a_call(head)}
        self._read_positions(list(code.co_positions()))

    def _read_positions(self, positions: list[_Position]) -> None:
        """See to what only the source positions tell."""
        in_final = {offset for offset in self.names if self._inside(offset, self._finals)}
        final_positions = {positions[offset // 2] for offset in in_final if positions[offset // 2][0] is not None}
        self._final = in_final | {offset for offset in self.names if positions[offset // 2] in final_positions}
        # The jump that goes round a loop has the position of the statement before it, though that be done.
        self._final -= {
            source for source, target in self._jumps.items() if target <= source and target not in self._final
        }
        lines = {line for line, *_ in positions} - {None}
        # No LINE events come from a loop that stays on its line, nor, on 3.13, from a function that is one line.
        self.needs_instructions = len(lines) == 1 or self._has_one_line_loop(positions)
        if len(lines) == 1:
            self.heads |= {self.next[offset] for offset, name in self.names.items() if name == "RESUME"}

    def _decode(self, bytecode: bytes) -> None:
        offset = extended = 0
        entering = None
        while offset < len(bytecode):
            op = bytecode[offset]
            argument = bytecode[offset + 1] | extended
            extended = argument << 8 if op == opcode.EXTENDED_ARG else 0
            following = offset + 2 + 2 * _CACHES.get(op, 0)
            name = entering or _NAMES[op]
            entering = _SPECIAL.get(argument) if name == "LOAD_SPECIAL" else None
            self.names[offset], self._arguments[offset], self.next[offset] = name, argument, following
            self._start.extend([offset] * ((following - offset) // 2))
            if op in _RELATIVE:
                self._jumps[offset] = following + (-2 if "BACKWARD" in name else 2) * argument
            offset = following

    def is_consistent(self) -> bool:
        """Whether every jump, and every handler, leads to the beginning of an instruction."""
        targets = {*self._jumps.values(), *(handler for handler in self._handlers if handler is not None)}
        return targets <= self.names.keys() and not any(name.startswith("<") for name in self.names.values())

    def is_reached(self, offset: int) -> bool:
        """Whether the instruction at `offset` can ever be the next one to run."""
        return self._start[offset // 2] in self._pending

    def chain(self, offset: int) -> tuple[int, ...]:
        """The handlers an exception at `offset` would meet, innermost first."""
        offset = self._start[offset // 2]
        chain = self._chains.get(offset)
        if chain is None:
            found: list[int] = []
            handler = self._handlers[offset // 2]
            while handler is not None and handler not in found:
                found.append(handler)
                handler = self._handlers[handler // 2]
            chain = self._chains[offset] = tuple(found)
        return chain

    def lands(self, offset: int) -> int | None:
        """On 3.11: the next instruction when an exception is raised that was sent to a thread at `offset`. None if it
        would not meet the handlers of that one: at a jump it meets those of what stands before the jump's target."""
        target = self._jumps.get(offset)
        if target is None:
            return offset
        return target if target and self.chain(target - 2) == self.chain(target) else None

    def covered_by(self, offset: int, enter: int) -> bool:
        """Whether the `with` block that was entered at `enter` would see an exception at `offset`."""
        handler = self._with_handlers.get(enter)
        return handler is not None and handler in self.chain(offset)

    def _follow(self) -> dict[int, tuple[int, ...]]:
        """For each reachable instruction the `with` blocks that are entered and not left when it is about to run."""
        pending: dict[int, tuple[int, ...]] = {}
        work: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        while work:
            offset, state = work.pop()
            known = pending.get(offset)
            # A handler is reached from many places, the holes of inner blocks among them: the shortest state is its.
            if offset not in self.names or (known is not None and len(known) <= len(state)):
                continue
            pending[offset] = state
            handler = self._handlers[offset // 2]
            if handler is not None:
                work.append((handler, state))
            after = self._after(offset, state)
            if offset in self._jumps:
                work.append((self._jumps[offset], after))
            if self.names[offset] not in _NO_FALL_THROUGH:
                work.append((self.next[offset], after))
        return pending

    def _leads_to(self, start: int, end: int) -> bool:
        """Whether `end` is reached from `start` without an exception. (A handler, placed last, jumps backwards too.)"""
        seen: set[int] = set()
        work = [start]
        while work:
            offset = work.pop()
            if offset == end:
                return True
            if offset in seen or offset not in self.names:
                continue
            seen.add(offset)
            if offset in self._jumps:
                work.append(self._jumps[offset])
            if self.names[offset] not in _NO_FALL_THROUGH:
                work.append(self.next[offset])
        return False

    def _after(self, offset: int, state: tuple[int, ...]) -> tuple[int, ...]:
        name = self.names[offset]
        if name in _ENTERS:
            return (*state, offset)
        if state and (name == "WITH_EXCEPT_START" or self._is_exit(offset, state[-1])):
            return state[:-1]
        return state

    def _is_exit(self, offset: int, enter: int) -> bool:
        """Whether this is the call of __exit__(None, None, None), or of __aexit__, of the block entered at `enter`."""
        if self.names[offset] != "CALL" or self._arguments[offset] != _EXIT_ARGUMENTS:
            return False
        if self.names[enter] == "BEFORE_ASYNC_WITH":
            following = self.next[offset]
            return self.names[following] == "GET_AWAITABLE" and self._arguments[following] == 2
        return not self.covered_by(offset, enter)  # the only one outside its own block's handler

    def _clean_ups(self) -> tuple[frozenset[int], frozenset[int]]:
        """The clean-ups that guard the handlers themselves: of `except` bodies, and of `finally` bodies."""
        excepts: set[int] = set()
        finals: set[int] = set()
        for handler in {handler for handler in self._handlers if handler is not None}:
            guard = self._handlers[handler // 2]
            if self.names[handler] != "PUSH_EXC_INFO" or guard is None:
                continue
            first = self.names[self.next[handler]]
            if first == "WITH_EXCEPT_START":
                continue
            matches = first == "POP_TOP" or any(  # a bare `except:` starts with POP_TOP
                name in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH") and self._handlers[offset // 2] == guard
                for offset, name in self.names.items()
            )
            (excepts if matches else finals).add(guard)
            self._guards[handler] = guard
        return frozenset(excepts), frozenset(finals)

    def _inside(self, offset: int, guards: frozenset[int]) -> bool:
        """Whether `offset` lies in a body guarded by one of `guards`; not in the `try` body whose handler it guards."""
        before = None
        for handler in self.chain(offset):
            if handler in guards and (before is None or self._guards.get(before) != handler):
                return True
            before = handler
        return False

    def _has_one_line_loop(self, positions: list[_Position]) -> bool:
        """Whether some loop stays on one line."""
        for source, target in self._jumps.items():
            if target <= source:
                lines = {positions[offset // 2][0] for offset in self.names if target <= offset <= source}
                if len(lines - {None}) <= 1:
                    return True
        return False

    def _follows_a_call(self, head: int) -> bool:
        """Whether a round of the loop may begin right after a call: one in the loop's condition, or a statement of the
        same level before it. (What was called in a `try` body that has ended was protected by that, or by nothing.)
        """
        sources = [source for source, target in self._jumps.items() if target == head]
        if head in self._before and self.names[self._before[head]] not in _NO_FALL_THROUGH:
            sources.append(self._before[head])
        return any(self._ends_with_a_call(source, self.chain(head)) for source in sources)

    def _ends_with_a_call(self, source: int, level: tuple[int, ...]) -> bool:
        """Whether nothing but the use of its result stands between a call with these handlers and `source`."""
        walk: int | None = source
        while walk is not None and self._uses_result(walk):
            walk = self._before.get(walk)
        return walk is not None and self.names[walk].startswith("CALL") and self.chain(walk) == level

    def _uses_result(self, offset: int) -> bool:
        name = self.names[offset]
        return name in _USES_RESULT or name.startswith(("STORE_", "POP_JUMP_"))

    def _follow_acquired(self, names: tuple[str, ...]) -> frozenset[int]:
        """Where something may be held that no handler gives back."""
        if "acquire" not in names or "release" not in names:
            return frozenset()
        methods = {offset: self._called_method(offset, names) for offset in self.names}
        releases = frozenset(offset for offset, method in methods.items() if method == "release")
        protecting = {
            handler
            for handler, guard in self._guards.items()
            if any(guard in self.chain(release) and self._leads_to(handler, release) for release in releases)
        }
        found: set[int] = set()
        for offset, method in methods.items():
            if method == "acquire" and releases:
                self._follow_one(self._if_true(self.next[self._call_of(offset)]), found, releases, protecting)
        return frozenset(found)

    def _called_method(self, offset: int, names: tuple[str, ...]) -> str | None:
        name, argument = self.names[offset], self._arguments[offset]
        if name == "LOAD_METHOD":
            return names[argument]
        if name == "LOAD_ATTR" and sys.version_info >= (3, 12) and argument & 1:
            return names[argument >> 1]
        return None

    def _call_of(self, method: int) -> int:
        """The first call after a method is loaded: its own, or one among its arguments."""
        while not self.names[method].startswith("CALL"):
            method = self.next[method]
        return method

    def _follow_one(self, work: list[int], found: set[int], releases: frozenset[int], protecting: set[int]) -> None:
        while work:
            offset = work.pop()
            if offset in found or offset not in self.names or not protecting.isdisjoint(self.chain(offset)):
                continue
            found.add(offset)
            if offset in releases:
                call = self._call_of(offset)
                found.update(between for between in self.names if offset <= between <= call)
                continue
            if offset in self._jumps:
                work.append(self._jumps[offset])
            if self.names[offset] not in _NO_FALL_THROUGH:
                work.append(self.next[offset])

    def _if_true(self, offset: int) -> list[int]:
        """Where a true result leads, if that is what is asked next: a false one acquired nothing."""
        negated = False
        while self.names[offset] in ("COPY", "TO_BOOL", "UNARY_NOT") or self.names[offset].startswith("STORE_"):
            negated ^= self.names[offset] == "UNARY_NOT"
            offset = self.next[offset]
        name = self.names[offset]
        if not name.startswith("POP_JUMP_") or "NONE" in name:
            return [offset]
        return [self._jumps[offset] if name.endswith("FALSE") == negated else self.next[offset]]

    def _before_try(self, offset: int) -> bool:
        """Whether this is the `try:` line, whose handler is not in force yet, or the jump back to it that ends a round.
        (Not if nothing can have been acquired just before it.)"""
        following = offset
        if self.names[offset] == "JUMP_BACKWARD":  # before 3.14 it has the line of its `while`
            following = self._jumps[offset]
            if not self._ends_with_a_call(offset, self.chain(offset)):
                return False
        elif offset in self.heads and offset not in self._risky_heads:
            return False
        if self.names.get(following) != "NOP":
            return False
        while self.names.get(following) == "NOP":
            following = self.next[following]
        return following in self.names and not set(self.chain(following)) <= set(self.chain(offset))

    def verdict(self, offset: int, *, calling: bool) -> Verdict:
        """Whether an exception may appear at `offset`: the next instruction to run or, if `calling`, one in a call."""
        offset = self._start[offset // 2]
        pending = self._pending.get(offset)
        if pending is None or offset in self._final or offset in self._acquired:
            return Verdict.NEVER
        chain = self.chain(offset)
        if any(self._with_handlers[enter] not in chain for enter in pending):
            return Verdict.NEVER
        if self.names[offset] not in _CALLING if calling else self._before_try(offset):
            return Verdict.NEVER
        return Verdict.IN_HANDLER if self._inside(offset, self._excepts) else Verdict.CLEAN


# By identity, because code objects compare by value, slowly. The map's owner keeps the code object alive, and with it
# its id. Written by whoever asks; a dict's single operations are atomic, and computing a map twice does no harm.
_maps: dict[int, tuple[CodeType, CodeMap]] = {}


def code_map(code: CodeType) -> CodeMap:
    """The map of `code`, computed once (about a microsecond per instruction)."""
    found = _maps.get(id(code))
    if found is None:
        if len(_maps) >= _CACHE_SIZE:
            _maps.clear()
        found = _maps[id(code)] = (code, CodeMap(code))
    return found[1]
