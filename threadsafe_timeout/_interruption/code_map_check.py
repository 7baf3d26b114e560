"""Whether `CodeMap` understands the bytecode of this interpreter: a sample says, line by line, what is to come out.

Bytecode changes with every version, and may with a patch release. A map that takes one instruction for another would
let an exception appear where a clean-up is skipped. So the sample is compiled by this interpreter, at first use, and
its map is compared with the notes in its source. What differs is a reason to refuse: see `pursuit.support`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from types import CodeType

from threadsafe_timeout._interruption.code_map import CodeMap, Verdict

__all__ = ["problem"]

# The verdict at the beginning of a line: y: clean, n: never, e: in an `except` body. No note: it is not looked at.
# ("since 3.14": before, the line has other instructions.)
# `loops` is how many loops the function has.
_SAMPLE = """
def plain(scope, lock, manager, work, items):  # loops 3
    work(1)                                    # y
    with scope:
        work(1, 2)                             # y
        with manager as got, manager:
            work(1, 2, 3)                      # y
            if work(1):
                return work(1, 2)
        work(1, 2, 3)                          # y
        with manager: work(1, 2)
        lock.acquire()                         # y
        try:                                   # n
            work(1)                            # y
            while work(1):
                work(1, 2, 3)                  # y
        except ValueError as exc:              # e
            with manager:
                work(exc, 2)                   # e
            work(exc)                          # e
        else:
            work(2)                            # y
        finally:
            work(1)                            # n
            lock.release()                     # n
        for item in items:                     # y
            with manager:
                if work(item):                 # y
                    continue                   # y
                work(item, 2)                  # y
            work(item, 2, 3)                   # y
        work(1, 2)                             # y
        lock.acquire()                         # y
        work(1)                                # n
        lock.release()                         # n
        while True:
            with manager:
                break
        work(3)                                # y
        try: work(1)
        except* ValueError:
            work(1)                            # e
        while True:                            # n since 3.14
            try:                               # n
                work(2)                        # y
            finally:
                lock.release()                 # n
            if not work(1): break              # y
            if not work(2): break              # y
    return work                                # y

async def coroutine(scope, manager, work, items):  # loops 1
    with scope:
        work(1, 2)                             # y
        async with manager:
            work(1, 2)                         # n
            work(1, 2, 3)                      # n
            await work(1, 2)                   # n
        work(1, 2, 3)                          # y
        while True:
            async with manager:
                break
        work(1, 2)                             # y
        async for item in items:               # y
            work(item)                         # y
        async with manager:
            work(1, 2, 3, 4, 5, 6, 7, 8, 9)    # n
            work(1, 2, 3, 4, 5, 6, 7, 8, 9)    # n
            work(1, 2, 3, 4, 5, 6, 7, 8, 9)    # n
            work(4)                            # n
            work(5)                            # n
            work(6)                            # n
            work(7)                            # n
            work(8)                            # n
        work(1)                                # y
        with manager:
            work(1, 2)                         # y
        work(2)                                # y
    work(3)                                    # y

def generator(manager, work, items):           # loops 1
    with manager:
        for item in items:                     # y
            try:                               # n
                yield work(item)               # y
            finally:
                work(1, 2)                     # n
        yield from work(1)                     # y
    work(1, 2, 3)                              # y

def one_line(work):                            # loops 1
    while work(1): pass                        # y
"""
_VERDICTS = {Verdict.CLEAN: "y", Verdict.NEVER: "n", Verdict.IN_HANDLER: "e"}


@functools.cache
def problem() -> str | None:
    """What `CodeMap` does not understand of this interpreter's bytecode; None if nothing was found."""
    try:
        return next(_differences(compile(_SAMPLE, "<bytecode sample>", "exec", dont_inherit=True, optimize=0)), None)
    except Exception as exc:  # tables of another form, say: whatever it is, the map cannot be used
        return f"it cannot be read ({type(exc).__name__}: {exc})"


def _differences(sample: CodeType) -> Iterator[str]:
    notes = [line.partition("#")[2].split() for line in ("", *_SAMPLE.splitlines())]
    if sys.version_info < (3, 14):
        notes = [[] if note[1:] == ["since", "3.14"] else note for note in notes]
    for code in sample.co_consts:
        if isinstance(code, CodeType):
            mapped = CodeMap(code)
            if not mapped.is_consistent():
                yield f"a jump or a handler of {code.co_name}() leads to between two instructions"
            if len(mapped.heads) != int(notes[code.co_firstlineno][1]) and code.co_name != "one_line":
                yield f"{len(mapped.heads)} loops were found in {code.co_name}(), not {notes[code.co_firstlineno][1]}"
            yield from _differing_lines(code, mapped, notes)


def _differing_lines(code: CodeType, mapped: CodeMap, notes: list[list[str]]) -> Iterator[str]:
    seen, before = set(), None
    for start, _, line in code.co_lines():
        same, before = line == before, line
        if same or line is None or line == code.co_firstlineno or not notes[line] or not mapped.is_reached(start):
            continue
        seen.add(line)
        found = _VERDICTS[mapped.verdict(start, calling=False)]
        if found != notes[line][0]:
            yield f"line {line - code.co_firstlineno} of {code.co_name}() came out as {found!r}, not {notes[line][0]!r}"
    last = max(line for _, _, line in code.co_lines() if line is not None)
    for line in range(code.co_firstlineno + 1, last + 1):
        if notes[line] and line not in seen:
            yield f"line {line - code.co_firstlineno} of {code.co_name}() was not found"
