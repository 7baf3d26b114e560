"""What stands in for a function takes every call that the original takes, whoever the original is from."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from inspect import Parameter
from pathlib import Path
from typing import Any

import pytest

from threadsafe_timeout import patched
from threadsafe_timeout._patching import install as _install


def owners() -> Iterator[tuple[str, Any]]:
    """The modules that are patched, as far as they are here, and the classes that are theirs."""
    seen = set()
    for entry in _install.known_patches().values():
        for name in entry.load().MODULES:
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            yield name, module
            for attribute, value in list(vars(module).items()):
                if isinstance(value, type) and value.__module__ == name and value not in seen:
                    seen.add(value)
                    yield f"{name}.{attribute}", value


def function_of(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def calls(signature: inspect.Signature, bound: int) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """With as little as it takes, with all of it by position, with all of it by name (but for what is bound)."""
    parameters = list(signature.parameters.values())
    for number, parameter in enumerate(parameters[:bound]):
        parameters[number] = parameter.replace(kind=Parameter.POSITIONAL_ONLY)
    required = [p for p in parameters if p.default is Parameter.empty and p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    yield [p.name for p in required if p.kind in positional], {p.name: 1 for p in required if p.kind is Parameter.KEYWORD_ONLY}
    keyword_only = {p.name: 1 for p in parameters if p.kind is Parameter.KEYWORD_ONLY}
    more = ["more"] if any(p.kind is Parameter.VAR_POSITIONAL for p in parameters) else []
    yield [p.name for p in parameters if p.kind in positional] + more, keyword_only
    any_name = {"any_name": 1} if any(p.kind is Parameter.VAR_KEYWORD for p in parameters) else {}
    by_name = {p.name: 1 for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD}
    yield [p.name for p in parameters if p.kind is Parameter.POSITIONAL_ONLY], {**by_name, **keyword_only, **any_name}


def refused(original: Any, new: Any, *, bound: int) -> list[str]:
    """The calls that the original takes and the new one does not. The signatures are what each says for itself."""
    theirs = inspect.signature(original, follow_wrapped=False)
    ours = inspect.signature(new, follow_wrapped=False)
    found = []
    for args, kwargs in calls(theirs, bound):
        theirs.bind(*args, **kwargs)
        try:
            ours.bind(*args, **kwargs)
        except TypeError as exc:
            found.append(f"{args}, {kwargs}: {exc}")
    return found


def methods(original: type, new: type) -> Iterator[tuple[str, Any, Any]]:
    for name in dir(original):
        if getattr(original, name) is object.__init__:
            continue  # which says that it takes anything
        if (name == "__init__" or not name.startswith("_")) and callable(getattr(original, name)):
            yield f".{name}", getattr(original, name), getattr(new, name)


@pytest.mark.timeout(300)  # it imports all that there is a patch for
def test_every_call_of_the_original_is_one_of_what_replaces_it() -> None:
    everything = list(owners())
    before = {label: (owner, dict(vars(owner))) for label, owner in everything}
    problems, checked = [], set()
    with patched(patches="+locks", checkpoint=None):
        for label, (owner, names) in before.items():
            for name, old in names.items():
                new = vars(owner).get(name)
                if new is old or not callable(function_of(old)) or name.startswith("__"):
                    continue
                pairs = list(methods(old, new)) if isinstance(old, type) else [("", function_of(old), function_of(new))]
                for suffix, original, replaced in pairs:
                    try:
                        inspect.signature(original, follow_wrapped=False)
                    except ValueError:
                        continue  # written in C, and does not say; see below
                    checked.add(f"{label}.{name}{suffix}")
                    problems += [f"{label}.{name}{suffix}{call}" for call in refused(original, replaced, bound=isinstance(owner, type) or isinstance(old, type))]
    # From 3.14 on it takes any keyword, and hands it to a function that refuses it.
    pool = "concurrent.futures.thread.ThreadPoolExecutor.__init__"
    problems = [problem for problem in problems if not (problem.startswith(pool) and "any_name" in problem)]
    assert not problems, "\n".join(problems)
    assert {"threading.Condition.wait", "threading.Thread.join", "subprocess.run", "subprocess.Popen.communicate", "signal.signal"} <= checked
    assert {"concurrent.futures.thread.ThreadPoolExecutor.submit", "asyncio.tasks.run_coroutine_threadsafe"} <= checked
    assert len(checked) > 40, checked


# Those that are written in C and say nothing, or not all, of their parameters: calls with an outcome, and calls that they refuse.
PROGRAM = '''
import queue, select, signal, socket, threading, time
a, b = socket.socketpair()
a.settimeout(120), b.settimeout(120)
CALLS = """
time.sleep(0)
time.sleep(seconds=0)
time.sleep(secs=0)
time.sleep()
time.sleep(0, 0)
select.select([], [], [], 0)
select.select([], [], [], timeout=0)
select.select(rlist=[], wlist=[], xlist=[], timeout=0)
select.select([], [])
signal.alarm(0)
signal.alarm(seconds=0)
signal.setitimer(signal.ITIMER_REAL, 0)
signal.setitimer(signal.ITIMER_REAL, seconds=0)
signal.setitimer(signal.ITIMER_REAL, 0, interval=0)
signal.getitimer(which=signal.ITIMER_REAL)
signal.signal(signalnum=signal.SIGUSR1, handler=signal.SIG_DFL)
signal.getsignal(signalnum=signal.SIGUSR1)
queue.SimpleQueue(1)
queue.SimpleQueue().put(item=1, block=True, timeout=None)
queue.SimpleQueue().put(1, True, 3)
queue.SimpleQueue().put_nowait(item=1)
queue.SimpleQueue().get(block=False)
queue.SimpleQueue().get(block=True, timeout=0)
queue.SimpleQueue().get_nowait()
a.sendall(b"1" * 20)
a.send(b"1", 0)
a.sendall(data=b"1")
b.recv(1)
b.recv(bufsize=1)
b.recv(1, flags=0)
b.recv_into(bytearray(1))
b.recv_into(buffer=bytearray(1), nbytes=1)
b.recv_into(bytearray(1), nbytes=1, flags=0)
b.recvfrom_into(bytearray(1), nbytes=1, flags=0)
b.recvmsg(1)
b.recvmsg(bufsize=1)
a.sendmsg(buffers=[b"1"])
a.connect(address="")
a.connect_ex(address="")
threading.Lock().acquire(blocking=False, timeout=-1)
threading.Lock().acquire(True, 1)
threading.RLock().acquire(blocking=True)
"""
def outcome(call):
    try:
        return repr(eval(call))
    except Exception as exc:
        return type(exc).__name__
def outcomes():
    return [(call, outcome(call)) for call in CALLS.split("\\n") if call]
'''


@pytest.mark.parametrize("scope", ["nullcontext()", "threadsafe_timeout.deadline(1000)"])
def test_calls_of_functions_that_are_written_in_c_have_the_same_outcomes(scope: str, tmp_path: Path) -> None:
    run(
        PROGRAM
        + f"""
from contextlib import nullcontext
before = outcomes()
import threadsafe_timeout
threadsafe_timeout.install(patches="+locks", checkpoint=None)
with {scope}:
    after = outcomes()
assert after == before, [pair for pair in zip(before, after) if pair[0] != pair[1]]
assert len(after) > 40
""",
        tmp_path,
    )


# Another tool was there first, with parameters of its own.
FOREIGN = """
    import select, threading, time
    import threadsafe_timeout as t
    real_sleep, real_wait, real_select = time.sleep, threading.Condition.wait, select.select
    seen = []
    def sleep(seconds=0, ref=True):
        seen.append(("sleep", seconds, ref)); real_sleep(seconds)
    def traced(*args, **kwargs):
        seen.append(("select", kwargs.pop("tag", None))); return real_select(*args, **kwargs)
    def wait(self, timeout=None, *, tag=None):
        seen.append(("wait", tag)); return real_wait(self, timeout)
    time.sleep, select.select, threading.Condition.wait = sleep, traced, wait
    mine = sleep
    t.install(checkpoint=None)
    """


@pytest.mark.parametrize("scope", ["nullcontext()", "t.deadline(1000)"])
def test_a_function_of_another_tool_keeps_its_keywords(scope: str, tmp_path: Path) -> None:
    run(
        textwrap.dedent(FOREIGN) + textwrap.dedent(f"""
        from contextlib import nullcontext
        assert time.sleep is not sleep and mine is sleep
        with {scope}:
            time.sleep(); time.sleep(0); time.sleep(seconds=0); time.sleep(seconds=0, ref=False); time.sleep(0, False)
            select.select([], [], [], 0); select.select([], [], [], 0, tag=1)
            condition = threading.Condition()
            with condition:
                assert not condition.wait(0) and not condition.wait(timeout=0) and not condition.wait(0, tag=2)
        assert seen.count(("sleep", 0, False)) == 2 and ("select", 1) in seen and ("wait", 2) in seen
        for wrong in (lambda: time.sleep(0, 1, 2), lambda: time.sleep(nothing=1)):
            try:
                wrong()
            except TypeError:
                continue
            raise AssertionError("accepted")
        t.uninstall()
        assert time.sleep is sleep and select.select is traced and threading.Condition.wait is wait
        """),
        tmp_path,
    )


def test_calls_that_say_no_more_than_the_standard_ones_end_with_the_scope(tmp_path: Path) -> None:
    run(
        textwrap.dedent(FOREIGN) + textwrap.dedent("""
        def waiting():
            with condition:
                condition.wait(timeout=3600)
        condition = threading.Condition()
        for call in (lambda: time.sleep(3600), lambda: time.sleep(seconds=3600), waiting, lambda: select.select([], [], [], 3600)):
            with t.move_on_after(0.05) as scope:
                call()
            assert scope.cancelled_caught
        # One that says more is not capped, but it does not begin in a cancelled scope.
        with t.move_on_after(3600) as scope:
            scope.cancel()
            time.sleep(3600, ref=False)
        assert scope.cancelled_caught
        """),
        tmp_path,
    )


def test_the_module_that_defines_a_function_keeps_it(tmp_path: Path) -> None:
    """It calls it by that name, with arguments of its own; others get what stands in for it."""
    (tmp_path / "tool.py").write_text(
        "import time\nreal = time.sleep\ndef sleep(seconds, again=True):\n    return sleep(seconds, again=False) if again else real(seconds)\ntime.sleep = sleep\n"
    )
    (tmp_path / "user.py").write_text("from time import sleep\n")
    run(
        """
        import tool, user, time
        [original] = originals = [tool.sleep]
        import threadsafe_timeout as t
        t.install(checkpoint=None)
        [original] = originals
        assert tool.sleep is original and user.sleep is time.sleep is not original
        time.sleep(0)
        t.uninstall()
        assert tool.sleep is user.sleep is time.sleep is original
        """,
        tmp_path,
    )


def run(program: str, cwd: Path) -> None:
    (cwd / "program.py").write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, "program.py"], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
