"""Progress in the program's own terminal: what is seen of it, and that the program's output is as it was without."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tqdm
from conditions import until
from runs import said_on_terminal
from screens import Tty, new_stream, shown, visible

import threadsafe_timeout
from threadsafe_timeout import AsyncPool, ThreadPoolExecutor
from threadsafe_timeout._record import progress
from threadsafe_timeout._record import screen as _screen
from threadsafe_timeout._record.bars import new_bar
from threadsafe_timeout._record.screen import Screen

SOME = Counter(finished=3, completed=1, failed=2, pending=4, running=2)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal hangs here: where a wait for one takes long, the machine is busy."""
    monkeypatch.setattr(_screen, "_WAIT", 120.0)
    monkeypatch.setattr(progress, "_EXIT_WAIT", 120.0)


@pytest.fixture(params=["rich", "tqdm"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which bar is used: the program has loaded tqdm, or not."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    if request.param == "rich":
        monkeypatch.delitem(sys.modules, "tqdm.std")
    return str(request.param)


@contextlib.contextmanager
def terminal() -> Iterator[Tty]:
    """What both streams of the program write to."""
    tty = Tty()
    with contextlib.redirect_stderr(new_stream(tty)), contextlib.redirect_stdout(new_stream(tty)):
        yield tty


@contextlib.contextmanager
def screen() -> Iterator[tuple[Screen, Tty, Callable[[], None]]]:
    """What a bar is drawn on, all that is on it, and drawing it."""
    with terminal() as tty:
        assert Screen.is_there()
        line, new = new_bar(sys.stderr, SOME), Screen()
        try:
            yield new, tty, lambda: new.show(line(SOME))
        finally:
            new.close()


def say(text: str, stream: Any = None) -> None:
    (stream or sys.stdout).write(text)


@pytest.mark.usefixtures("kind")
def test_the_programs_output_is_as_it_is_without_a_bar() -> None:
    with screen() as (bar, tty, draw):
        draw()
        assert "3/9" in shown(tty)[0]
        assert "2 failed, 2 running" in shown(tty)[0]
        say("one\n")
        assert shown(tty) == ["one", ""]
        draw()
        assert shown(tty)[0] == "one"
        assert "3/9" in shown(tty)[1]
        say("two, ", sys.stderr)
        say("three")
        draw()  # there is no room for it: a line has begun
        assert shown(tty) == ["one", "two, three"]
        sys.stdout.writelines([" and four\n", "five\n"])
        draw()
        assert "3/9" in shown(tty)[-1]
        bar.hide()
        bar.hide()
        assert shown(tty) == ["one", "two, three and four", "five", ""]
        draw()
        say("")
        assert "3/9" in shown(tty)[-1]
    assert shown(tty) == ["one", "two, three and four", "five", ""]


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("columns", [1, 5, 20, 45])
def test_a_bar_is_one_line(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with screen() as (_, tty, draw):
        draw()
        assert [len(line) < max(2, columns) for line in shown(tty)] == [True]


@pytest.mark.usefixtures("kind")
def test_the_end_leaves_a_line_that_has_begun_and_the_streams_as_they_were() -> None:
    with screen() as (bar, tty, draw):
        draw()
        say("mine")
        bar.close()
        say(" and more")
        assert not {"write"} & {*vars(sys.stdout), *vars(sys.stderr)}
    assert shown(tty) == ["mine and more"]


@pytest.mark.usefixtures("kind")
def test_what_somebody_has_put_on_top_stays() -> None:
    with screen() as (bar, tty, draw):
        draw()
        below: Any = sys.stdout.write
        over: Any = lambda text: below(text.upper())  # noqa: E731
        sys.stdout.write = over  # type: ignore[method-assign]
        say("one\n")
        draw()
        bar.close()
        say("two\n")
        assert sys.stdout.write is over
    assert shown(tty) == ["ONE", "TWO", ""]


def test_lines_of_many_threads_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    over = threading.Event()

    def write(number: int) -> None:
        for place in range(300):
            say(f"{number} {place}\n", (sys.stdout, sys.stderr)[place % 2])

    with screen() as (_, tty, draw):

        def draw_on() -> None:
            while not over.is_set():
                draw()

        drawer = threading.Thread(target=draw_on)
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in (drawer, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        over.set()
        drawer.join()
        written = tty.getvalue().decode()
    assert "3/9" in written
    assert sorted(shown(tty)) == sorted(["", *(f"{number} {place}" for number in range(4) for place in range(300))])


def test_bars_of_the_programs_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # else it starts a thread that never ends
    with screen() as (_, tty, draw):
        draw()
        with tqdm.tqdm(total=10, ascii=True, desc="mine", mininterval=0) as mine:
            mine.update(5)
            draw()
            tqdm.tqdm.write("one", file=sys.stderr)
            assert [line.partition("|")[0] for line in shown(tty)] == ["one", "mine:  50%"]
            draw()
            mine.update(5)
        draw()
        assert "3/9" in shown(tty)[-1]
    assert [line.partition("|")[0] for line in shown(tty)] == ["one", "mine: 100%", ""]


def test_a_stream_that_another_draws_on_is_left_alone() -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        assert not Screen.is_there()
    with terminal(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "dumb")
        assert not Screen.is_there()


@contextlib.contextmanager
def showing(how: str) -> Iterator[None]:
    progress.begin(how)
    try:
        yield
    finally:
        progress.end()


def last_line(tty: Tty) -> str:
    return shown(tty)[-1]


@pytest.mark.usefixtures("kind")
def test_a_bar_is_there_while_tasks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_BAR_EVERY", 0.01)
    gates = [threading.Event() for _ in range(3)]
    with terminal() as tty, showing("auto"):
        with ThreadPoolExecutor(1) as pool:
            for gate in gates[:2]:
                pool.submit(gate.wait)
            until(lambda: "0/2" in last_line(tty))
            gates[0].set()
            until(lambda: "1/2" in last_line(tty))
            gates[1].set()
            until(lambda: last_line(tty) == "")  # no task is there
            pool.submit(gates[2].wait)  # for a worker that is there already
            until(lambda: "2/3" in last_line(tty))
            say("mine\n")
            until(lambda: "2/3" in last_line(tty))
            gates[2].set()
    assert shown(tty) == ["mine", ""]


@pytest.mark.usefixtures("kind")
def test_nor_does_the_end_wait_for_them(monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    with terminal() as tty:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(gate.wait)
            with showing("auto"):  # begun when they were there already
                until(lambda: "0/1" in last_line(tty))
            assert shown(tty) == [""]
            gate.set()
    assert shown(tty) == [""]


@contextlib.contextmanager
def between_two_looks() -> Iterator[None]:
    """Nothing is looked at: a look at tasks that are just moving sees one of them twice, or not yet."""
    assert progress._attached.one is not None
    with progress._attached.one._work:
        yield


def test_lines_of_thread_pools_and_coroutines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.01)
    first, second, waiting = threading.Event(), threading.Event(), threading.Event()

    def wait(gate: threading.Event) -> bool:
        waiting.set()
        return gate.wait(120)

    async def main() -> None:
        async with AsyncPool(1) as pool:
            await pool.submit(asyncio.sleep, 0)
            assert await pool.submit(asyncio.to_thread, wait, second)

    with contextlib.redirect_stderr(io.StringIO()) as piped, showing("lines"):

        def told(what: str) -> bool:
            return f"threadsafe-timeout: {what}, 1 running); about" in piped.getvalue()

        with ThreadPoolExecutor(1) as pool:
            with between_two_looks():
                pool.submit(int, "x")
                pool.submit(abs, 1)
                pool.submit(wait, first)
                assert waiting.wait(120)
            until(lambda: told("2 of 3 tasks have ended (1 done, 1 failed"))
            first.set()
        waiting.clear()
        runner = threading.Thread(target=asyncio.run, args=(main(),))
        with between_two_looks():
            runner.start()
            assert waiting.wait(120)
        until(lambda: told("4 of 5 tasks have ended (3 done, 1 failed"))
        second.set()
        runner.join()
    assert len(piped.getvalue().splitlines()) == len(set(piped.getvalue().splitlines()))  # none in which nothing has ended


def test_a_bar_that_cannot_be_had_is_said_with_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.delitem(sys.modules, "tqdm.std")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    expected = (
        "threadsafe-timeout: progress needs rich for a bar (or tqdm, in a program that uses it): "
        "pip install 'threadsafe-timeout[view]'; there are lines instead"
    )
    with terminal() as tty, showing("auto"), ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait)
        until(lambda: shown(tty) == [expected, ""])
        gate.set()


@pytest.mark.usefixtures("nothing_set")
def test_it_is_off_unless_it_is_asked_for(gate: threading.Event) -> None:
    with terminal() as tty, ThreadPoolExecutor(1) as pool:
        with threadsafe_timeout.patched(checkpoint=None, summary="off"):
            pool.submit(gate.wait)
            assert progress._attached.one is None
        with threadsafe_timeout.patched(checkpoint=None, summary="off", progress="auto"):
            until(lambda: "0/1" in last_line(tty))
            threadsafe_timeout.install(checkpoint=None, summary="off")
            assert shown(tty) == [""]
        gate.set()


def test_a_program_that_leaves_and_a_child_of_it(tmp_path: Path) -> None:
    """The terminal has what the program has said, and nothing more."""
    program = """
    import os, time
    import threadsafe_timeout
    threadsafe_timeout.install(checkpoint=None, progress="auto", summary="off")
    from concurrent.futures import ThreadPoolExecutor
    from threadsafe_timeout._record import progress
    pool = ThreadPoolExecutor(1, task_timeout=1000)
    future = pool.submit(threadsafe_timeout.sleep, 1000)
    while not progress._attached.one._screen or not progress._attached.one._screen.drawn:
        time.sleep(0.01)
    print("mine")
    while not progress._attached.one._screen.drawn:
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        print("the child's")
        os._exit(0)
    os.waitpid(child, 0)
    print("the last")
    future.cancel()
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    said = said_on_terminal([sys.executable, "program.py"], tmp_path, TERM="xterm", COLUMNS="80")
    assert "0/1" in said
    lines = visible(said)
    assert [lines[0], lines[-2:]] == ["mine", ["the last", ""]]
