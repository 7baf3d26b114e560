"""The interrupt lands nowhere but where it may: tried at every place it could, and what the map of the code says of it."""

import asyncio
import concurrent.futures.thread
import contextlib
import ctypes
import dis
import importlib
import itertools
import logging
import sys
import threading
import types
from pathlib import Path

import pytest
from busy import loop
from interrupts import MECHANISM, compute_past_the_deadline

from threadsafe_timeout import Cancelled, CancelScope, DeadlineExceeded, deadline, move_on_after
from threadsafe_timeout._interruption import code_map as _code_map
from threadsafe_timeout._interruption import code_map_check as _code_map_check
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._interruption.code_map import CodeMap, Verdict
from threadsafe_timeout._introspection.frames import current_frames

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import stress_interrupt
import stress_interrupt_shapes as shapes

if MECHANISM == "async exception":
    from threadsafe_timeout._interruption import async_exception as _async_exception
    from threadsafe_timeout._interruption.arrival import arrival

pytestmark = [pytest.mark.skipif(MECHANISM is None, reason=_pursuit.support().detail), pytest.mark.usefixtures("short_grace")]


class EveryPlace:
    """Runs a body with the hook on all the time, and raises at the n-th place where the interrupt may appear."""

    def __init__(self):
        self.codes = set(shapes.code_objects())
        self.scope = None
        self.countdown = 0
        self.insist = False
        self.raised_at = None

    def hook(self, frame, offset):
        scope = self.scope
        if scope is None or scope._state != 1 or scope._frame is None:
            return
        if _pursuit._may_raise(frame, offset, scope, self.insist):
            if self.countdown == 0:
                self.scope = None
                self.raised_at = f"{frame.f_code.co_qualname}:{frame.f_lineno} at {offset}"
                scope.cancel("test")
                raise Cancelled._of(scope)
            self.countdown -= 1

    def run(self, body, place, insist):
        """One run; the problems found, and whether there was an n-th place at all."""
        record, scope = shapes.Record(), CancelScope()
        self.scope, self.countdown, self.insist, self.raised_at = scope, place, insist, None
        problems = []
        try:
            self.traced(lambda: body(record, scope, 3))
        except BaseException as exc:
            problems.append(f"escaped: {exc!r}")
        self.scope = None
        # (In bare*, the body swallows it, and ends by itself.)
        if self.raised_at is not None and not scope.cancelled_caught and not body.__name__.startswith("b_bare"):
            problems.append("not caught by its scope")
        return problems + shapes.violations(record), self.raised_at

    def traced(self, call):
        return call() if MECHANISM == "monitoring" else self._settrace(call)

    def _settrace(self, call):
        jumping = None, 0

        def trace(frame, event, argument):
            nonlocal jumping
            if frame.f_code not in self.codes:
                return None
            frame.f_trace_opcodes = True
            # At lines, once it insists; before that where it appears in a thread that is found waiting.
            if event == "line" and self.insist:
                self.hook(frame, frame.f_lasti)
            elif event in ("call", "opcode") and not self.insist:
                lands = arrival(frame.f_code, frame.f_lasti)
                if jumping == (frame, frame.f_lasti) or lands == frame.f_lasti:
                    jumping = None, 0
                    self.hook(frame, frame.f_lasti)
                jumping = frame, lands
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            return call()
        finally:
            sys.settrace(before)

    @contextlib.contextmanager
    def monitored(self):
        monitoring = sys.monitoring
        monitoring.use_tool_id(3, "every place")
        monitoring.register_callback(3, monitoring.events.LINE, self._line)
        monitoring.register_callback(3, monitoring.events.INSTRUCTION, self._instruction)
        for code in self.codes:
            monitoring.set_local_events(3, code, monitoring.events.LINE | monitoring.events.INSTRUCTION)
        try:
            yield
        finally:
            for code in self.codes:
                monitoring.set_local_events(3, code, 0)
            monitoring.register_callback(3, monitoring.events.LINE, None)
            monitoring.register_callback(3, monitoring.events.INSTRUCTION, None)
            monitoring.free_tool_id(3)

    def _line(self, code, line):
        frame = sys._getframe(1)
        self.hook(frame, frame.f_lasti)

    def _instruction(self, code, offset):
        if offset in _pursuit.code_map(code).heads:
            self.hook(sys._getframe(1), offset)


@pytest.mark.parametrize("shape", sorted(shapes.BODIES))
def test_at_every_place_it_may_appear_nothing_is_left_undone(shape, monkeypatch):
    every, unraisable = EveryPlace(), []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: unraisable.append(repr(info)))
    found = []
    with every.monitored() if MECHANISM == "monitoring" else contextlib.nullcontext():
        for insist in (False, True):
            for place in itertools.count():
                problems, raised_at = every.run(shapes.BODIES[shape], place, insist)
                problems += unraisable
                if problems:
                    found.append(f"{'insisting' if insist else 'polite'}, place {place} ({raised_at}): {problems}")
                    unraisable.clear()
                if raised_at is None:
                    break
            assert place >= 1, "it could appear nowhere at all"
    assert not found, "\n".join(found[:10])


def test_the_map_knows_the_holes():
    def body(scope, lock):
        with scope:
            lock.acquire()
            try:
                lock.locked()
            finally:
                lock.release()

    mapped = CodeMap(body.__code__)
    first = body.__code__.co_firstlineno
    by_line = {}
    for (offset, name), position in zip(
        mapped.names.items(), (list(body.__code__.co_positions())[o // 2] for o in mapped.names), strict=True
    ):
        if name != "RESUME" and position[0] is not None:
            by_line.setdefault(position[0] - first, mapped.verdict(offset, calling=False))
    assert by_line[2] is Verdict.CLEAN  # before acquire() runs
    assert by_line[3] is Verdict.NEVER  # try: acquired, and not yet guarded
    assert by_line[4] is Verdict.CLEAN
    assert by_line[6] is Verdict.NEVER  # the finally body


@pytest.mark.skipif(MECHANISM != "async exception", reason="nothing is sent here")
def test_what_is_sent_to_a_loop_at_the_head_of_a_try_would_miss_its_handler():
    """On 3.11 it meets the handlers of what stands before the jump's target: the `try:` line."""

    def direct(done):
        done.append("started")
        try:
            while True: pass  # noqa: E701  # one line on purpose
        finally:
            done.append("finally")

    def one_more_line(done):
        done.append("started")
        try:
            while True:
                pass
        finally:
            done.append("finally")

    def in_its_loop(thread, body):
        frame = current_frames().get(thread.ident)
        return frame is not None and frame.f_code is body.__code__ and frame.f_lineno >= body.__code__.co_firstlineno + 3

    def sent_to(body):
        done = []

        def run():
            try:
                body(done)
            except KeyError:
                done.append("outside")

        thread = threading.Thread(target=run)
        thread.start()
        while not in_its_loop(thread, body):
            _async_exception.time.sleep(0)
        _async_exception.ctypes.pythonapi.PyThreadState_SetAsyncExc(
            _async_exception.ctypes.c_ulong(thread.ident), _async_exception.ctypes.py_object(KeyError)
        )
        thread.join()
        jump = max(offset for offset, name in CodeMap(body.__code__).names.items() if name == "JUMP_BACKWARD")
        return done, arrival(body.__code__, jump) is not None

    assert sent_to(direct) == (["started", "outside"], False)
    assert sent_to(one_more_line) == (["started", "finally", "outside"], True)


def test_what_others_call_through_ctypes_is_left_as_it_is():
    with move_on_after(0.01):
        loop()
    function = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert function.argtypes is None, "stopit and func_timeout pass it arguments of other types"


@pytest.mark.stress
@pytest.mark.timeout(580)
@pytest.mark.parametrize("threads", [1, 4, pytest.param(16, marks=pytest.mark.long)])
def test_stress(threads):
    # On 3.11 each takes a few looks. Sixteen threads that change every microsecond get nowhere fast on a busy machine.
    expiries = (2000 if MECHANISM == "monitoring" else 600) // {1: 1, 4: 2, 16: 12}[threads]
    tally = stress_interrupt.run(expiries, threads, seed=threads)
    assert tally.expired >= expiries
    assert not tally.wrong, "\n".join(tally.examples)


def test_a_scope_that_is_told_of_twice_is_dismissed_for_good():
    """As happens when it expires while it is being entered. (The fixture looks whether anything is left.)"""
    with move_on_after(0.01) as scope:
        scope._pursue()
        scope._pursue()
        loop()
    assert scope.cancelled_caught


@pytest.mark.skipif(MECHANISM != "async exception", reason="nothing is sent here")
def test_what_is_sent_into_an_except_body_is_still_the_plain_exception():
    with pytest.raises(DeadlineExceeded) as caught:
        with deadline(0.01):
            try:
                raise KeyError
            except KeyError:
                loop()
    assert type(caught.value.__cause__) is Cancelled
    assert isinstance(caught.value.__cause__.__context__, KeyError)


def test_an_async_with_inside_another_block_is_not_covered_by_that_ones_handler():
    async def body(outer, inner, wait):
        with outer:
            async with inner:
                await wait()

    mapped = CodeMap(body.__code__)
    enters = [offset for offset, name in mapped.names.items() if name == "BEFORE_ASYNC_WITH"]
    assert len(enters) == 1
    assert not any(mapped.covered_by(offset, enters[0]) for offset in mapped.names)


def test_the_map_understands_the_bytecode_of_this_interpreter():
    assert _code_map_check.problem() is None


def test_a_map_that_misunderstands_the_bytecode_refuses(monkeypatch):
    """As if a later release called `__exit__` with another number of arguments."""
    monkeypatch.setattr(_code_map, "_EXIT_ARGUMENTS", 9)
    monkeypatch.setattr(_pursuit, "_told", True)
    _code_map_check.problem.cache_clear()
    try:
        support = _pursuit.support()
        assert support.mechanism is None
        assert "not understood: line" in support.detail
        with move_on_after(0.01) as scope:
            compute_past_the_deadline(scope)
        assert not scope.cancelled_caught
    finally:
        _code_map_check.problem.cache_clear()


@pytest.mark.parametrize("table", [None, [], {}])
def test_tables_of_another_form_are_refused_and_not_guessed_at(table, monkeypatch):
    monkeypatch.setattr(_code_map, "_CACHES", table)
    _code_map_check.problem.cache_clear()
    try:
        assert _pursuit.support().mechanism is None
    finally:
        _code_map_check.problem.cache_clear()


def test_every_jump_of_the_standard_library_leads_where_dis_says():
    for module in (contextlib, dis, importlib, logging, threading, concurrent.futures.thread, asyncio.base_events):
        pending = [compile(Path(module.__file__).read_text(), module.__file__, "exec")]
        while pending:
            code = pending.pop()
            pending += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
            mapped = CodeMap(code)
            assert mapped.is_consistent(), code
            steps = [step for step in dis.get_instructions(code) if step.opcode in dis.hasjrel]
            there = {step.offset: step.argval for step in steps if step.opname != "END_ASYNC_FOR"}
            assert mapped._jumps == there, code


def test_a_call_with_as_many_arguments_as_aexit_gets_does_not_end_an_async_with():
    async def body(scope, manager, work):
        with scope:
            async with manager:
                work(1, 2)
                work(1, 2, 3)

    mapped = CodeMap(body.__code__)
    body_line = body.__code__.co_firstlineno + 3
    starts = {line: start for start, _, line in body.__code__.co_lines()}
    assert mapped.verdict(starts[body_line + 1], calling=False) is Verdict.NEVER
    exits = [offset for offset, name in mapped.names.items() if name == "GET_AWAITABLE" and mapped._arguments[offset] == 2]
    calls = [offset for offset, following in mapped.next.items() if following in exits and "CALL" in mapped.names[offset]]
    assert calls
    assert {mapped.verdict(offset, calling=False) for offset in calls} == {Verdict.NEVER}
