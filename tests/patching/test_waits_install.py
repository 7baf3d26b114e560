"""The patches of the waits: every order of import, install and uninstall, and exactly what was there before afterwards."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from blocked import LONG, expire

from threadsafe_timeout import DeadlineExceeded, deadline, move_on_after, patched

IMPORTS = """
import asyncio, concurrent.futures, multiprocessing.connection, multiprocessing.popen_fork, multiprocessing.queues
import multiprocessing.managers, queue, select, selectors, subprocess, threading, time
from asyncio import run_coroutine_threadsafe
from queue import SimpleQueue
from select import select as imported_select
from subprocess import run
from threading import Lock, RLock
from time import sleep
"""
PROGRAM = """
import sys
import threadsafe_timeout as t

def snapshot():
    m = sys.modules
    owners = [
        m["time"], m["threading"], m["select"], m["subprocess"], m["queue"], m["asyncio"], m["asyncio.tasks"],
        threading.Condition, threading.Barrier, threading.Thread, subprocess.Popen, selectors.SelectSelector,
        selectors._PollLikeSelector, selectors.DefaultSelector, asyncio.base_events.BaseEventLoop,
        multiprocessing.connection.Connection, multiprocessing.popen_fork.Popen, multiprocessing.queues.Queue,
        multiprocessing.queues.JoinableQueue, multiprocessing.managers.BaseProxy, multiprocessing.process.BaseProcess,
    ]
    return {f"{getattr(o, '__qualname__', o.__name__)}.{n}": v for o in owners for n, v in vars(o).items()}

def ours():
    names = {n for n, v in [*snapshot().items(), *globals().items()]
             if "threadsafe_timeout_patches" in getattr(getattr(v, "__code__", None), "co_filename", type(v).__module__)}
    if "_waiting_in_scopes" in vars(SimpleQueue):
        names.add("SimpleQueue")
    return names

def same(before):
    after = snapshot()
    # What the first import of a submodule, or the first use, adds to a module is no business of a patch's.
    return [n for n in before if after.get(n) is not before[n] and not n.endswith(".__warningregistry__")]

EXPECTED = {
    "time.sleep", "sleep", "Condition.wait", "Barrier._wait", "Thread.join", "Thread._delete", "select.select",
    "imported_select", "subprocess.run", "run", "subprocess.call", "Popen.wait", "Popen.communicate", "SelectSelector.select",
    "_PollLikeSelector.select", "EpollSelector.select", "BaseEventLoop.run_until_complete", "run_coroutine_threadsafe",
    "Connection._poll", "Connection._recv_bytes", "Queue.get", "Queue.put", "JoinableQueue.put", "SimpleQueue",
    "BaseProxy._callmethod", "BaseProcess._bootstrap",
}
"""
ORDERS = {
    "import, install": ["import", "before", "install", "on", "uninstall", "off", "install", "install", "on", "uninstall", "off"],
    "install, import": ["install", "import", "on", "uninstall", "off", "before", "install", "on", "uninstall", "off"],
    "install, uninstall, import": ["install", "uninstall", "import", "before", "off", "install", "on", "uninstall", "off"],
}
STEPS = {
    "import": IMPORTS,
    "before": "before = snapshot()",
    "install": "t.install(checkpoint='off', patches='-httpcore,+locks')",
    "uninstall": "t.uninstall()",
    "on": "assert not EXPECTED - ours(), EXPECTED - ours()\nassert Lock is threading.Lock",
    "off": "assert not ours(), ours()\nassert not same(before) if 'before' in globals() else True, same(before)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="names a selector that only Linux has")
@pytest.mark.parametrize("order", ORDERS)
def test_every_order(order, tmp_path):
    steps = "\n".join(STEPS[step] for step in ORDERS[order])
    (tmp_path / "program.py").write_text(PROGRAM + steps + "\nprint('ok')")
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok\n"


def test_somebody_elses_wrapper_on_top_stays_and_works():
    original = threading.Condition.wait
    calls = []
    try:
        with patched(checkpoint="off"):
            ours = threading.Condition.wait

            def foreign(self, timeout=None):
                calls.append(timeout)
                if timeout is None and threading.current_thread() is threading.main_thread():
                    expire()
                return ours(self, timeout)

            threading.Condition.wait = foreign
            with pytest.raises(DeadlineExceeded), deadline(LONG):
                threading.Event().wait()
        assert threading.Condition.wait is foreign
        assert threading.Event().wait(0.001) is False
        assert calls[0] is None  # and more of them, if the timer thread was started for it
        assert calls[-1] == 0.001
    finally:
        threading.Condition.wait = original


def test_a_program_that_installs_late_has_its_waiters_left_alone():
    done, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        done.wait()

    waiting = threading.Thread(target=wait)
    waiting.start()
    begun.wait()
    with patched(checkpoint="off"):
        done.set()
        waiting.join()
    assert not waiting.is_alive()


def test_a_blocking_call_in_a_coroutine_ends_with_the_coroutines_scope():
    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.02):
                threading.Event().wait()  # the loop stands still meanwhile
        with move_on_after(0.02) as scope:
            time.sleep(30)
        assert scope.cancelled_caught
        await asyncio.sleep(0.001)

    with patched(checkpoint="off"):
        asyncio.run(main())


WRITTEN_IN_C = [(time, "sleep"), (select, "select")] + [
    (signal, name) for name in ("alarm", "setitimer", "getitimer", "siginterrupt") if hasattr(signal, name)
]


def test_docstrings_names_and_pickles_are_those_of_the_originals():
    signature = str(inspect.signature(subprocess.Popen.communicate))
    docs = [function.__doc__ for function in (getattr(module, name) for module, name in WRITTEN_IN_C)]
    with patched(checkpoint="off"):
        assert [getattr(module, name).__doc__ for module, name in WRITTEN_IN_C] == docs
        assert str(inspect.signature(time.sleep)) == "(seconds: 'float', /) -> 'None'"
        assert threading.Condition.wait.__qualname__ == "Condition.wait"
        assert str(inspect.signature(subprocess.Popen.communicate)) == signature
        for module, name in [*WRITTEN_IN_C, (subprocess, "run"), (asyncio, "run_coroutine_threadsafe")]:
            function = getattr(module, name)
            assert (function.__name__, function.__qualname__) == (name, name)
            assert name in repr(function)
            assert pickle.loads(pickle.dumps(function)) is function
            assert pickle._loads(pickle._dumps(function)) is function
            assert copy.deepcopy(function) is function


def test_functions_written_in_c_are_not_bound_by_a_class():
    with patched(checkpoint="off"):

        class Keeper:
            sleep = time.sleep
            select = select.select

        keeper = Keeper()
        assert keeper.sleep is Keeper.sleep is time.sleep
        keeper.sleep(0)
        assert keeper.select([], [], [], 0) == ([], [], [])
        with pytest.raises(DeadlineExceeded), deadline(0.01):
            keeper.sleep(30)
        for module, name in WRITTEN_IN_C:
            cls = type("Keeper", (), {name: getattr(module, name)})
            assert getattr(cls(), name) is getattr(module, name)
            assert functools.partial(getattr(module, name), 1).func is getattr(module, name)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere other classes are the default")
def test_selectors_can_be_loaded_again(tmp_path):
    (tmp_path / "program.py").write_text(
        "import threadsafe_timeout.auto, importlib, selectors, socket\nimportlib.reload(selectors)\n"
        "selector, sock = selectors.SelectSelector(), socket.socket()\n"
        "selector.register(sock, selectors.EVENT_WRITE)\nprint(len(selector.select(0)))"
    )
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
