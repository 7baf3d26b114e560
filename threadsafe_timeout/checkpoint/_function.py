"""`@checkpointed`: a function whose results are saved, and returned from the file the next time."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Collection, Iterable
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar

from threadsafe_timeout.checkpoint._fingerprint import task_fingerprint
from threadsafe_timeout.checkpoint._format import Key
from threadsafe_timeout.checkpoint._records import Record, types_by_name
from threadsafe_timeout.checkpoint._run import Resume, open_run
from threadsafe_timeout.checkpoint._values import RecordedError
from threadsafe_timeout.checkpoint._writer import CheckpointWriter, Mode

__all__ = ["CheckpointedFunction", "checkpointed"]

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
    """Save what the function returns; a call with a key that is `done` returns the saved result without running it.

        @checkpointed("answers.jsonl", key=lambda question: question.id)
        def answer(question): ...

    `key` is called with the function's arguments; without it, the key is a fingerprint of all of them (defaults
    filled in). A call that raises is saved as `failed` (a `TimeoutError` as `timeout`) with the exception's text, and
    runs again the next time, unless `retry` leaves that status out: then the saved exception is raised as a
    `RecordedError`. Equal calls are one result; calls that run at the same time each run.

    The journal is opened at the first call. `.close()` ends it, `.writer` is the open `CheckpointWriter`. The other
    arguments are those of `open_run`; `types` are the classes that results may hold. Not for `async def`.
    """

    known = types_by_name(types)

    def decorate(function: Callable[P, R]) -> CheckpointedFunction[P, R]:
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"@checkpointed: {function.__qualname__} is async or a generator; wrap what it returns")

        def open_journal() -> tuple[CheckpointWriter, dict[Key, Record]]:
            return open_run(
                path, config=config, resume=resume, retry=retry, lock_timeout=lock_timeout, mode=mode,
                default=default, types=known.values(),
            )  # fmt: skip

        return CheckpointedFunction(function, open_journal, key or functools.partial(_call_key, function), known)

    return decorate


def _call_key(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return task_fingerprint(dict(bound.arguments))


class CheckpointedFunction(Generic[P, R]):
    """What `@checkpointed` makes of a function. Safe to call from many threads."""

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
        """The open journal; opens it if need be."""
        with self._lock:
            if self._writer is None:
                self._writer, self._finished = self._open_journal()
            return self._writer

    def close(self, *, ended: bool = True) -> None:
        """Close the journal, by default as a run that ended. The next call opens it again."""
        with self._lock:
            writer, self._writer, self._finished = self._writer, None, {}
        if writer is not None:
            writer.close(ended=ended)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = self._key(*args, **kwargs)
        writer = self.writer
        saved = self._finished.get(key)
        if saved is not None:
            return self._replay(saved)
        writer.started(key)
        try:
            result = self.__wrapped__(*args, **kwargs)
        except Exception as error:
            writer.save(key, error, status="timeout" if isinstance(error, TimeoutError) else "failed")
            raise
        record = Record.of_line(writer.save_line(key, result), self._types)
        with self._lock:
            if self._writer is writer:
                self._finished[key] = record
        return result

    def _replay(self, saved: Record) -> R:
        result = saved.result
        if saved.status != "done" and isinstance(result, RecordedError):
            raise result
        value: R = result
        return value

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)
