"""`@checkpointed`: a function whose results are saved, and returned from the file the next time."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint._fingerprint import task_fingerprint
from threadsafe_timeout.checkpoint._format import POISON, Key
from threadsafe_timeout.checkpoint._records import Record, types_by_name
from threadsafe_timeout.checkpoint._run import Resume, check_resume, check_retry, open_run
from threadsafe_timeout.checkpoint._values import RecordedError
from threadsafe_timeout.checkpoint._writer import CheckpointWriter, Mode

if TYPE_CHECKING:
    from threadsafe_timeout._pool.options import Outcome
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["SAVING", "CheckpointedFunction", "OneOutcome", "checkpointed", "status_of"]

log = logging.getLogger("threadsafe_timeout.checkpoint")
SAVING = 60.0  # seconds a call that was cancelled has to save that: for a lock that is held, a slow disk

P = ParamSpec("P")
R = TypeVar("R")


def checkpointed(
    path: str | os.PathLike[str],
    key: Callable[..., Key] | None = None,
    *,
    config: object = None,
    resume: Resume = "always",
    retry: Collection[str] | None = None,
    lock_timeout: float = 30.0,
    mode: Mode = "durable",
    default: Callable[[Any], Any] | None = None,
    types: Iterable[type] = (),
) -> Callable[[Callable[P, R]], CheckpointedFunction[P, R]]:
    """Save the results of a function. A call whose key is `done` returns the saved result without running the function.

        @checkpointed("answers.jsonl", key=lambda question: question.id)
        def answer(question): ...

    `key` is called with the function's arguments. Without it, the key is a fingerprint of all arguments, defaults
    included. Equal calls have one result; calls that run at the same time each run.

    A call that raises is saved as `failed` (a TimeoutError as `timeout`) with the exception's text, and runs again the
    next time, unless `retry` leaves out that status: then the saved exception is raised as a `RecordedError`. If a
    scope cancels a call, or a pool gives its task up, the call is saved as `timeout`, before the task's future is done.

    The first call opens the journal; `.close()` closes it, and `.writer` is the open `CheckpointWriter`. `types` are
    the classes that results may contain. The other arguments are those of `open_run`.

    A decorated `async def` is one still. Its event loop does not wait for the disk: threads do, until `.close()`. A
    call that an asyncio cancellation from outside ends (not that of a scope) is not saved, and runs again.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(
            f"@checkpointed needs the path of its journal, as in @checkpointed('results.jsonl'); it got {path!r}"
        )
    known = types_by_name(types)
    check_retry(retry)
    CheckpointWriter.check(mode, lock_timeout, key, default)
    check_resume(resume)

    def decorate(function: Callable[P, R]) -> CheckpointedFunction[P, R]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"@checkpointed: {function.__qualname__} is a generator; wrap what consumes it")

        def open_journal() -> tuple[CheckpointWriter, dict[Key, Record]]:
            return open_run(
                path, config=config, resume=resume, retry=retry, lock_timeout=lock_timeout, mode=mode,
                default=default, types=known.values(),
            )  # fmt: skip

        make: type[CheckpointedFunction[P, R]] = CheckpointedFunction
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
            from threadsafe_timeout.checkpoint._coroutine import CheckpointedCoroutine

            make = CheckpointedCoroutine
        return make(function, open_journal, key or functools.partial(_call_key, function), known)

    return decorate


def _call_key(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return task_fingerprint(dict(bound.arguments))


class OneOutcome:
    """The one outcome of a call that is saved: its own, or that it was given up on."""

    def __init__(self, writer: CheckpointWriter, key: Key) -> None:
        self._writer = writer
        self._key = key
        self._lock = threading.Lock()
        self._saving = False  # guarded by _lock
        self._over = threading.Event()  # it is on disk, or could not be saved
        self._task: TaskFuture | None = None

    def _begin(self) -> None:
        if _around.current_scope() is not None:
            from threadsafe_timeout._pool.task import current_task

            self._task = current_task()
        if self._task is not None:  # if it is stuck and given up, who settles it saves that
            self._task.add_witness(self._given_up)

    def _end(self) -> None:
        if self._task is not None:
            self._task.remove_witness(self._given_up)

    def _save(self, outcome: object, status: str) -> bytes | None:
        """Save it, and return its line; None if another outcome is saved, or is being saved."""
        with self._lock:
            if self._saving:
                return None
            self._saving = True
        try:
            return self._writer.save_line(self._key, outcome, status)
        finally:
            self._over.set()

    def _given_up(self, outcome: Outcome) -> None:
        try:
            error = outcome.error
            if error is not None and self._save(error, status_of(error)) is None:
                self._over.wait(SAVING)  # by its own thread, which was given up in the middle of it
        except Exception:
            log.exception("%s: that %r was given up could not be saved", self._writer.path, self._key)

    def _timed_out(self, scope: CancelScope, exc: BaseException) -> DeadlineExceeded:
        elapsed = None if scope._state == _around.NEW else _clock.monotonic() - scope._entered_at
        return DeadlineExceeded(scope.name or str(self._key), scope._budget, elapsed, scope.reason, place_of(exc))


class _Call(OneOutcome):
    """One call of a function.

    What is to be done at its end is done in `__exit__`, which the interrupt leaves alone.
    """

    result: Any = None
    line: bytes | None = None  # the journal's, once a result of its own is saved

    def __enter__(self) -> _Call:
        self._begin()
        try:
            self._writer.started(self._key)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: object) -> None:
        try:
            # In a scope that is cancelled the record is to be on disk all the same.
            with _shield.shield(SAVING) if _around.current_scope() is not None else contextlib.nullcontext():
                if exc is None:
                    self.line = self._save(self.result, "done")
                elif isinstance(exc, Cancelled):
                    self._save(self._timed_out(exc.scope, exc), "timeout")
                elif isinstance(exc, Exception):
                    self._save(exc, status_of(exc))
        finally:  # not before: who gives the task up meanwhile waits for this record
            self._end()


def status_of(error: BaseException) -> str:
    return "timeout" if isinstance(error, TimeoutError) else "failed"


class CheckpointedFunction(Generic[P, R]):
    """A function decorated with `@checkpointed`. Any number of threads may call it."""

    def __init__(
        self,
        function: Callable[P, R],
        open_journal: Callable[[], tuple[CheckpointWriter, dict[Key, Record]]],
        key: Callable[..., Key],
        types: dict[str, type],
    ) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self._open_journal = open_journal
        self._key = key
        self._types = types
        self._lock = threading.Lock()  # guards the two below
        self._writer: CheckpointWriter | None = None
        self._finished: dict[Key, Record] = {}

    @property
    def writer(self) -> CheckpointWriter:
        """The writer of the journal. The first access opens the journal."""
        with self._lock:
            if self._writer is None:
                self._writer, finished = self._open_journal()
                # Not those whose call is refused, by `started`.
                self._finished = {key: record for key, record in finished.items() if record.status != POISON}
            return self._writer

    def close(self, *, ended: bool = True) -> None:
        """Close the journal, by default as a run that ended. The next call of the function opens it again."""
        with self._lock:
            writer, self._writer, self._finished = self._writer, None, {}
        if writer is not None:
            writer.close(ended=ended)

    @transparent  # to the interrupt: it calls the user's function, behind a `with`
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = self._key(*args, **kwargs)
        writer = self.writer
        saved = self._finished.get(key)
        if saved is not None:
            return self._replay(saved)
        with _Call(writer, key) as call:
            call.result = self.__wrapped__(*args, **kwargs)
        if call.line is not None:
            self._remember(writer, key, call.line)
        result: R = call.result
        return result

    def _remember(self, writer: CheckpointWriter, key: Key, line: bytes) -> None:
        record = Record.of_line(line, self._types)
        with self._lock:
            if self._writer is writer:
                self._finished[key] = record

    def _replay(self, saved: Record) -> R:
        result = saved.result
        if saved.status != "done" and isinstance(result, RecordedError):
            raise result
        value: R = result
        return value

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)
