"""The processes that a pool's task starts are noted, and end with the task when it is given up.

Reached: `subprocess.Popen` and all that is made of it (`os.popen`, asyncio's), `os.fork`, `os.forkpty` (so `pty.fork`,
pexpect), `os.posix_spawn`, `os.spawn…`, `os.system`, `multiprocessing.Process`, `Pool` and Manager,
`ProcessPoolExecutor`.

Guarantees:

- Outside the tasks of a pool each call is the original, but that threads fork one after the other.
- A thread whose task was given up starts no process any more: that raises `Cancelled`.
- What is shared by all tasks (the resource tracker and the fork server of `multiprocessing`, loky's workers) is not
  noted: it belongs to none of them.
- The exit of the program does not wait for a process whose `join` was cancelled (see `process_exit`).
- `os.system` inside a scope ends with it, as `subprocess.call` does, and the child with that.

Not reached: what C code starts by itself, and what is started in a thread that the task has started with
`threading.Thread`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from sys import _getframe
from types import FrameType, ModuleType
from typing import Any

from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._processes import exit as _process_exit
from threadsafe_timeout._processes import started as _started
from threadsafe_timeout._processes import workers as _workers
from threadsafe_timeout._processes.children import Child, ProcessChild
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout_patches._builtin import stand_in
from threadsafe_timeout_patches._waiting import called_by_asyncio, replace_attribute

__all__ = ["MODULES", "apply"]

MODULES = (
    "concurrent.futures.process", "multiprocessing.pool", "multiprocessing.process", "multiprocessing.queues",
    "multiprocessing.util", "os", "subprocess",
)  # fmt: skip

_Wrapped = Callable[..., Any]
_forking = threading.RLock()  # held while a thread forks


def apply(module: ModuleType, patching: Patching) -> None:
    {
        "concurrent.futures.process": _patch_executor,
        "multiprocessing.pool": _patch_pool,
        "multiprocessing.process": _patch_process,
        "multiprocessing.queues": _patch_queue,
        "multiprocessing.util": lambda module, patching: _process_exit.before_processes_are_joined(),
        "os": _patch_os,
        "subprocess": _patch_popen,
    }[module.__name__](module, patching)


def _patch_popen(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.Popen.__init__, _around.current_scope

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if current_scope() is None:
            original(self, *args, **kwargs)
        else:
            _start_popen(original, self, args, kwargs, _getframe(1))

    replace_attribute(patching, module.Popen, "__init__", init)


def _start_popen(original: _Wrapped, popen: Any, args: Any, kwargs: Any, caller: FrameType) -> None:
    _started.refuse_if_given_up()
    owners = _started.owners()
    with _started.uncounted():  # it may use os.posix_spawn
        original(popen, *args, **kwargs)
    if owners:
        # asyncio waits for its processes by their number: nobody else may reap them.
        _started.note(Child(popen.pid, popen, None if _is_asyncios(caller) else _poll), owners)


def _is_asyncios(caller: FrameType | None) -> bool:
    """Whether asyncio starts the process; there may be a subclass of Popen's, or a wrapper, in between."""
    for _ in range(3):
        if caller is None:
            break
        if called_by_asyncio(caller):
            return True
        caller = caller.f_back
    return False


def _poll(popen: Any) -> int | None:
    return popen.poll()  # type: ignore[no-any-return]  # a Popen


def _patch_os(module: ModuleType, patching: Patching) -> None:
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp"):
        if hasattr(module, name):
            original = getattr(module, name)
            start = _noting(_one_at_a_time(original) if name.startswith("fork") else original)
            patching.replace(module, name, stand_in(module, name, start))
    if hasattr(module, "fork"):
        patching.replace(module, "system", stand_in(module, "system", _system(module.system)))


def _one_at_a_time(original: _Wrapped) -> _Wrapped:
    """filelock, which is there because of us, has a fork fail (RuntimeError) while another thread forks: the later one
    waits instead.

    The child's only thread is the one that holds the lock, and lets go of it there too.
    """

    def fork() -> Any:
        with _forking:
            return original()

    return fork


def _system(original: _Wrapped) -> _Wrapped:
    """`os.system` waits in C. In a scope it is made of a `Popen`, whose wait ends with that."""
    current_scope = _around.current_scope

    def system(command: Any) -> int:
        if current_scope() is None:
            return original(command)  # type: ignore[no-any-return]  # the original is untyped
        _around.raise_if_cancelled()
        import subprocess  # only for a program that does this

        command = os.fsencode(command)
        sys.audit("os.system", command)
        # Like the original, which does not know of Python's signals and descriptors.
        child = subprocess.Popen(command, shell=True, close_fds=False, restore_signals=False)
        code = child.wait()
        return code << 8 if code >= 0 else -code  # as a status for os.waitstatus_to_exitcode()

    return system


def _noting(original: _Wrapped) -> _Wrapped:
    current_scope = _around.current_scope

    def start(*args: Any, **kwargs: Any) -> Any:
        if current_scope() is None:
            return original(*args, **kwargs)
        _started.refuse_if_given_up()
        owners = _started.owners()
        started = original(*args, **kwargs)
        pid = started[0] if isinstance(started, tuple) else started  # forkpty also gives the terminal
        if pid and owners:
            _started.note(Child(pid), owners)
        return started

    return start


def _patch_process(module: ModuleType, patching: Patching) -> None:
    original_start, original_join = module.BaseProcess.start, module.BaseProcess.join
    current_scope = _around.current_scope

    def start(self: Any) -> None:
        if current_scope() is None:
            original_start(self)
        else:
            _start_process(original_start, self, _getframe(1).f_globals.get("__name__"))

    def join(self: Any, timeout: float | None = None) -> None:
        try:
            original_join(self, timeout)
        except Cancelled:
            _process_exit.leave([ProcessChild(self)])
            raise

    replace_attribute(patching, module.BaseProcess, "start", start)
    replace_attribute(patching, module.BaseProcess, "join", join)


def _start_process(original: _Wrapped, process: Any, caller: Any) -> None:
    _started.refuse_if_given_up()
    owners = _started.owners()
    with _started.uncounted():  # by the fork, that is
        original(process)
    if owners and "loky" not in type(process).__module__:
        managed = caller == "multiprocessing.managers"  # a manager ends it by itself, at exit too
        _started.note(ProcessChild(process, managed), owners)


def _patch_executor(module: ModuleType, patching: Patching) -> None:
    executor = module.ProcessPoolExecutor
    init, submit, spawn = executor.__init__, executor.submit, executor._spawn_process
    current_scope = _around.current_scope

    def new_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        _workers.note_executor(self)

    def new_submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        users = _workers.use(self)
        future = submit(self, fn, *args, **kwargs)
        _workers.note_call(self, future, users)
        return future

    def new_spawn(self: Any) -> None:
        if current_scope() is None:
            spawn(self)
            return
        with _started.uncounted():  # they are the executor's
            spawn(self)

    replace_attribute(patching, executor, "__init__", new_init)
    replace_attribute(patching, executor, "submit", new_submit)
    replace_attribute(patching, executor, "_spawn_process", new_spawn)
    _process_exit.before_executors_are_joined()


def _patch_pool(module: ModuleType, patching: Patching) -> None:
    init, check_running = module.Pool.__init__, module.Pool._check_running
    current_scope = _around.current_scope

    def new_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if current_scope() is None:
            init(self, *args, **kwargs)
            return
        with _started.uncounted():
            init(self, *args, **kwargs)
        if hasattr(self._pool[0], "_popen"):  # else it is a pool of threads
            _workers.PoolWorkers(self)

    def new_check_running(self: Any) -> None:  # all that gives it work calls this
        check_running(self)
        _workers.use(self)

    replace_attribute(patching, module.Pool, "__init__", new_init)
    replace_attribute(patching, module.Pool, "_check_running", new_check_running)


def _patch_queue(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.Queue._start_thread, _around.current_scope

    def start_thread(self: Any) -> None:
        original(self)
        if current_scope() is not None and (owners := _started.owners()):
            _started.note(_process_exit.Feeder(self), owners)

    replace_attribute(patching, module.Queue, "_start_thread", start_thread)
