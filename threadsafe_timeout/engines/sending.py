"""What travels between a program and the process of a task: packed as bytes; and the name of what cannot be."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from threadsafe_timeout._errors import CannotBeSent, MissingExtraError

__all__ = ["Made", "check_extra", "pack", "pack_call", "traceback_of"]

_DEPTH = 12  # attributes of attributes that are looked through for a name


class Remote(Exception):
    """The traceback of the process, as the cause of an error that was raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def traceback_of(error: BaseException, text: str) -> BaseException:
    """`error`, with the traceback that it had in the process as its cause, as `concurrent.futures` does it."""
    error.__cause__ = Remote(f'\n"""\n{text}"""')
    return error


class Made:
    """A function that cannot travel, to be made anew by `factory` where it is called."""

    def __init__(self, factory: Callable[[str], Callable[..., Any]] | str, name: str) -> None:
        self._factory = factory
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        factory = self._factory
        if isinstance(factory, str):
            module, _, attribute = factory.partition(":")
            factory = getattr(importlib.import_module(module), attribute)
        function = factory(self._name)
        if not callable(function):
            raise TypeError(f"task_factory must return a function for {self._name!r}, got {function!r}")
        return function(*args, **kwargs)


def check_extra() -> None:
    for name in ("pebble", "cloudpickle"):
        try:
            __import__(name)
        except ImportError as error:
            raise MissingExtraError('isolate="process"', "process", name) from error


def pack(value: object, *, far: bool = False) -> bytes:
    """By reference where that will do, as `multiprocessing` does it; else by value. `far`: for a process that does not
    have the program's main module."""
    import cloudpickle  # type: ignore[import-untyped]

    if not far and _main_can_be_imported():
        try:
            return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception:  # a lambda, a closure; or what cannot be sent at all, which the next line finds out
            pass
    packed: bytes = cloudpickle.dumps(value)
    return packed


def _main_can_be_imported() -> bool:
    """Whether the process has the program's main module: not that of `-c`, of stdin, of a notebook."""
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:
        return True
    return os.path.isfile(getattr(main, "__file__", None) or "")


def pack_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *,
    factory: Callable[[str], Callable[..., Any]] | str | None = None, far: bool = False,
) -> bytes:  # fmt: skip
    """Raises CannotBeSent, which names the part of an argument that cannot be sent. A function that cannot is made
    there by `factory`, if there is one."""
    try:
        return pack((function, args, dict(kwargs)), far=far)
    except Exception as exc:
        if factory is not None and _culprit("function", function, 0) is not None:
            name = getattr(function, "__qualname__", None) or type(function).__qualname__
            return pack_call(Made(factory, name), args, kwargs, far=far)
        for name, value in [*_named(function, args, kwargs), ("function", function)]:
            culprit = _culprit(name, value, _DEPTH)
            if culprit is not None:
                raise CannotBeSent(*culprit) from exc
        raise CannotBeSent("function", type(function).__qualname__) from exc


def _named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
        return list(bound.arguments.items())
    except (TypeError, ValueError):
        return [*((f"args[{number}]", value) for number, value in enumerate(args)), *kwargs.items()]


def _culprit(name: str, value: object, depth: int) -> tuple[str, str] | None:
    """The innermost part of `value` that cannot be packed: its path and its type; None if all of it can."""
    try:
        pack(value)
        return None
    except Exception:  # what an object's own __reduce__ raises may be anything
        pass
    if depth:
        for path, part in _parts(name, value):
            found = _culprit(path, part, depth - 1)
            if found is not None:
                return found
    kind = type(value)
    return name, f"{kind.__module__}.{kind.__qualname__}"


def _parts(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"{name}[{number}]", part) for number, part in enumerate(value))
    elif inspect.ismethod(value):
        yield f"{name}.__self__", value.__self__
    elif inspect.isfunction(value):
        found = inspect.getclosurevars(value)
        yield from ((f"{name}: {key}", part) for key, part in {**found.nonlocals, **found.globals}.items())
    else:
        yield from ((f"{name}.{key}", part) for key, part in getattr(value, "__dict__", {}).items())
