"""OpenTelemetry: a span for each task of a pool, and the figures of a run as metrics.

This patch changes nothing in OpenTelemetry. It is applied when the program imports `opentelemetry.trace` or
`opentelemetry.metrics`, and tells them from then on what happens. A program that does not use OpenTelemetry does not
load it. Where the figures go is set up by the program, before or after.

- A span begins when its task starts, as a child of the span that was current at `submit`. It is current inside the
  task, so the spans of an instrumented LLM client are its children. It ends when the future has its outcome: for an
  abandoned task that is before its thread returns.
- Spans and metrics have no arguments, results or texts of errors, which may hold anything: only a task's function, its
  error's type, and where in the program it was.

The names are listed in docs/logging.md.
"""

from __future__ import annotations

import threading
from contextvars import Context
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._environment.distributions import version_of
from threadsafe_timeout._errors import DeadlineExceeded, LoopDetected
from threadsafe_timeout._introspection.names import name_of
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._pool import observer as _observer

if TYPE_CHECKING:
    from threadsafe_timeout._pool.events import Event
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("opentelemetry.metrics", "opentelemetry.trace")
SUPPORTED = {"opentelemetry-api": ">=1.24,<2"}

_PREFIX = "threadsafe_timeout"
_VERSION = version_of("threadsafe-timeout")  # here: `apply` is to import nothing, and this may


def apply(module: ModuleType, patching: Patching) -> None:
    makes = {"opentelemetry.metrics": _Metrics, "opentelemetry.trace": _Spans}[module.__name__]
    one = makes(module, _VERSION)
    _observer.attach(one)
    patching.on_uninstall(lambda: _observer.detach(one))


class _Metrics:
    """What happens, counted. Everything here is called under no lock of the pool."""

    def __init__(self, metrics: Any, library: str | None) -> None:
        meter = metrics.get_meter(_PREFIX, library)

        def counter(name: str, description: str) -> Any:
            return meter.create_counter(f"{_PREFIX}.{name}", unit="1", description=description)

        def seconds(name: str, description: str) -> Any:
            return meter.create_histogram(f"{_PREFIX}.{name}", unit="s", description=description)

        self._tasks = counter("tasks", "Tasks of pools that have an outcome")
        self._task_seconds = seconds("task.duration", "From the start of a task to its outcome")
        self._timeouts = counter("timeouts", "Tasks that a deadline ended")
        self._loops = counter("loops", "Loops of conversations that a guard ended")
        self._of_kind = {
            "interrupting": counter("interrupts", "Tasks that had to be interrupted"),
            "abandoned": counter("abandoned", "Tasks whose thread was given up"),
            "loop": self._loops,
        }
        self._saves = counter("saves", "Results saved in a journal")
        self._save_seconds = seconds("save.duration", "What it took until a result was on disk")
        self._llm_calls = counter("llm_calls", "Calls of LLM clients")
        self._llm_seconds = seconds("llm_call.duration", "From the call of an LLM client until it returned")

    def ending(self, task: TaskFuture | AsyncTask, error: BaseException | None) -> _Counted:
        return _Counted(self, task._crew.prefix, task.elapsed())

    def count(self, pool: str, took: float, error: BaseException | None) -> None:
        attributes = {"pool": pool, "outcome": _outcome(error)}
        self._tasks.add(1, attributes)
        self._task_seconds.record(took, attributes)
        if isinstance(error, DeadlineExceeded):
            self._timeouts.add(1, {"pool": pool})

    def told(self, event: Event) -> None:
        counter = self._of_kind.get(event.kind)
        if counter is not None:
            counter.add(1, {"pool": event.pool})

    def saved(self, took: float, problem: BaseException | None) -> None:
        attributes = {"outcome": _outcome(problem)}
        self._saves.add(1, attributes)
        self._save_seconds.record(took, attributes)

    def llm_called(self, took: float, error: BaseException | None) -> None:
        attributes = {"outcome": _outcome(error)}
        if error is not None:
            attributes["error.type"] = type(error).__qualname__
        self._llm_calls.add(1, attributes)
        self._llm_seconds.record(took, attributes)


class _Spans:
    """A span for each task."""

    def __init__(self, trace: Any, library: str | None) -> None:
        from opentelemetry import context  # `opentelemetry.trace` has imported it

        self._trace, self._context = trace, context
        self._tracer = trace.get_tracer(_PREFIX, library)
        self._lock = threading.Lock()
        self._open: dict[int, Any] = {}  # spans by the id of their task, which lives until `ending`; guarded by _lock

    def starting(self, task: TaskFuture | AsyncTask, context: Context) -> None:
        try:
            context.run(self._begin, task)
        except RuntimeError:  # the context is in use: so will the task find it, and fail
            pass

    def _begin(self, task: TaskFuture | AsyncTask) -> None:
        # Nobody takes it out of the context again: that is the task's own copy.
        assert task._call is not None
        _, function, args, _ = task._call
        name = name_of(function, args)
        span = self._tracer.start_span(
            f"task {name}", attributes={f"{_PREFIX}.pool": task._crew.prefix, "code.function.name": name}
        )
        self._context.attach(self._trace.set_span_in_context(span))
        with self._lock:
            before = self._open.pop(id(task), None)  # its worker died, and it is run again
            self._open[id(task)] = span
        if before is not None:
            before.end()

    def ending(self, task: TaskFuture | AsyncTask, error: BaseException | None) -> _Ended | None:
        with self._lock:
            span = self._open.pop(id(task), None)
        return None if span is None else _Ended(span, self._trace.StatusCode.ERROR)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A task that is about to have its outcome, for the figures."""

    metrics: _Metrics
    pool: str
    took: float

    def finished(self, error: BaseException | None) -> None:
        self.metrics.count(self.pool, self.took, error)


@dataclass(frozen=True, slots=True)
class _Ended:
    """The same, for its span."""

    span: Any
    failed: Any

    def finished(self, error: BaseException | None) -> None:
        span = self.span
        span.set_attribute(f"{_PREFIX}.outcome", _outcome(error))
        if error is not None:
            kind = type(error).__qualname__
            span.set_attribute("error.type", kind)
            where = place_of(error)
            if where is not None:
                span.set_attribute("code.file.path", where[0])
                span.set_attribute("code.line.number", where[1])
            span.set_status(self.failed, kind)
        span.end()


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "done"
    if isinstance(error, LoopDetected):
        return "loop"
    return "timeout" if isinstance(error, DeadlineExceeded) else "failed"
