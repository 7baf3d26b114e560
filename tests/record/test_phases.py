"""What a worker is said to be doing: LLM calls and their attempts, searches of a guarded executor, sleeps and locks."""

from __future__ import annotations

import asyncio
import ctypes
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import openai
import pytest
from conditions import until

import threadsafe_timeout
from threadsafe_timeout import ThreadPoolExecutor, guard_interactive
from threadsafe_timeout._pool import observer
from threadsafe_timeout._record.notes import Notes
from threadsafe_timeout._record.recorder import _task_line
from threadsafe_timeout._record.snapshot import worker_lines

http: Any = __import__(type(openai.DefaultHttpxClient()).__mro__[1].__module__.partition(".")[0])
MESSAGES: Any = [{"role": "user", "content": "a question"}]
COMPLETION = {
    "id": "1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "an answer"}}],
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("installed")


class Service:
    """What answers the client, in its process: at first `failures` times with an error, then when `gate` is open."""

    def __init__(self, gate: threading.Event, failures: int = 0) -> None:
        self._gate = gate
        self._failures = failures

    def __call__(self, request: Any) -> Any:
        if self._failures:
            self._failures -= 1
            return http.Response(500, headers={"retry-after-ms": "1"}, request=request)
        if json.loads(request.content).get("stream"):
            return http.Response(200, headers={"content-type": "text/event-stream"}, content=self._pieces(), request=request)
        self._gate.wait()
        return http.Response(200, json=COMPLETION, request=request)

    def _pieces(self) -> Iterator[bytes]:
        yield b'data: {"choices": []}\n\n'
        self._gate.wait()
        yield b"data: [DONE]\n\n"

    def client(self) -> openai.OpenAI:
        transport = http.MockTransport(self)
        return openai.OpenAI(api_key="unused", base_url="http://service", http_client=http.Client(transport=transport))

    def ask(self) -> Any:
        with self.client() as client:
            return client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content

    def ask_later(self) -> Any:
        async def answer(request: Any) -> Any:
            return await asyncio.to_thread(self, request)

        async def main() -> Any:
            session = http.AsyncClient(transport=http.MockTransport(answer))
            async with openai.AsyncOpenAI(api_key="unused", base_url="http://service", http_client=session) as client:
                return (await client.chat.completions.create(model="m", messages=MESSAGES)).choices[0].message.content

        return asyncio.run(main())

    def ask_for_pieces(self) -> str:
        with self.client() as client:
            pieces = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            return "an answer" if list(pieces) else ""

    def ask_in_a_thread(self) -> Any:
        found: list[Any] = []
        thread = threading.Thread(target=copy_context().run, args=(lambda: found.append(self.ask()),))
        thread.start()
        thread.join()
        return found[0]


def line_of(pool: ThreadPoolExecutor) -> dict[str, Any]:
    [line] = worker_lines(pool._crew, time.time())
    return line


def until_in(pool: ThreadPoolExecutor, phase: str) -> dict[str, Any]:
    return until(lambda: (line := line_of(pool)).get("phase") == phase and line, lambda: line_of(pool))


@pytest.mark.usefixtures("watching")
@pytest.mark.parametrize(
    ("ask", "failures", "phase"),
    [
        (Service.ask, 0, "LLM call"),
        (Service.ask, 1, "LLM call, attempt 2"),
        (Service.ask_later, 1, "LLM call, attempt 2"),
        (Service.ask_for_pieces, 0, "LLM call"),
        (Service.ask_in_a_thread, 0, "LLM call"),
    ],
)
def test_an_llm_call(ask: Callable[[Service], Any], failures: int, phase: str, gate: threading.Event) -> None:
    service = Service(gate, failures)
    with ThreadPoolExecutor(1, task_timeout=130) as pool:
        before = time.time()
        future = pool.submit(ask, service)
        until_in(pool, phase)  # in which it stays
        asked = time.monotonic()
        line = line_of(pool)
        took = time.monotonic() - asked  # by so much it may be off
        assert before - took - 1 < line["phase_since"] <= time.time() + 1
        gate.set()
        assert future.result() == "an answer"
        until_idle(pool)
        [worker] = pool._crew.workers
        assert (worker.doing.calls, worker.doing.attempts) == (1, failures + 1)
        assert set(worker.doing.spent()) == {"llm"}
        assert worker.doing.phase() is None


def until_idle(pool: ThreadPoolExecutor) -> None:
    until(lambda: line_of(pool)["state"] == "idle")


def test_nothing_is_noted_unless_a_run_is_recorded(gate: threading.Event) -> None:
    gate.set()
    with ThreadPoolExecutor(1, task_timeout=130) as pool:
        assert pool.submit(Service(gate).ask).result() == "an answer"
        [worker] = pool._crew.workers
        assert worker.doing is None


class Executor:
    """Searches, and searches; the third search takes its time, or asks a service itself."""

    def __init__(self, service: Service, search: Callable[[int], object]) -> None:
        self.service = service
        self.search = search
        self.searches = 0

    def execute_interactive(self) -> dict[str, Any]:
        while self._get_llm_response() is not None:
            self._handle_tool_searches()
        return {"searches": self.searches}

    def _get_llm_response(self) -> str | None:
        return f"<tool_search>thing {self.searches}</tool_search>" if self.searches < 3 else None

    def _handle_tool_searches(self) -> list[str]:
        self.searches += 1
        self.search(self.searches)
        return [f"found {self.searches}"]


@pytest.mark.usefixtures("watching")
@pytest.mark.parametrize(
    ("is_search", "asks", "phase"),
    [(None, False, "search ×3"), (None, True, "search ×3, LLM call"), (lambda _: False, False, "tools")],
)
def test_the_tools_of_a_guarded_executor(is_search: Any, asks: bool, phase: str, gate: threading.Event) -> None:
    service = Service(gate)

    def search(number: int) -> None:
        if number == 3:
            assert (service.ask() if asks else gate.wait()) is not None

    executor = guard_interactive(Executor(service, search), is_search=is_search, searches="off", look_ups="off")
    with ThreadPoolExecutor(1, task_timeout=130) as pool:
        future = pool.submit(executor.execute_interactive)
        until_in(pool, phase)
        gate.set()
        assert future.result()["searches"] == 3
        until_idle(pool)
        [worker] = pool._crew.workers
        assert worker.doing.calls == asks
        assert set(worker.doing.spent()) == {"tools" if is_search else "search"}


@pytest.mark.usefixtures("watching")
def test_several_calls_at_a_time(gate: threading.Event) -> None:
    service, second = Service(gate), threading.Event()

    def task() -> None:
        threads = [threading.Thread(target=copy_context().run, args=(service.ask,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        second.wait()
        for thread in threads:
            thread.join()

    with ThreadPoolExecutor(1, task_timeout=130) as pool:
        pool.submit(task)
        until_in(pool, "LLM call, 3 at a time")
        gate.set()
        until_in(pool, "lock")
        second.set()


@pytest.mark.usefixtures("watching")
def test_a_task_that_comes_after_one_has_its_own(gate: threading.Event) -> None:
    done = threading.Event()
    done.set()
    with ThreadPoolExecutor(1, task_timeout=130) as pool:
        assert pool.submit(Service(done).ask).result() == "an answer"
        pool.submit(gate.wait)
        until_in(pool, "lock")
        last = pool.submit(Service(done).ask)
        gate.set()
        assert last.result() == "an answer"
        until_idle(pool)
        [worker] = pool._crew.workers
        assert worker.doing.calls == 1


class Stuck(Service):
    """One that no cancellation reaches: no interrupt strikes in what is called `acquire`."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__(gate)
        self.asked = threading.Event()

    def __call__(self, request: Any) -> Any:
        return self.acquire()

    def acquire(self) -> None:
        self.asked.set()
        while not self._gate.is_set():
            ctypes.CDLL(None).usleep(1000)


@pytest.mark.usefixtures("watching")
def test_a_call_that_was_given_up(gate: threading.Event) -> None:
    service, left = Stuck(gate), threading.Event()

    def task() -> None:
        try:
            service.ask()
        finally:
            while not left.is_set():
                ctypes.CDLL(None).usleep(1000)

    def phase() -> Any:
        return next(one["phase"] for one in worker_lines(pool._crew, time.time()) if one["state"] == "abandoned")

    with ThreadPoolExecutor(1, task_timeout=130, grace=0) as pool:
        future = pool.submit(task)
        assert service.asked.wait(120)
        future.cancel()
        future.exception()
        assert phase() == "LLM call"
        [worker] = pool._crew.abandoned
        assert worker.doing.spent()["llm"] > 0
        gate.set()
        deadline = time.monotonic() + 120
        while phase() != "python":
            assert time.monotonic() < deadline
            time.sleep(0.005)
        left.set()


def test_sleeps_and_locks(gate: threading.Event) -> None:
    with ThreadPoolExecutor(1, task_timeout=130) as pool:
        future = pool.submit(time.sleep, 1000)
        until_in(pool, "sleep")
        future.cancel()
        pool.submit(gate.wait)
        until_in(pool, "lock")
        gate.set()


def test_the_time_of_a_task_is_divided_by_what_it_was_seen_in(gate: threading.Event) -> None:
    notes, slept = Notes(), threading.Event()

    def task(number: int) -> None:
        if number:
            with pytest.raises(threadsafe_timeout.DeadlineExceeded), threadsafe_timeout.deadline(1000) as scope:
                threading.Thread(target=lambda: slept.wait() and scope.cancel()).start()
                time.sleep(1000)
            gate.wait()

    observer.attach(notes)
    try:
        with ThreadPoolExecutor(1, task_timeout=130) as pool:
            pool.submit(task, 1)
            until_in(pool, "sleep")
            slept.set()
            until_in(pool, "lock")
            [worker] = pool._crew.workers
            times = dict(worker.seen.times)
            assert {"sleep", "lock"} <= set(times) <= {"sleep", "lock", "python", "starting"}
            gate.set()
            pool.submit(task, 0).result()
    finally:
        observer.detach(notes)
    long, short = (_task_line(note, "pool") for note in notes.tasks)
    assert "phases" not in short
    assert set(long["phases"]) == set(times)
    assert sum(long["phases"].values()) == pytest.approx(long["took"], abs=1e-4)
    for phase, number in times.items():
        assert long["phases"][phase] == pytest.approx(long["took"] * number / sum(times.values()), abs=1e-4)


def test_the_files_of_a_run_have_it(tmp_path: Path, gate: threading.Event) -> None:
    gate.set()
    try:
        threadsafe_timeout.install(checkpoint="off", status_dir=str(tmp_path))
        with ThreadPoolExecutor(1, task_timeout=130) as pool:
            assert pool.submit(Service(gate, 1).ask).result() == "an answer"
            pool.submit(abs, 1).result()
    finally:
        threadsafe_timeout.install(checkpoint="off")
    [file] = tmp_path.glob("runs/*/events.jsonl")
    asked, other = [line for line in map(json.loads, file.read_text().splitlines()) if line["kind"] == "task"]
    assert (asked["calls"], asked["attempts"]) == (1, 2)
    assert 0 < asked["phases"]["llm"] <= asked["took"]
    assert not {"calls", "attempts"} & set(other)
    assert "llm" not in other.get("phases", {})
