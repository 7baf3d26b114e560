"""The interrupt's hook from 3.12 on: `sys.monitoring`.

Measured, and why it is done so:

- An exception raised from a LINE or an INSTRUCTION event appears at that instruction and meets its handlers. One
  raised from a JUMP or a BRANCH event escapes every handler of its frame, on 3.12.1 and 3.13.0: not used.
- LINE events do not fire while a loop stays on one line (`while True: pass`) nor, since 3.13, in a function that is one
  line (a lambda). Such functions get INSTRUCTION events too, of which only those at a loop's or the function's head
  count.
- Events are local to code objects, but not to threads: whoever else runs the function calls the hook, which looks up
  its thread ident and returns. DISABLE would blind the target too.
- Switching events on reaches frames that are already running.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from threading import get_ident
from types import CodeType, FrameType, FunctionType
from typing import Any

from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._interruption.code_map import code_map
from threadsafe_timeout._introspection.transparent import is_protected
from threadsafe_timeout._timing import timer as _timer

__all__ = ["Monitoring"]

_monitoring: Any = getattr(sys, "monitoring", None)  # the type checker looks at 3.11

_TOOL_IDS = (4, 3)  # those the standard leaves free
_Codes = dict[int, tuple[CodeType, int]]  # by id: the code, and the events that are wanted in it
_DEEPEST = 64  # frames: from the innermost outwards; whatever runs returns to one of them soon


class Monitoring:
    """Switches events on and off."""

    longest = 0.25  # the events stay on between two looks

    def __init__(self, on_line: Callable[[FrameType, int], None]) -> None:
        self._on_line = on_line
        self._tool: int | None = None
        self._armed: _Codes = {}  # guarded, as _tool is, by _timer.lock

    def seen_at(self, frame: FrameType) -> _Codes:
        return {id(code): (code, _events(code)) for code in _interruptible(frame)}

    def arm(self, seen: dict[int, _Codes]) -> None:
        with _timer.lock:
            wanted: _Codes = {}
            for ident, codes in seen.items():
                if ident in _pursuit._targets:
                    wanted |= codes
            self._switch(wanted)

    def _switch(self, wanted: _Codes) -> None:
        if wanted and self._tool is None:
            self._tool = self._take_tool()
        if self._tool is None:
            return  # both are taken by others: looked for again at the next look
        for key, (code, _) in self._armed.items():
            if key not in wanted:
                _monitoring.set_local_events(self._tool, code, 0)
        for key, (code, events) in wanted.items():
            if key not in self._armed:
                _monitoring.set_local_events(self._tool, code, events)
        self._armed = wanted
        if not wanted and not _pursuit._targets:
            self._give_back()

    def _take_tool(self) -> int | None:
        for tool in _TOOL_IDS:
            try:
                _monitoring.use_tool_id(tool, "threadsafe-timeout")
            except ValueError:
                continue
            _monitoring.register_callback(tool, _monitoring.events.LINE, self._line)
            _monitoring.register_callback(tool, _monitoring.events.INSTRUCTION, self._instruction)
            return tool
        return None

    def _give_back(self) -> None:
        if self._tool is not None:
            _monitoring.register_callback(self._tool, _monitoring.events.LINE, None)
            _monitoring.register_callback(self._tool, _monitoring.events.INSTRUCTION, None)
            _monitoring.free_tool_id(self._tool)
            self._tool = None

    def _line(self, code: CodeType, line: int) -> None:
        if get_ident() in _pursuit._targets:
            frame = sys._getframe(1)
            self._on_line(frame, frame.f_lasti)

    def _instruction(self, code: CodeType, offset: int) -> None:
        if get_ident() in _pursuit._targets and offset in code_map(code).heads:
            self._on_line(sys._getframe(1), offset)


def _events(code: CodeType) -> int:
    line, instruction = int(_monitoring.events.LINE), int(_monitoring.events.INSTRUCTION)
    return line | instruction if code_map(code).needs_instructions else line


def _interruptible(frame: FrameType) -> Iterator[CodeType]:
    """The functions on a stack in which the interrupt could be raised."""
    if not is_protected(frame):
        yield from _called_from(frame)
    walk: FrameType | None = frame
    for _ in range(_DEEPEST):
        if walk is None:
            return
        if not is_protected(walk):
            yield walk.f_code
        walk = walk.f_back


def _called_from(frame: FrameType) -> Iterator[CodeType]:
    """Functions that a C function may be calling from `frame`: its own inner ones, and the globals it names.

    In `sum(map(f, count()))` the thread is stopped only on entry to `f`, where its frame is not yet to be seen.
    """
    code = frame.f_code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
    for name in code.co_names:
        function = frame.f_globals.get(name)
        # Not isinstance(), which asks a proxy for its __class__: the program's code, and this is not its thread.
        if type(function) is FunctionType and function.__module__ == frame.f_globals.get("__name__"):
            yield function.__code__
