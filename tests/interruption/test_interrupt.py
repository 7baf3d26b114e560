"""The interrupt lands nowhere but where it may: tried at every place it could, and in real loops."""

import asyncio
import concurrent.futures.thread
import contextlib
import dis
import gc
import importlib
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from threadsafe_timeout import Cancelled, CancelScope, DeadlineExceeded, deadline, doctor, move_on_after, shield
from threadsafe_timeout._interruption import (
    code_map as _code_map,
)
from threadsafe_timeout._interruption import (
    code_map_check as _code_map_check,
)
from threadsafe_timeout._interruption import (
    pursuit as _pursuit,
)
from threadsafe_timeout._interruption.code_map import CodeMap, Verdict
from threadsafe_timeout._introspection.transparent import is_protected
from threadsafe_timeout._timing import timer as _timer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import stress_interrupt
import stress_interrupt_shapes as shapes

BOUND = 10.0
MECHANISM = _pursuit.support().mechanism
if MECHANISM == "async exception":
    from threadsafe_timeout._interruption import async_exception as _async_exception
    from threadsafe_timeout._interruption.arrival import arrival
monitored = pytest.mark.skipif(MECHANISM != "monitoring", reason="sys.monitoring is not used here")
pytestmark = pytest.mark.skipif(MECHANISM is None, reason=_pursuit.support().detail)


@pytest.fixture(autouse=True)
def short_grace():
    _pursuit.configure(grace=0.05)
    yield
    _pursuit.configure(grace=None)
    assert switched_off(), f"the interrupt is still on after its scope was left: {_pursuit._targets}"


def switched_off():
    """Whether the timer thread has put everything away; gives it a moment."""
    for _ in range(300):
        tools = [sys.monitoring.get_tool(n) for n in (3, 4)] if MECHANISM == "monitoring" else []
        if not _pursuit._targets and not any(tools):
            return True
        threading.Event().wait(0.01)
    return False


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

    def sent_to(body):
        done = []

        def run():
            try:
                body(done)
            except KeyError:
                done.append("outside")

        thread = threading.Thread(target=run)
        thread.start()
        while not done:
            pass
        for _ in range(100):  # it is past the call now
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
    def spin():
        while True:
            pass

    with move_on_after(0.01):
        spin()
    function = pytest.importorskip("ctypes").pythonapi.PyThreadState_SetAsyncExc
    assert function.argtypes is None, "stopit and func_timeout pass it arguments of other types"


def loop_on_one_line():
    while True: pass  # noqa: E701  # one line on purpose


def loop():
    counted = 0
    while True:
        counted += 1


def generator_loop():
    sum(x for x in itertools.repeat(1))


def lambda_loop():
    sum(map(lambda x: x, itertools.repeat(1)))  # noqa: C417  # called from C on purpose


def comprehension_loop():
    return [None for x in iter(int, 1) if x]


def recursion_loop():
    def down(n):
        return down(n - 1) if n else 0

    while True:
        down(50)


def logging_loop():
    logger = logging.getLogger("interrupt-test")
    while True:
        logger.debug("x")


def retry_loop():
    while True:
        try:
            loop()
        except Exception:
            pass


LOOPS = [
    loop_on_one_line, loop, generator_loop, lambda_loop, comprehension_loop, recursion_loop, logging_loop, retry_loop,
]


@pytest.mark.parametrize("body", LOOPS)
def test_python_loops_are_interrupted(body):
    with pytest.raises(DeadlineExceeded) as caught:
        with deadline(0.02, name="loop"):
            body()
    assert caught.value.where[0] == __file__


@pytest.mark.parametrize("body", LOOPS)
def test_python_loops_in_another_thread(body):
    outcome = []

    def run():
        with move_on_after(0.02) as scope:
            body()
        outcome.append(scope.cancelled_caught)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(120)
    assert outcome == [True]


def test_through_a_decorated_function_inside_an_outer_scope():
    decorated = deadline(1000)(loop)
    with move_on_after(0.02) as outer:
        decorated()
    assert outer.cancelled_caught


def swallowing_loop():
    def work():
        counted = 0
        for number in range(1000):
            counted += number

    while True:
        try:
            work()
        except:  # noqa: E722  # what legacy code does
            pass


def stubborn_work_in_a_bare_except():
    while True:
        try:
            loop()
        except:  # noqa: E722  # what legacy code does
            pass


@pytest.mark.parametrize("body", [swallowing_loop, stubborn_work_in_a_bare_except])
def test_a_bare_except_in_a_loop_cannot_hold_it(body):
    with pytest.raises(DeadlineExceeded):
        with deadline(0.02):
            body()


def test_what_was_acquired_without_try_is_not_left_held():
    lock = threading.Lock()

    def one():
        return 1

    def condition():
        while lock.acquire():
            try:
                one()
            finally:
                lock.release()
            one()

    def no_try():
        while True:
            lock.acquire()
            one()
            lock.release()
            one()

    for body in (condition, no_try) * 20:
        with move_on_after(0.001) as scope:
            body()
        assert scope.cancelled_caught
        assert not lock.locked(), body


def test_never_under_a_shield_nor_in_a_finally():
    steps = []

    def clean_up(scope):
        with shield(30):
            until = time.perf_counter() + 0.1
            while time.perf_counter() < until:
                pass
            steps.append("shielded")
        try:
            loop()
        finally:
            until = time.perf_counter() + 0.1
            while time.perf_counter() < until:
                pass
            steps.append("finally")

    with move_on_after(0.01) as scope:
        clean_up(scope)
    assert steps == ["shielded", "finally"]
    assert scope.cancelled_caught


def test_a_scope_whose_frame_is_not_on_the_stack_is_left_alone():
    """Entered by a generator that is suspended: there is no `with` here that would catch it."""

    @contextlib.contextmanager
    def limited():
        with CancelScope() as scope:
            yield scope

    with limited() as scope:
        threading.Timer(0.01, scope.cancel).start()
        while not scope.cancel_called:
            pass
        until = time.perf_counter() + 0.2
        while time.perf_counter() < until:
            pass
    assert scope.cancel_called
    assert not scope.cancelled_caught


def test_cancel_from_another_thread_interrupts():
    with CancelScope() as scope:
        threading.Timer(0.01, scope.cancel, ["enough"]).start()
        loop()
    assert scope.cancelled_caught


def test_a_thread_that_inherited_the_scope_is_interrupted_in_its_own():
    import contextvars

    outcome = []

    def child():
        try:
            with CancelScope() as own:
                loop()
            outcome.append("went on")
        except Cancelled as exc:
            outcome.append((exc.scope, own.cancelled_caught))

    with CancelScope() as scope:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(child,), daemon=True)
        thread.start()
        scope.cancel()
        thread.join(120)
    assert outcome == [(scope, False)]


def test_many_threads_at_once_each_get_their_own():
    outcomes = {}

    def run(n):
        with CancelScope() as outer:
            with move_on_after(0.02) as scope:
                loop()
        outcomes[n] = scope.cancelled_caught, outer.cancel_called

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert outcomes == dict.fromkeys(range(8), (True, False))


@monitored
def test_the_tool_is_given_back_and_no_function_stays_instrumented():
    with move_on_after(0.01):
        loop()
    assert switched_off()
    for tool in (3, 4):
        sys.monitoring.use_tool_id(tool, "look")
        try:
            assert sys.monitoring.get_local_events(tool, loop.__code__) == 0
        finally:
            sys.monitoring.free_tool_id(tool)


@monitored
def test_goes_on_with_one_tool_id_taken():
    sys.monitoring.use_tool_id(4, "somebody else")
    try:
        with move_on_after(0.01) as scope:
            loop()
    finally:
        sys.monitoring.free_tool_id(4)
    assert scope.cancelled_caught


def test_no_hook_is_left_in_the_thread():
    with move_on_after(0.01):
        loop()
    deadline_ = time.perf_counter() + 10
    while (sys.gettrace() is not None or sys.getprofile() is not None) and time.perf_counter() < deadline_:
        pass
    assert sys.gettrace() is None
    assert sys.getprofile() is None


def test_who_traces_the_thread_later_is_left_alone():
    """A debugger, or a measurement of coverage, in the functions that an interrupt went through."""
    calls = []

    def tracer(frame, event, argument):
        calls.append(frame.f_code.co_name)

    def hold():
        until = time.perf_counter() + BOUND
        while time.perf_counter() < until:
            try:
                loop()
            except BaseException:
                if time.perf_counter() > until - BOUND + 0.15:  # insisted on
                    raise

    def run():
        with move_on_after(0.01) as scope:
            hold()
        sys.settrace(tracer)
        total = 0
        for n in range(10):
            total += n
        busy()
        kept = sys.gettrace()
        sys.settrace(None)
        return kept, scope.cancelled_caught

    def busy():
        return 1

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result(BOUND) == (tracer, True)
    assert calls[-1] == "busy"


@pytest.mark.skipif(MECHANISM != "async exception", reason="for the mechanism of 3.11")
def test_a_module_that_is_being_executed_is_not_slowed_down(tmp_path, monkeypatch):
    """It is not interrupted, others may wait for its lock, and to follow it made seconds out of one."""
    (tmp_path / "takes_its_time.py").write_text(
        "import gc, sys, threading, time\n"
        "from threadsafe_timeout._interruption import pursuit\n"
        "slowed = looks = 0\n"
        "until = time.perf_counter() + 10\n"
        "look = pursuit._look\n"
        "def count():\n"
        "    global looks\n"
        "    looks += 1\n"
        "    look()\n"
        "pursuit._look = count\n"
        "while looks < 10 and time.perf_counter() < until:\n"
        "    slowed += sys.gettrace() is not None or gc.get_threshold()[0] < 0\n"
        "    [[], {}]\n"
        "pursuit._look = look\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    after = []
    with move_on_after(0.01) as scope:
        takes_its_time = importlib.import_module("takes_its_time")
        after.append((takes_its_time.slowed, takes_its_time.looks))
        loop()
    slowed, looks = after[0]
    assert looks >= 10
    assert slowed == 0
    assert scope.cancelled_caught


def test_unproven_interpreters_are_told_apart(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert _pursuit.support().mechanism is None
    assert "3.99" in _pursuit.support().detail
    monkeypatch.undo()
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert "GIL" in _pursuit.support().detail
    with move_on_after(0.01) as scope:
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:
            pass
    assert scope.cancel_called
    assert not scope.cancelled_caught


@pytest.mark.stress
@pytest.mark.timeout(180)
@pytest.mark.parametrize("threads", [1, 4, 16])
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
            until = time.perf_counter() + 0.05
            while time.perf_counter() < until:
                pass
        assert scope.cancel_called
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


def test_without_interruption_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    monkeypatch.setattr(_pursuit, "_told", False)
    for _ in range(3):
        with move_on_after(0) as scope:
            while not scope.cancel_called:
                pass
            _timer.settle(BOUND)  # the callback that cancels it has ended
    said = [record.getMessage() for record in caplog.records if "not interrupted here" in record.getMessage()]
    assert len(said) == 1
    assert "3.99" in said[0]


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


def test_doctor_says_that_a_version_is_not_proven(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    found = doctor.examine()["interrupt"]
    assert found == {"mechanism": None, "detail": "not proven on CPython 3.99"}
    assert found["detail"] in doctor.report()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="there is no JIT, or none that matters")
def test_with_the_jit_on_what_is_not_interrupted_is_abandoned():
    """And `doctor` says so, where it happens."""
    program = """if True:
        import sys
        from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor
        from threadsafe_timeout._interruption import pursuit
        if not sys._jit.is_enabled():
            print("no JIT"); raise SystemExit
        def one_line():
            while True: pass
        def lines():
            counted = 0
            while True:
                counted += 1
        with ThreadPoolExecutor(1, task_timeout=0.1, grace=0.1) as pool:
            for function in (lines, one_line, lines):
                assert isinstance(pool.submit(function).exception(), DeadlineExceeded)
            assert pool.submit(len, "abc").result() == 3
            abandoned = pool.stats()["abandoned"]
        assert abandoned <= ("the JIT is on" in pursuit.support().detail), abandoned
        print("abandoned")
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHON_JIT": "1"}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    if ran.stdout == "no JIT\n":
        pytest.skip("this build has no JIT")
    assert ran.stdout == "abandoned\n", ran.stderr


def test_never_in_a_callback_of_the_collector():
    seen = []

    def callback(phase, info):
        seen.append(is_protected(sys._getframe()))

    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert seen
    assert all(seen)
