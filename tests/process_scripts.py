"""Programs that start processes in a pool's task, for tests/processes: what each starts, and what it gets stuck in.

    python process_scripts.py NAME

prints a line of JSON: the error the task got, whether its thread was kept, and the processes, each with its number and
the time it was started at. Then it exits, or does not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import types

from asleep import others, wait_until_asleep
from process_notes import forever, note, started, stuck
from process_workers import GIVEN_UP_WITH_WORKERS, OVER_AT_ONCE

import threadsafe_timeout
from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._processes.tree import status

SLEEP = ["sh", "-c", "echo $$; exec sleep 300"]


def popen(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
    """A child that has printed its number into its pipe."""
    child = subprocess.Popen(*args, stdout=subprocess.PIPE, **kwargs)
    note(int(child.stdout.readline()))
    return child


def quiet(**kwargs: object) -> subprocess.Popen[bytes]:
    """A child that shares nothing with us, and has begun."""
    read, write = os.pipe()
    child = subprocess.Popen(
        ["sh", "-c", f"echo >&{write}; exec {write}>&-; exec sleep 300"],
        pass_fds=[write], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kwargs,
    )  # fmt: skip
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return child


# Tasks that are stuck in what only the end of their process ends


def lines():
    child = popen(SLEEP)
    stuck.set()
    for _ in child.stdout:
        pass


def lines_text():
    child = subprocess.Popen(SLEEP, stdout=subprocess.PIPE, text=True)
    note(int(child.stdout.readline()))
    stuck.set()
    for _ in child.stdout:
        pass


def read_all():
    child = popen(SLEEP)
    stuck.set()
    return child.stdout.read()


def os_read():
    child = popen(SLEEP)
    stuck.set()
    return os.read(child.stdout.fileno(), 1000)


def write_all():
    child = popen(SLEEP, stdin=subprocess.PIPE)
    stuck.set()
    child.stdin.write(b"x" * 1_000_000)


def shell():
    child = subprocess.Popen("sleep 300 & echo $$ $!; wait; :", shell=True, stdout=subprocess.PIPE)
    for name, pid in zip(("child", "grandchild"), child.stdout.readline().split(), strict=True):
        note(int(pid), name)
    stuck.set()
    return child.stdout.read()


def ignores_sigterm():
    child = popen(["sh", "-c", "trap '' TERM HUP INT; echo $$; while :; do sleep 300; done"])
    stuck.set()
    return child.stdout.read()


def own_session_with_pipe():
    child = popen(SLEEP, start_new_session=True)
    stuck.set()
    return child.stdout.read()


def group_whose_leader_has_ended():
    child = subprocess.Popen("sleep 300 & echo $!", shell=True, stdout=subprocess.PIPE, start_new_session=True)
    note(int(child.stdout.readline()))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    stuck.set()
    return child.stdout.read()


def os_popen():
    pipe = os.popen(" ".join(["echo $$;", "sleep 300"]))
    note(int(pipe.readline()))
    stuck.set()
    return pipe.read()


def terminal_of_its_own():
    master, slave = pty.openpty()
    child = subprocess.Popen(SLEEP, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    note(int(os.read(master, 100)))
    assert child.pid == started["child"][0]
    stuck.set()
    with contextlib.suppress(OSError):  # how a terminal says that its process has ended
        return os.read(master, 100)


def pty_fork():
    pid, terminal = pty.fork()
    if not pid:
        os.execvp("sh", ["sh", "-c", "echo up; exec sleep 300"])
    os.read(terminal, 2)
    note(pid)
    os.read(terminal, 100)  # the end of the line
    stuck.set()
    try:
        return os.read(terminal, 100)
    finally:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL  # it is ours to reap
        os.close(terminal)


def pexpect_waits():
    import pexpect

    child = pexpect.spawn("sh", ["-c", "trap '' HUP INT; echo up; exec sleep 300"])
    child.expect("up")
    note(child.pid)
    stuck.set()
    child.wait()


def fork():
    pid = os.fork()
    if not pid:
        time.sleep(300)
        os._exit(0)
    note(pid)
    stuck.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def spawn():
    pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "300")
    note(pid)
    stuck.set()
    os.waitpid(pid, 0)


def posix_spawn():
    pid = os.posix_spawnp("sleep", ["sleep", "300"], os.environ)
    note(pid)
    stuck.set()
    os.waitpid(pid, 0)


def coroutine_that_blocks():
    async def main():
        child = await asyncio.create_subprocess_exec(*SLEEP, stdout=subprocess.PIPE)
        note(int(await child.stdout.readline()))
        stuck.set()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    asyncio.run(main())


def several_one_after_the_other():
    for _ in range(200):
        subprocess.Popen(["true"]).wait()
    first = popen(SLEEP)
    started["first"] = started["child"]
    popen(SLEEP)
    stuck.set()
    first.stdout.read()


def in_a_thread_of_asyncios():
    async def main():
        child = await asyncio.to_thread(popen, SLEEP)
        stuck.set()
        child.stdout.read()

    asyncio.run(main())


UNBLOCKED = [
    lines, lines_text, read_all, os_read, write_all, shell, ignores_sigterm, own_session_with_pipe,
    group_whose_leader_has_ended, os_popen, terminal_of_its_own, pty_fork, pexpect_waits, fork, spawn, posix_spawn,
    coroutine_that_blocks, several_one_after_the_other, in_a_thread_of_asyncios,
]  # fmt: skip


# Tasks that are stuck in something else; what is started under another name than "child" is left alone


def stuck_beside_a_child():
    note(quiet().pid)
    forever()


def starts_a_daemon():
    note(quiet(start_new_session=True).pid, "daemon")
    forever()


def starts_a_daemon_by_setsid():
    read, write = os.pipe()
    command = f"echo $$ >&{write}; exec {write}>&-; exec sleep 300"
    subprocess.run(["setsid", "-f", "sh", "-c", command], pass_fds=[write], check=True)
    note(int(os.read(read, 100)), "daemon")
    forever()


def has_a_shell_that_starts_a_daemon():
    child = subprocess.Popen("setsid sleep 300 >&- & echo $$ $!; wait; :", shell=True, stdout=subprocess.PIPE)
    shell, daemon = map(int, child.stdout.readline().split())
    while os.getsid(daemon) == os.getsid(0) or status(daemon).name != "sleep":
        time.sleep(0.001)
    note(shell)
    note(daemon, "daemon")
    forever()


def forks_a_daemon():
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(write, b"%d" % os.getpid())
        os.closerange(0, 100)
        os.execvp("sleep", ["sleep", "300"])
    os.waitpid(pid, 0)
    note(int(os.read(read, 100)), "daemon")
    forever()


def keeps_one():
    child = quiet()
    threadsafe_timeout.keep_process(child)
    note(child.pid, "kept")
    note(quiet().pid)
    forever()


def started_before():
    forever()


def started_by_another_task_on_the_same_thread():
    note(quiet().pid)
    forever()


def is_stuck_in_its_clean_up():
    try:
        stuck.set()
        threading.Event().wait()
    finally:
        popen(SLEEP).stdout.read()


def used_by_another(give):
    """Have a thread that is not the task's give work to a pool of processes."""
    thread = threading.Thread(target=lambda: note(give(), "shared"))
    thread.start()
    thread.join()
    forever()


def uses_an_executor_that_others_use():
    global executor
    executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    used_by_another(lambda: executor.submit(os.getpid).result())


def uses_a_pool_that_others_use():
    global workers
    workers = multiprocessing.get_context("spawn").Pool(1)
    used_by_another(lambda: workers.apply(os.getpid))


SHARED = [uses_an_executor_that_others_use, uses_a_pool_that_others_use]


ABANDONED = [
    stuck_beside_a_child, starts_a_daemon, starts_a_daemon_by_setsid, has_a_shell_that_starts_a_daemon, forks_a_daemon,
    keeps_one, started_before, started_by_another_task_on_the_same_thread, is_stuck_in_its_clean_up,
]  # fmt: skip


TASKS = {task.__name__: task for task in UNBLOCKED + ABANDONED + SHARED + OVER_AT_ONCE + GIVEN_UP_WITH_WORKERS}


def main(name: str) -> None:
    global pool
    # To be woken in time may take some, on a busy machine.
    patient = name in {task.__name__ for task in UNBLOCKED + OVER_AT_ONCE}
    threadsafe_timeout.install(grace=3 if patient else 0.2, checkpoint="off")
    # However slow the machine is, most need none of it. (The end of the executor's block takes one.)
    more = {"grace": 60} if TASKS[name] in OVER_AT_ONCE and name != "executor_in_a_block" else {}
    if name == "started_before":
        note(quiet().pid, "earlier")
    pool = concurrent.futures.ThreadPoolExecutor(2, **more)
    if name == "started_by_another_task_on_the_same_thread":
        note(pool.submit(quiet).result().pid, "another task's")
    future = pool.submit(TASKS[name])
    until = time.monotonic() + 120
    while not stuck.wait(0.1):
        assert not future.done(), future.exception()
        assert time.monotonic() < until, "the task did not get where it gets stuck"
    wait_until_stuck(TASKS[name].__code__, until)
    future.cancel()
    error = future.exception(120)
    told = {
        "error": type(error).__name__, "kept": not pool.stats()["abandoned"], "started": started,
        "after": {name: running(*one) for name, one in started.items()},
    }  # fmt: skip
    sys.stdout.write(json.dumps(told))
    sys.stdout.flush()


def wait_until_stuck(code: types.CodeType, until: float) -> None:
    """The task has said that it is about to block. Wait until the thread that runs its code sleeps: cancelled earlier, it
    would raise there and then, and what it has started is not what it is stuck in."""
    wait_until_asleep(lambda: [thread for thread in others() if runs(thread, code)], until)


def runs(thread: threading.Thread, code: types.CodeType) -> bool:
    with frames_of_others(thread.ident or -1) as frames:
        return _has(frames.get(thread.ident or -1), code)


def _has(frame: types.FrameType | None, code: types.CodeType) -> bool:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def running(pid: int, began: int) -> bool:
    found = status(pid)
    return found is not None and found.started == began and found.running


if __name__ == "__main__":
    main(sys.argv[1])
