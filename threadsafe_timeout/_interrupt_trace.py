"""The interrupt's hook on 3.11: the target thread's trace hook.

`_PyEval_SetTrace` sets it for any thread while the GIL is held; it is what `threading.settrace_all_threads` uses on
3.12. An exception raised from a line event appears at that instruction and meets its handlers; the interpreter then
removes the hook. So that an insistent interrupt meets the `except:` that swallows it, a profile hook sets it anew when
the first frame is unwound. `while True: pass` is one instruction that
jumps to itself and fires no line events: functions with a loop on one line get opcode events too, of which only those
at a loop's head count.

Needs two things no API gives: which C function calls a Python trace function, which is read from the state of the
thread that asks, at offsets fixed for all of 3.11 and verified there before use; and where another thread's state is,
which that thread has told (`_thread_states`). A thread
that is being traced (a debugger, coverage) is left alone.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from threading import get_ident
from types import FrameType
from typing import Any

from threadsafe_timeout import _interrupt, _thread_states
from threadsafe_timeout._codemap import code_map
from threadsafe_timeout._frames import current_frames, frames_of_others
from threadsafe_timeout._transparent import is_protected

__all__ = ["Tracing"]

_DEEPEST = 64  # frames


class _ThreadState(ctypes.Structure):
    """The head of 3.11's `struct _ts`."""

    _fields_ = [  # ctypes wants a plain list
        ("prev", ctypes.c_void_p), ("next", ctypes.c_void_p), ("interp", ctypes.c_void_p),
        ("initialized", ctypes.c_int), ("static", ctypes.c_int),
        ("recursion_remaining", ctypes.c_int), ("recursion_limit", ctypes.c_int), ("recursion_headroom", ctypes.c_int),
        ("tracing", ctypes.c_int), ("tracing_what", ctypes.c_int),
        ("cframe", ctypes.c_void_p), ("c_profilefunc", ctypes.c_void_p), ("c_tracefunc", ctypes.c_void_p),
        ("c_profileobj", ctypes.c_void_p), ("c_traceobj", ctypes.c_void_p),
        ("curexc_type", ctypes.c_void_p), ("curexc_value", ctypes.c_void_p), ("curexc_traceback", ctypes.c_void_p),
        ("exc_info", ctypes.c_void_p), ("dict", ctypes.c_void_p), ("gilstate_counter", ctypes.c_int),
        ("async_exc", ctypes.c_void_p), ("thread_id", ctypes.c_ulong),
    ]  # fmt: skip


class Tracing:
    """Sets and clears trace hooks. Used by the timer thread only."""

    def __init__(self, on_line: Callable[[FrameType, int], None]) -> None:
        self._on_line = on_line
        api = ctypes.pythonapi  # its functions are called with the GIL held
        self._set_trace: Any = api._PyEval_SetTrace
        self._set_trace.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.py_object]
        self._this: Any = api.PyThreadState_Get
        self._this.restype = ctypes.c_void_p
        self._hook = self._trace  # one object, so that it can be recognised
        self._trampoline = self._find_trampoline()

    def _find_trampoline(self) -> int | None:
        """The C function that calls a Python trace function; None if the thread state is not what we think."""
        previous = sys.gettrace()
        if previous is not None:
            return None
        sys.settrace(self._hook)
        try:
            state = _ThreadState.from_address(self._this())
            if state.thread_id == get_ident() and state.c_traceobj == id(self._hook):
                function: int | None = state.c_tracefunc
                return function
            return None
        finally:
            sys.settrace(None)

    def arm(self, stacks: dict[int, FrameType]) -> None:
        if self._trampoline is not None:
            with frames_of_others():
                self._arm(stacks)

    def _arm(self, stacks: dict[int, FrameType]) -> None:
        for frame in stacks.values():
            _map_all(frame)
        # Mapping may take longer than the GIL is left to one thread: where are they now?
        now = current_frames()
        # A thread that is owed nothing any more takes its hook out itself, at its next event.
        for ident in stacks:
            with _thread_states.lock:  # while it is held, a state that is found is not freed
                address = _thread_states.states.get(ident)
                if address is None:
                    continue
                state = _ThreadState.from_address(address)
                if state.c_tracefunc and state.c_traceobj != id(self._hook):
                    continue
                self._mark(now.get(ident))
                if not state.c_tracefunc:
                    self._set_trace(address, self._trampoline, self._hook)

    def _mark(self, frame: FrameType | None) -> None:
        """Line events reach only frames with a trace function of their own."""
        for walk in _innermost(frame):
            if walk.f_trace is None and not is_protected(walk):
                walk.f_trace = self._hook
                walk.f_trace_opcodes = code_map(walk.f_code).needs_instructions

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if get_ident() not in _interrupt._targets:
            sys.settrace(None)  # what was to be interrupted is over
            return None
        if event == "line" or (event == "opcode" and frame.f_lasti in code_map(frame.f_code).heads):
            try:
                self._on_line(frame, frame.f_lasti)
            except BaseException:
                if _interrupt.insisting() and sys.getprofile() is None:
                    sys.setprofile(self._unwound)
                raise
        elif event == "call":
            if is_protected(frame):
                return None
            frame.f_trace_opcodes = code_map(frame.f_code).needs_instructions
        return self._hook

    def _unwound(self, frame: FrameType, event: str, argument: object) -> None:
        """The profile hook: `frame` is left (or, if nothing was unwound, the thread calls the next function)."""
        sys.setprofile(None)
        if get_ident() in _interrupt._targets:
            self._mark(frame.f_back)
            sys.settrace(self._hook)


def _innermost(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(_DEEPEST):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _map_all(frame: FrameType) -> None:
    for walk in _innermost(frame):
        code_map(walk.f_code)
