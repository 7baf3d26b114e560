"""A breakpoint in a task: it is hit, the thread is seen by its name, and `continue` goes on to the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from dap import Session

pytestmark = pytest.mark.timeout(120)

HEAD = """
    import threadsafe_timeout.auto
    import asyncio, concurrent.futures, multiprocessing.pool, os, threading, time
    import atexit
    atexit.register(lambda: print(*[thread.name for thread in threading.enumerate()]))  # no Dummy-1 among them
    def work(x):
        while not os.path.exists(f"turn {x}"):
            time.sleep(0.01)
        return x * 2  # breakpoint
    """
PROGRAMS = {
    "a pool of one": """
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            print([pool.submit(work, 1).result()], "ended")
        """,
    "several tasks at once": """
        barrier = threading.Barrier(3)
        def together(x):
            barrier.wait(120)
            return work(x)
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            print(list(pool.map(together, [1, 2, 3])), "ended")
        """,
    "task after task in one thread": """
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            print(list(pool.map(work, [1, 2, 3])), "ended")
        """,
    "multiprocessing's": """
        with multiprocessing.pool.ThreadPool(2) as pool:
            print(pool.map(work, [1, 2]), "ended")
        """,
    "asyncio's": """
        async def main():
            return [await asyncio.to_thread(work, 1), await asyncio.get_running_loop().run_in_executor(None, work, 2)]
        print(asyncio.run(main()), "ended")
        """,
    "in a scope": """
        def bounded(x):
            with threadsafe_timeout.deadline(3600):
                return work(x)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            print([pool.submit(bounded, 1).result()], "ended")
        """,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_continue_goes_on_to_the_end(program: str, tmp_path: Path) -> None:
    expected = 3 if "[1, 2, 3]" in PROGRAMS[program] else 2 if ", 2" in PROGRAMS[program] else 1
    with Session(joined(HEAD, PROGRAMS[program]), tmp_path) as session:
        hits = 0
        (tmp_path / "turn 1").touch()
        for stop in session.stops():
            assert stop["reason"] == "breakpoint", stop
            hits += 1
            session.request("continue", threadId=stop["threadId"])
            if hits < expected:
                # When two threads come to a breakpoint at once, or one does while the debugger still has the others go
                # on, it may say so once, or never. It answers to this when it is done with that.
                session.request("threads")
                (tmp_path / f"turn {hits + 1}").touch()
        assert session.end() == 0, session.output()
        assert "Dummy" not in session.output(), session.output()
        assert f"{[2 * x for x in range(1, expected + 1)]} ended\n" in session.output(), session.output()
        assert hits == expected


def test_the_thread_that_stops_is_the_pools_and_can_be_looked_at_and_stepped(tmp_path: Path) -> None:
    program = """
        def two_lines(x):
            first = x + 1  # breakpoint
            return first * 2
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
            print(pool.submit(two_lines, 1).result(), "ended")
        """
    with Session(joined(HEAD.replace("  # breakpoint", ""), program), tmp_path) as session:
        thread = next(session.stops())["threadId"]
        names = {each["id"]: each["name"] for each in session.request("threads")["threads"]}
        assert names[thread] == "mine_0"
        frame = session.request("stackTrace", threadId=thread)["stackFrames"][0]
        assert frame["name"] == "two_lines"
        assert session.request("evaluate", expression="x + 40", frameId=frame["id"])["result"] == "41"
        session.request("next", threadId=thread)
        stop = session.event("stopped")["body"]
        assert (stop["reason"], stop["threadId"]) == ("step", thread)
        assert session.request("stackTrace", threadId=thread)["stackFrames"][0]["line"] == frame["line"] + 1
        session.request("continue", threadId=thread)
        assert list(session.stops()) == []
        assert session.end() == 0
        assert "4 ended\n" in session.output(), session.output()


def test_a_deadline_that_passes_at_a_breakpoint_is_met_when_it_goes_on(tmp_path: Path) -> None:
    program = """
        from asleep import wait_until_asleep
        def timer():
            return [one for one in threading.enumerate() if one.name == "threadsafe-timeout-timer"]
        def bounded(x):
            with threadsafe_timeout.move_on_after(3600) as scope:
                wait_until_asleep(timer)  # the debugger stops it too, and its lock is needed
                work(x)
                time.sleep(3600)
            return scope.cancelled_caught
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            print(pool.submit(bounded, 1).result(), "ended")
        """
    (tmp_path / "turn 1").touch()
    with Session(joined(HEAD, program), tmp_path) as session:
        thread = next(session.stops())["threadId"]
        frame = session.request("stackTrace", threadId=thread)["stackFrames"][0]["id"]
        # The debugger has the task's own thread move the deadline, and wait until the time is up.
        now = "setattr(threadsafe_timeout._scopes.around.current_scope(), 'deadline', time.monotonic() + 0.1)"
        session.request("evaluate", expression=now, frameId=frame)
        passed = "threadsafe_timeout.time_remaining() <= 0 or __import__('select').poll().poll(100) != []"
        for _ in range(100):
            if session.request("evaluate", expression=passed, frameId=frame)["result"] == "True":
                break
        session.request("continue", threadId=thread)
        assert list(session.stops()) == []
        assert session.end() == 0
        assert "True ended\n" in session.output(), session.output()


def joined(*parts: str) -> str:
    from textwrap import dedent

    return "\n".join(map(dedent, parts))
