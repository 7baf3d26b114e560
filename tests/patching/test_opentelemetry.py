"""What OpenTelemetry gets of a run: real SDK, in memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from blocked import LONG, expire
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import threadsafe_timeout
from threadsafe_timeout import AsyncPool, CheckpointWriter, ThreadPoolExecutor
from threadsafe_timeout._pool import observer as _observer

_spans = InMemorySpanExporter()
_reader = InMemoryMetricReader()
SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture(scope="module", autouse=True)
def _providers() -> None:
    """A process has one provider of each, for good."""
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(_spans))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([_reader], shutdown_on_exit=False))


@pytest.fixture(autouse=True)
def _installed(nothing_set: None) -> Iterator[None]:
    threadsafe_timeout.install(checkpoint="off")
    _spans.clear()
    yield
    threadsafe_timeout.uninstall()
    assert not _observer._attached


def spans() -> dict[str, Any]:
    return {span.name: span for span in _spans.get_finished_spans() if span.name.startswith("task ")}


def counted(name: str, **attributes: str) -> float:
    """The sum of a counter, or the number of a histogram's values, over what has these attributes."""
    data = _reader.get_metrics_data()
    points = [
        point
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == f"threadsafe_timeout.{name}"
        for point in metric.data.data_points
    ]
    return sum(
        getattr(point, "value", None) or getattr(point, "count", 0)
        for point in points
        if attributes.items() <= dict(point.attributes).items()
    )


@pytest.fixture
def stuck() -> Iterator[Callable[[], object]]:
    """A task whose time ends when it has begun, and which is stuck in the system until the test ends."""
    reads, writes = os.pipe()

    def acquire() -> None:  # the name says that no interrupt strikes on the way to where it is stuck
        expire()
        try:
            os.read(reads, 1)
        finally:
            os.close(reads)

    yield acquire
    os.write(writes, b"x")
    os.close(writes)


@pytest.fixture
def more() -> Callable[..., float]:
    """How much more is counted than when the test began. The figures of a process only grow."""
    before: dict[Any, float] = {}

    def since(name: str, **attributes: str) -> float:
        key = (name, *sorted(attributes.items()))
        if key not in before:
            before[key] = counted(name, **attributes)
        return counted(name, **attributes) - before[key]

    return since


def test_a_task_has_a_span_inside_that_of_its_submitter_and_around_its_own():
    tracer = trace.get_tracer("program")

    def ask(question: str) -> int:
        with tracer.start_as_current_span("inner"):
            return len(question)

    with tracer.start_as_current_span("outer") as outer, ThreadPoolExecutor(1, thread_name_prefix="asks") as pool:
        assert pool.submit(ask, SECRET).result() == len(SECRET)
        assert trace.get_current_span() is outer
    name = f"task {ask.__qualname__}"
    span = spans()[name]
    inner = next(one for one in _spans.get_finished_spans() if one.name == "inner")
    assert span.parent.span_id == outer.get_span_context().span_id
    assert inner.parent.span_id == span.context.span_id
    assert span.attributes["threadsafe_timeout.pool"] == "asks"
    assert span.attributes["threadsafe_timeout.outcome"] == "done"
    assert span.status.is_ok
    assert SECRET not in span.to_json()


def test_the_next_task_of_a_worker_is_no_child_of_the_one_before():
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(abs, range(3)))
    found = [span for span in _spans.get_finished_spans() if span.name.startswith("task ")]
    assert len(found) == 3
    assert all(span.parent is None for span in found)


def test_an_error_and_a_timeout_say_what_and_where_and_nothing_else(gate):
    def fail() -> None:
        raise ValueError(f"no such key: {SECRET}")

    def acquire() -> None:  # the name says that no interrupt strikes in it: the wait raises
        expire()
        gate.wait()

    with ThreadPoolExecutor(2, task_timeout=LONG) as pool:
        failing, hanging = pool.submit(fail), pool.submit(acquire)
        assert isinstance(failing.exception(), ValueError)
        assert isinstance(hanging.exception(), TimeoutError)
    failed, timed_out = spans()[f"task {fail.__qualname__}"], spans()[f"task {acquire.__qualname__}"]
    assert failed.attributes["error.type"] == "ValueError"
    assert failed.attributes["threadsafe_timeout.outcome"] == "failed"
    assert timed_out.attributes["threadsafe_timeout.outcome"] == "timeout"
    for span in (failed, timed_out):
        assert span.attributes["code.file.path"] == __file__
        assert not span.status.is_ok
        assert SECRET not in span.to_json()


def test_an_abandoned_tasks_span_ends_with_its_future(stuck):
    with ThreadPoolExecutor(1, task_timeout=LONG, grace=0.1) as pool:
        assert isinstance(pool.submit(stuck).exception(), TimeoutError)
        until = time.monotonic() + LONG
        while not spans() and time.monotonic() < until:  # it ends just after the future is done
            time.sleep(0.001)
        assert spans()[f"task {stuck.__qualname__}"].attributes["threadsafe_timeout.outcome"] == "timeout"


def test_coroutines_have_spans_and_are_counted(more):
    tracer = trace.get_tracer("program")

    async def ask(number: int) -> int:
        with tracer.start_as_current_span(f"inner {number}"):
            await asyncio.sleep(0)
        if number:
            raise ValueError(SECRET)
        return number

    async def main() -> None:
        with tracer.start_as_current_span("outer"):
            async with AsyncPool(2) as pool:
                await pool.gather(pool.submit(ask, 0), pool.submit(ask, 1), return_exceptions=True)

    more("tasks", outcome="failed")
    more("tasks", outcome="done")
    asyncio.run(main())
    found = _spans.get_finished_spans()
    (outer,) = [span for span in found if span.name == "outer"]
    tasks = [span for span in found if span.name == f"task {ask.__qualname__}"]
    assert {span.parent.span_id for span in tasks} == {outer.context.span_id}
    inner = {span.parent.span_id for span in found if span.name.startswith("inner")}
    assert inner == {span.context.span_id for span in tasks}
    assert sorted(span.attributes["threadsafe_timeout.outcome"] for span in tasks) == ["done", "failed"]
    assert all(SECRET not in span.to_json() for span in tasks)
    assert (more("tasks", outcome="failed"), more("tasks", outcome="done")) == (1, 1)


def test_tasks_timeouts_and_saves_are_counted(more, gate, tmp_path):
    counted_now = {
        "done": lambda: more("tasks", outcome="done"), "failed": lambda: more("tasks", outcome="failed"),
        "timeout": lambda: more("tasks", outcome="timeout"), "durations": lambda: more("task.duration"),
        "timeouts": lambda: more("timeouts"), "saves": lambda: more("saves", outcome="done"),
    }  # fmt: skip
    assert not any(count() for count in counted_now.values())

    def fail() -> None:
        raise ValueError

    with CheckpointWriter(tmp_path / "j.jsonl") as writer, ThreadPoolExecutor(2, checkpoint=writer) as pool:
        futures = [pool.with_options(key=n).submit(abs, n) for n in range(5)]
        futures.append(pool.submit(fail))
        futures.append(pool.with_options(timeout=0.1).submit(gate.wait))
        for future in futures:
            future.exception()
    assert {name: count() for name, count in counted_now.items()} == {
        "done": 5, "failed": 1, "timeout": 1, "durations": 7, "timeouts": 1, "saves": 5
    }  # fmt: skip


def test_interrupts_and_abandoned_threads_are_counted(more, stuck):
    interrupts, abandoned = (lambda: more("interrupts")), (lambda: more("abandoned"))
    assert interrupts() == abandoned() == 0
    with ThreadPoolExecutor(1, task_timeout=LONG, grace=0.1) as pool:
        assert isinstance(pool.submit(stuck).exception(), TimeoutError)
        assert pool._crew.events.flush(LONG)
        assert (interrupts(), abandoned()) == (1, 1)


def test_llm_calls_are_counted_with_their_errors(more, fake_llm):
    done, failed = (lambda: more("llm_calls", outcome="done")), (lambda: more("llm_calls", outcome="failed"))
    assert done() == failed() == more("llm_call.duration") == 0
    server = fake_llm(mix={"good": 1}, minute=1.0)
    with openai.OpenAI(base_url=server.base_url, api_key=SECRET, max_retries=0) as client:
        message: Any = {"role": "user", "content": "case task-1\nRequired tools: a"}
        client.chat.completions.create(model="m", messages=[message])
        with pytest.raises(openai.APIConnectionError):
            client.with_options(base_url="http://127.0.0.1:1/v1").chat.completions.create(model="m", messages=[message])
    assert (done(), failed()) == (1, 1)
    assert more("llm_call.duration") == 2
    assert SECRET not in str(_reader.get_metrics_data())


def test_uninstall_ends_it_and_install_begins_anew():
    threadsafe_timeout.uninstall()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
    assert not spans()
    threadsafe_timeout.install(checkpoint="off")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
    assert list(spans()) == ["task abs"]


def test_a_program_that_does_not_use_opentelemetry_does_not_load_it():
    script = (
        "import sys, threadsafe_timeout.auto\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(1) as pool: pool.submit(abs, 1).result()\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
