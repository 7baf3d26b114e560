"""Each task is counted once, by whoever counts: the files, the last line, `watch` and the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import folders, of_kind, run, status

from threadsafe_timeout._view.picture import picture_of
from threadsafe_timeout._view.plain import counts_line
from threadsafe_timeout._view.reading import read_run
from threadsafe_timeout._view.report import gather

ENDS = """
from threadsafe_timeout import LoopDetected
from threadsafe_timeout._pool.task import current_task

LIMITS = {"times out": 0.05}

def loop_ends():
    current_task()._loop_ended("search_loop", "the same search again")  # as a guard has it

def ends(how):
    if how == "fails":
        raise ValueError(how)
    if how == "raises for its loop":
        loop_ends()
        raise LoopDetected("search_loop", "the same search again")
    if how == "returns for its loop":
        loop_ends()
"""
THREADS = """
lock = threading.Lock()
lock.acquire()

def acquire():  # no interrupt strikes in what is called so: it gets where it is to be stuck
    current_task()._scope.deadline = time.monotonic()
    lock.acquire()

def work(how):
    ends(how)
    if how == "times out":
        threading.Event().wait()
    if how == "is stuck":
        acquire()

# Each in a pool of its own: what times out is to end by itself, whenever it gets to that.
hasty = threadsafe_timeout.ThreadPoolExecutor(1, grace=0.05)
pool = threadsafe_timeout.ThreadPoolExecutor(1, grace=300)
for how in HOWS:
    one = hasty if how == "is stuck" else pool
    one.with_options(timeout=LIMITS.get(how, 300), name=how).submit(work, how).exception()
hasty.shutdown()
gate = threading.Event()
running = pool.submit(gate.wait)
pool.submit(id, 1).cancel()
gate.set()
running.result()
pool.shutdown()
"""
COROUTINES = """
import asyncio

STUCK = {**LIMITS, "is stuck": 0.05}  # a coroutine hears of its deadline where it awaits

async def work(how):
    ends(how)
    while how in STUCK:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "times out":
                raise

async def main():
    async with threadsafe_timeout.AsyncPool(1, grace=0.05) as pool:
        tasks = [pool.with_options(timeout=STUCK.get(how, 300), name=how).submit(work, how) for how in HOWS]
        await pool.gather(*tasks, return_exceptions=True)
        tasks = [pool.submit(asyncio.sleep, 0), pool.submit(asyncio.sleep, 0)]
        tasks[1].cancel()

asyncio.run(main())
"""
HOWS = ("returns", "fails", "times out", "is stuck", "raises for its loop", "returns for its loop")


@pytest.mark.parametrize("program", [THREADS, COROUTINES], ids=["threads", "coroutines"])
def test_done_failed_timed_out_and_cancelled_are_all(tmp_path: Path, program: str) -> None:
    said = run(tmp_path, f"{ENDS}\nHOWS = {HOWS!r}\nthreadsafe_timeout.install(status_dir='runs_here', checkpoint=None, summary='on')\n{program}").stderr
    [folder] = folders(tmp_path)
    totals = status(folder)["totals"]
    wanted = {"done": 3, "failed": 2, "timed_out": 2, "cancelled": 1, "running": 0, "pending": 0}
    assert {name: totals[name] for name in wanted} == wanted
    assert sum(wanted.values()) == totals["submitted"]
    assert (totals["abandoned"], totals["loops"]) == (1, 2)
    assert of_kind(folder, "end")[0]["totals"] == totals
    found = read_run(folder)
    assert {name: gather(found).totals[name] for name in totals} == totals
    line = counts_line(picture_of(found, [], 0.0))
    assert line == ("done 3 · failed 2 · timed out 2 (abandoned 1) · cancelled 1 · running 0 · pending 0 · saved 0 · "
                    "loops ended 2")  # fmt: skip
    assert "3 done, 2 failed, 2 timed out (1 abandoned), 1 cancelled, 2 loops ended in them" in said
    outcomes = {line["task"]: line["outcome"] for line in of_kind(folder, "task")}
    assert [outcomes[how] for how in HOWS] == ["done", "failed", "timeout", "abandoned", "loop", "done"]


def test_lines_alone_add_up_to_the_same(tmp_path: Path) -> None:
    """What is left of a run that was killed before it wrote its counts."""
    run(tmp_path, f"{ENDS}\nHOWS = {HOWS!r}\n{COROUTINES}")
    [folder] = folders(tmp_path)
    lines = [line for line in (folder / "events.jsonl").read_text().splitlines(keepends=True) if '"kind":"task"' in line]
    (folder / "status.json").unlink()
    (folder / "events.jsonl").write_text("".join(lines))
    totals = gather(read_run(folder)).totals
    assert (totals["done"], totals["failed"], totals["timed_out"], totals["loops"]) == (3, 2, 2, 1)
