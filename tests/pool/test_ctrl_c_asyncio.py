"""Ctrl-C while an event loop has work in thread pools: over within a second, and nothing of a clean-up is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from asleep import ON_PATH

PREAMBLE = """
import asyncio, functools, logging, os, sys, threading, time
import asleep
import threadsafe_timeout
threadsafe_timeout.install(grace=30)  # what waits for two of them fails the test
from concurrent.futures import ThreadPoolExecutor

both = threading.Barrier(3)

def stuck():
    both.wait()
    {how}

def tell():
    both.wait()
    # A signal that comes while a thread is on its way into a system call does not end that call: the interpreter's own
    # flaw. So wait until the main thread is in there.
    asleep.wait_until_asleep(asleep.main_thread)
    print("ready", flush=True)

def start_telling():
    threading.Thread(target=tell, daemon=True).start()
"""

STUCK_IN = {
    "sleep": "time.sleep(600)",
    "loop": "until = time.monotonic() + 600\n    while time.monotonic() < until: pass",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire(timeout=600)",
    "read": "ends = os.pipe(); os.read(ends[0], 1)",
}

PROGRAMS = {
    "to_thread": """
        async def main():
            start_telling()
            await asyncio.gather(*(asyncio.to_thread(stuck) for _ in range(2)))
        asyncio.run(main())
    """,
    "run_in_executor": """
        async def main():
            start_telling()
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(None, functools.partial(stuck)) for _ in range(2)))
        asyncio.run(main())
    """,
    "not awaited": """
        async def main():
            start_telling()
            loop = asyncio.get_running_loop()
            futures = [loop.run_in_executor(None, stuck) for _ in range(2)]
            await asyncio.sleep(60)
        asyncio.run(main())
    """,
    "two pools of its own": """
        async def main():
            start_telling()
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
                await asyncio.gather(*(loop.run_in_executor(pool, stuck) for pool in (one, two)))
        asyncio.run(main())
    """,
    "pools that nobody leaves": """
        pools = [ThreadPoolExecutor(1), ThreadPoolExecutor(1)]
        async def main():
            start_telling()
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, stuck) for pool in pools))
        asyncio.run(main())
    """,
    "a pool around the loop": """
        async def main(pool):
            start_telling()
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, stuck) for _ in range(2)))
        with ThreadPoolExecutor(2) as pool:
            asyncio.run(main(pool))
    """,
    "the pool is the default one": """
        async def main():
            start_telling()
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
            await asyncio.gather(*(asyncio.to_thread(stuck) for _ in range(2)))
        asyncio.run(main())
    """,
    "Runner": """
        async def main():
            start_telling()
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(asyncio.to_thread(stuck))
        with asyncio.Runner() as runner:
            runner.run(main())
    """,
    "a loop by hand": """
        async def main():
            start_telling()
            await asyncio.gather(*(asyncio.to_thread(stuck) for _ in range(2)))
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
    """,
    "a loop by hand that is only closed": """
        def schedule():
            start_telling()
            for _ in range(2):
                loop.run_in_executor(None, stuck)
        loop = asyncio.new_event_loop()
        loop.call_soon(schedule)
        try:
            loop.run_forever()
        finally:
            loop.close()
    """,
    "it goes on after Ctrl-C": """
        async def main():
            start_telling()
            await asyncio.gather(*(asyncio.to_thread(stuck) for _ in range(2)))
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            asyncio.run(asyncio.to_thread(print, "went on", flush=True))
            raise
    """,
}


def interrupted(code, how="sleep"):
    """Run it until it says `ready`, send SIGINT: its status, output, errors, and the seconds from then to its end."""
    program = PREAMBLE.replace("{how}", STUCK_IN[how]) + textwrap.dedent(code)
    with subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, **ON_PATH, "THREADSAFE_TIMEOUT_GRACE": "300"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "ready\n", process.communicate(timeout=240)[1]
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=240)
            return process.returncode, out, err, time.monotonic() - began
        finally:
            process.kill()


@pytest.mark.parametrize("how", STUCK_IN)
@pytest.mark.parametrize("program", ["to_thread", "two pools of its own"])
def test_ctrl_c_ends_it_wherever_a_thread_is_stuck(program, how):
    status, _out, err, seconds = interrupted(PROGRAMS[program], how)
    assert status != 0
    assert "KeyboardInterrupt" in err
    assert seconds < 200, "a second, on a machine that has nothing else to do; two graces are ten minutes"


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name not in ("to_thread", "two pools of its own")])
def test_ctrl_c_ends_every_way_to_run_a_loop(program):
    status, out, err, seconds = interrupted(PROGRAMS[program], "read")
    assert status != 0
    assert "KeyboardInterrupt" in err
    assert "while" in err, "what was running is named"
    assert "stuck" in err
    assert seconds < 200
    assert out == ("went on\n" if program == "it goes on after Ctrl-C" else "")


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_ctrl_c_with_uvloop():
    code = PROGRAMS["to_thread"].replace("asyncio.run(main())", "import uvloop; uvloop.run(main())")
    status, _out, err, seconds = interrupted(code, "read")
    assert status != 0
    assert "stuck" in err
    assert seconds < 200


def test_what_is_started_to_clean_up_after_ctrl_c_runs_to_its_end():
    code = """
        def slow_clean_up(where):
            time.sleep(1.5)  # longer than what is left running gets
            os.write(1, f"cleaned up {where}\\n".encode())  # in one piece: others write too
        async def main():
            start_telling()
            pool = ThreadPoolExecutor(1)
            try:
                await asyncio.gather(*(asyncio.to_thread(stuck) for _ in range(2)))
            finally:
                await asyncio.to_thread(slow_clean_up, "awaited")
                pool.submit(slow_clean_up, "in a pool of its own")
                asyncio.get_running_loop().run_in_executor(None, slow_clean_up, "left to the loop")
                pool.shutdown()
        asyncio.run(main())
    """
    status, out, err, _seconds = interrupted(code)
    assert status != 0
    assert sorted(out.splitlines()) == [
        "cleaned up awaited", "cleaned up in a pool of its own", "cleaned up left to the loop",
    ], err  # fmt: skip


def test_a_task_that_can_end_does_so_before_the_process():
    code = """
        threadsafe_timeout._pool.exit.INTERRUPTED_WAIT = 200  # however long a slow machine takes
        def careful():
            both.wait()
            try:
                time.sleep(600)
            finally:
                os.write(1, b"its finally ran\\n")
        async def main():
            start_telling()
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(None, careful) for _ in range(2)))
        asyncio.run(main())
    """
    status, out, _err, seconds = interrupted(code)
    assert status != 0
    assert out == "its finally ran\n" * 2
    assert seconds < 200


def test_without_ctrl_c_nothing_is_hurried():
    code = PREAMBLE.replace("{how}", "time.sleep(1.0)") + textwrap.dedent("""
        async def main():
            start_telling()
            loop = asyncio.get_running_loop()
            for _ in range(2):
                loop.run_in_executor(None, lambda: (stuck(), print("done", flush=True)))
        asyncio.run(main())
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **ON_PATH}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.count("done")) == (0, 2), done.stderr
