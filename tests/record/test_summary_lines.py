"""The line at the start of a run and the one at its end: what they say, in the log, on a terminal, or nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rich.console
import rich.progress
import tqdm
from blocked import acquire
from conditions import until

import threadsafe_timeout
from threadsafe_timeout import AsyncPool, ThreadPoolExecutor
from threadsafe_timeout._record import on_stderr, summary_lines
from threadsafe_timeout.checkpoint import CheckpointWriter

START = "threadsafe-timeout: pool patched"
UNSAVED = "results are not saved (run --save, or save=tasks)"
UNBOUNDED = "no task deadline set: only LLM calls (120 s) are bounded; set THREADSAFE_TIMEOUT_TASK_TIMEOUT or task_timeout"
FIVE = "threadsafe-timeout: 5 done, 0 failed, 0 timed out"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal hangs here: where the first line takes long, the machine is busy."""
    monkeypatch.setattr(summary_lines, "_WAIT", 120.0)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@contextlib.contextmanager
def summed_up(stream: io.StringIO, how: str = "auto") -> Iterator[None]:
    """A run, from its beginning to its end, with that for its standard error."""
    with contextlib.redirect_stderr(stream):
        summary_lines.begin(how, lambda: True)
        try:
            yield
        finally:
            summary_lines.end()


def five() -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(abs, range(5)))


def counted(pool: ThreadPoolExecutor) -> None:
    """Wait until its tasks are counted: their futures are done a moment earlier."""
    until(lambda: not pool.stats()["running"], pool.stats)


def said(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_terminal_shows_a_line_at_the_start_and_one_at_the_end(terminal: Terminal) -> None:
    with summed_up(terminal):
        five()
    assert said(terminal) == [f"{START}, {UNSAVED}; {UNBOUNDED}", FIVE]


def test_an_stderr_that_is_no_terminal_shows_nothing_unless_it_is_asked_to() -> None:
    piped = io.StringIO()
    with summed_up(piped):
        five()
    assert said(piped) == []
    with summed_up(piped, "on"):
        five()
    assert said(piped) == [f"{START}, {UNSAVED}; {UNBOUNDED}", FIVE]


def test_a_program_without_a_task_shows_nothing(terminal: Terminal) -> None:
    with summed_up(terminal):
        ThreadPoolExecutor(3).shutdown()
    assert said(terminal) == []


@pytest.mark.usefixtures("nothing_set")
def test_the_setting_and_uninstall_begin_and_end_it(terminal: Terminal) -> None:
    with contextlib.redirect_stderr(terminal), threadsafe_timeout.patched(checkpoint=None, summary="off"):
        five()
    assert said(terminal) == []
    with contextlib.redirect_stderr(terminal), ThreadPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        counted(pool)
        threadsafe_timeout.install(checkpoint=None)
        pool.submit(abs, 1).result()
        threadsafe_timeout.install(checkpoint=None, task_timeout=700)
        pool.submit(abs, 1).result()
        counted(pool)
        threadsafe_timeout.uninstall()
        pool.submit(abs, 1).result()
    lines = said(terminal)
    assert [line.split(": ")[1].partition(",")[0].partition(";")[0] for line in lines] == ["pool patched", "2 done"]


@pytest.mark.usefixtures("nothing_set")
def test_where_results_and_the_record_are(terminal: Terminal, tmp_path: Path) -> None:
    with (
        contextlib.redirect_stderr(terminal),
        threadsafe_timeout.patched(checkpoint=None, status_dir="here"),
        CheckpointWriter("saved.jsonl") as writer,
        ThreadPoolExecutor(1, checkpoint=writer) as pool,
    ):
        pool.with_options(key="a", timeout=500).submit(abs, 1).result()
    first, last = said(terminal)
    start = f"{START}, tasks have time limits of their own (the first: 500 s), saving to saved.jsonl, recorded in here"
    assert first.replace(f"{tmp_path}/", "") == start
    [folder] = (tmp_path / "here" / "runs").iterdir()
    assert last == f"threadsafe-timeout: 1 done, 0 failed, 0 timed out, 1 saved; see the run: threadsafe-timeout report {folder}"
    assert '"ended"' in (folder / "status.json").read_text()
    with contextlib.redirect_stderr(terminal), threadsafe_timeout.patched(checkpoint=None, task_timeout=600, status_dir=None):
        five()
    assert said(terminal)[2:] == [f"{START}, task_timeout 600 s, {UNSAVED}", FIVE]  # not with the folder of the run before


def test_how_tasks_ended_in_pools_that_are_gone_and_in_one_that_is_not(terminal: Terminal, gate: threading.Event) -> None:
    with summed_up(terminal):
        for _ in range(100):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(abs, 1)
                pool.submit(int, "x")
            del pool
        gc.collect()
        with ThreadPoolExecutor(1) as pool:
            pool.with_options(timeout=0.01).submit(threadsafe_timeout.sleep, 1000).exception()
            pool.submit(gate.wait)
            assert pool.submit(abs, 1).cancel()
            gate.set()
        left = ThreadPoolExecutor(1)
        left.submit(abs, 1).result()
        counted(left)
    left.shutdown()
    assert said(terminal)[1:] == ["threadsafe-timeout: 102 done, 100 failed, 1 timed out, 1 cancelled"]


def test_what_has_not_ended_is_said(terminal: Terminal, gate: threading.Event) -> None:
    started = threading.Event()

    def waiting() -> None:
        started.set()
        gate.wait()

    with ThreadPoolExecutor(1) as pool:
        with summed_up(terminal):
            pool.submit(waiting)
            pool.submit(abs, 1)
            assert started.wait(100)
        gate.set()
    assert said(terminal)[-1].endswith(" 0 done, 0 failed, 0 timed out, 2 not finished")


def test_coroutines_count_and_what_saves_their_results_does_not(terminal: Terminal, tmp_path: Path) -> None:
    async def of(value: Any) -> int:
        return int(value)

    saved = tmp_path / "saved.jsonl"

    async def main() -> None:
        async with AsyncPool(2, task_timeout=500, checkpoint=saved) as pool:
            await pool.with_options(key="a").submit(of, 1)
            await pool.gather(pool.submit(of, 1), pool.submit(of, "x"), return_exceptions=True)
            with pytest.raises(threadsafe_timeout.DeadlineExceeded):
                await pool.with_options(timeout=0.01).submit(asyncio.sleep, 1000)

    with summed_up(terminal):
        asyncio.run(main())
        gc.collect()
    assert said(terminal) == [
        f"{START}, tasks have time limits of their own (the first: 500 s), saving to {saved}",
        "threadsafe-timeout: 2 done, 1 failed, 1 timed out, 1 saved",
    ]


def test_an_async_pool_that_runs_already_is_counted_from_there(terminal: Terminal) -> None:
    async def main() -> None:
        async with AsyncPool(1) as pool:
            await pool.submit(asyncio.sleep, 0)
            with summed_up(terminal):
                await pool.submit(asyncio.sleep, 0)
                await pool.submit(asyncio.sleep, 0)

    asyncio.run(main())
    assert said(terminal)[-1].endswith(" 2 done, 0 failed, 0 timed out")


def test_nothing_is_held_of_a_pool_that_is_over_but_its_counts(terminal: Terminal) -> None:
    class Mine:
        pass

    mine, gone = Mine(), threading.Event()
    weakref.finalize(mine, gone.set)
    with summed_up(terminal):
        pool = ThreadPoolExecutor(1, initializer=id, initargs=(mine,))
        pool.submit(abs, 1).result()
        pool.shutdown()
        del mine, pool
        until(lambda: (gc.collect(), gone.is_set())[1])
    assert said(terminal)[-1].endswith(" 1 done, 0 failed, 0 timed out")


def test_an_abandoned_task_is_said_to_be(terminal: Terminal, gate: threading.Event) -> None:
    with summed_up(terminal):
        with ThreadPoolExecutor(1, grace=0) as pool:
            pool.submit(acquire, gate).exception()
    assert said(terminal)[-1] == "threadsafe-timeout: 0 done, 0 failed, 1 timed out (1 abandoned)"


class Own(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"own: {record.getMessage()}\n")


def to_stderr(logger: logging.Logger) -> None:
    logger.addHandler(logging.StreamHandler())


def to_a_terminal(logger: logging.Logger) -> None:
    logger.addHandler(logging.StreamHandler(Terminal()))


def to_a_file(logger: logging.Logger) -> None:
    logger.addHandler(logging.FileHandler("log"))


def for_warnings(logger: logging.Logger) -> None:
    to_stderr(logger)
    logger.handlers[0].setLevel(logging.WARNING)


@pytest.mark.parametrize(
    ("configure", "level", "on_terminal", "elsewhere"),
    [
        (to_stderr, logging.INFO, "L", "L"),
        (to_a_terminal, logging.INFO, "", ""),
        (to_stderr, logging.WARNING, "", ""),  # this logger is to be silent
        (to_stderr, logging.NOTSET, "L", "L"),
        (to_a_file, logging.INFO, "L", ""),
        (for_warnings, logging.INFO, "L", ""),
        # What a handler of the program's own does with its lines is not known.
        (lambda logger: logger.addHandler(Own()), logging.INFO, "own: L", "own: L"),
        (lambda logger: setattr(logger, "disabled", True), logging.INFO, "L", ""),
    ],
)
def test_a_line_is_logged_or_shown_and_never_both(
    configure: Callable[[logging.Logger], None], level: int, on_terminal: str, elsewhere: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for stream, expected in ((Terminal(), on_terminal), (io.StringIO(), elsewhere)):
        with contextlib.redirect_stderr(stream):
            logger = logging.Logger("ours", level)
            configure(logger)
            on_stderr.say(logger, "L", "auto")
        for handler in logger.handlers:
            handler.close()
        assert stream.getvalue() == (expected and f"{expected}\n")
    assert not (tmp_path / "log").exists() or (tmp_path / "log").read_text() == "L\nL\n"


def test_on_is_not_said_twice_either() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as piped:
        logger = logging.Logger("ours", logging.WARNING)
        to_stderr(logger)
        on_stderr.say(logger, "shown", "on")
        logger.setLevel(logging.INFO)
        on_stderr.say(logger, "logged", "on")
    assert said(piped) == ["shown", "logged"]


def test_an_stderr_that_is_closed_or_gone_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.Logger("ours")
    logger.disabled = True
    with contextlib.redirect_stderr(io.StringIO()) as piped:
        piped.close()
        on_stderr.say(logger, "L", "on")
    monkeypatch.setattr(sys, "stderr", None)
    on_stderr.say(logger, "L", "on")
    assert not on_stderr.heard(logger, "on")


@contextlib.contextmanager
def bar_on(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # else it starts a thread that never ends
    with contextlib.redirect_stderr(terminal), tqdm.tqdm(total=10, ascii=True, ncols=40) as one:
        yield one


def test_a_bar_of_tqdm_is_not_broken(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with bar_on(terminal, monkeypatch):
        before = terminal.getvalue()
        on_stderr.put("L")
        after = terminal.getvalue()[len(before) :]
    assert after[0] == "\r"
    assert after.lstrip("\r ").startswith("L\n\r  0%|")


def test_a_bar_whose_lock_is_held_for_ever_does_not_hold_the_line_up(
    terminal: Terminal, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_stderr, "_LOCK_WAIT", 0.01)
    held = threading.Event()

    def hold(lock: Any) -> None:
        with lock:
            held.set()
            gate.wait()

    with bar_on(terminal, monkeypatch) as bar:
        holder = threading.Thread(target=hold, args=(bar.get_lock(),))
        holder.start()
        assert held.wait(100)
        on_stderr.put("L")
        assert terminal.getvalue().endswith("\nL\n")
        gate.set()
        holder.join()


def test_nor_is_one_of_rich(terminal: Terminal) -> None:
    with contextlib.redirect_stderr(terminal):
        console = rich.console.Console(file=terminal, force_terminal=True, width=60, legacy_windows=False)
        with rich.progress.Progress(console=console, auto_refresh=False) as progress:
            progress.add_task("mine", total=10)
            progress.refresh()
            before = terminal.getvalue()
            on_stderr.put("L")
            after = terminal.getvalue()[len(before) :]
    assert after.startswith("\r\x1b[2KL\n")
