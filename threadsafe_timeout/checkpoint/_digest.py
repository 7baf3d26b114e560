"""A digest of a value that is the same in every process: see `_call`."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import hashlib
import json
import weakref
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from threadsafe_timeout.checkpoint._values import is_plain

__all__ = ["Digester"]

_DEEPEST = 100  # objects in objects
_MOST = 200_000  # parts of one argument that is not plain data: more are the program itself, which it has a way to
# What has no meaning for a result, whatever it is given to: nobody needs to hear that it does not count.
_NEUTRAL = frozenset({
    "_asyncio", "_contextvars", "_io", "_queue", "_thread", "_weakref", "asyncio", "concurrent", "contextvars", "io",
    "logging", "multiprocessing", "queue", "threading", "weakref",
})  # fmt: skip
_SCALARS = frozenset({str, bytes, int, float, bool, type(None)})  # whose `repr` says all
_Known = tuple[bytes | None, dict[str, str], str | None, int]  # its digest, and what a `Digester` adds up

_encode = json.JSONEncoder(sort_keys=True, check_circular=False, separators=(",", ":")).encode


class _Open(Exception):
    """A value, or a part of it, has no stable fingerprint."""

    def __init__(self, where: str, kind: type) -> None:
        self.where = where
        self.kind = kind


class Digester:
    """The digests of what belongs to one call.

    - `left_out`: what has no fingerprint, by where it is: its type. Without locks and their like
    - `open`: one of those, or one of their like; None if all of it has a fingerprint
    - `told`: how many values have been looked at that tell one call from another
    """

    # What is known of objects that live: a reference, which takes it out when one dies, and the outcome.
    _known: dict[int, tuple[weakref.ref[Any], _Known]] = {}  # noqa: RUF012  # shared on purpose

    def __init__(self, is_own: Callable[[str], bool], *, anew: bool = False) -> None:
        self.left_out: dict[str, str] = {}
        self.open: str | None = None
        self.told = 0
        self._is_own = is_own
        self._anew = anew
        self._path: set[int] = set()  # what is being looked at: a value may contain itself
        self._circle = False
        self._strict = False  # in a library's object: if a part of it is open, all of it is
        self._parts = 0

    @staticmethod
    def joined(kind: bytes, *parts: bytes) -> bytes:
        made = hashlib.blake2b(kind, digest_size=12)
        for part in parts:
            made.update(b"%d:" % len(part))
            made.update(part)
        return made.digest()

    def of(self, where: str, value: Any) -> bytes:
        """The digest of a value that is called `where`; of one that is left out, that of its type."""
        self._parts = 0
        return self._of(value, where)

    def _of(self, value: Any, where: str) -> bytes:
        try:
            return self._closed(value, where)
        except _Open as found:
            if self._strict:
                raise
            kind = found.kind
            module = kind.__module__ if isinstance(kind.__module__, str) else ""
            name = f"{module}.{kind.__qualname__}".removeprefix("builtins.")
            self.open = self.open or f"{found.where or 'its function'} is {name}"
            if module.partition(".")[0] not in _NEUTRAL:
                self.left_out[found.where] = name
            return self.joined(b"open", module.encode(), kind.__qualname__.encode())

    def _closed(self, value: Any, where: str) -> bytes:
        kind = type(value)
        if kind is str:
            self.told += 1
            return self.joined(b"str", value.encode("utf-8", "surrogatepass"))
        if value is None or kind in (bool, int, float, complex):
            self.told += 1
            return self.joined(kind.__name__.encode(), _number(value))
        if kind in (bytes, bytearray, memoryview):
            self.told += 1
            return self.joined(b"bytes", bytes(value))
        if kind is dict or kind is list:
            try:
                text = _encode(value)
                if is_plain(value):
                    self.told += 1
                    return self.joined(b"plain", text.encode("utf-8", "surrogatepass"))
            except (TypeError, ValueError, RecursionError):
                pass
        return self._inside(value, kind, where)

    def _inside(self, value: Any, kind: type, where: str) -> bytes:
        self._parts += 1
        if id(value) in self._path:
            self._circle = True
            return self.joined(b"circle")
        if len(self._path) > _DEEPEST or self._parts > _MOST:
            raise _Open(where, kind)
        self._path.add(id(value))
        try:
            if kind in (list, tuple):
                if set(map(type, value)) <= _SCALARS:
                    with contextlib.suppress(ValueError):  # an int of thousands of digits
                        self.told += bool(value)
                        return self.joined(b"flat", repr(value).encode())
                parts = [self._of(item, f"{where}[{place}]") for place, item in enumerate(value)]
                return self.joined(kind.__name__.encode(), *parts)
            if kind in (set, frozenset):
                return self.joined(kind.__name__.encode(), *sorted(self._of(item, where) for item in value))
            if kind is dict:
                return self._pairs(value.items(), where, "[{!r}]")
            return self._named_or_object(value, kind, where)
        finally:
            self._path.discard(id(value))

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], where: str, form: str) -> bytes:
        """Without their order."""
        digests = [
            self._of(key, where) + self._of(item, where + form.format(key) if type(key) is str else where)
            for key, item in pairs
        ]  # fmt: skip
        return self.joined(b"dict", *sorted(digests))

    def _named_or_object(self, value: Any, kind: type, where: str) -> bytes:
        if isinstance(value, type):
            self.told += 1
            return self._name(b"class", value)
        if kind is ModuleType:
            self.told += 1
            return self.joined(b"module", value.__name__.encode())
        if kind is MethodType:
            owner = "self" if not where else f"{where}.__self__"
            return self.joined(b"method", self._of(value.__func__, where), self._of(value.__self__, owner))
        if kind is functools.partial:
            parts = [self._of(part, where) for part in (value.func, value.args, value.keywords or ())]
            return self.joined(b"partial", *parts)
        if kind is BuiltinFunctionType and (value.__self__ is None or type(value.__self__) is ModuleType):
            return self._name(b"function", value)
        return self._remembered(value, kind, where)

    def _name(self, kind: bytes, value: Any) -> bytes:
        return self.joined(kind, str(value.__module__).encode(), value.__qualname__.encode())

    # Objects

    def _remembered(self, value: Any, kind: type, where: str) -> bytes:
        """Its digest, as it was when it first came."""
        if kind is not FunctionType and not hasattr(value, "__dict__"):
            return self._object(value, kind, where)
        known = None if self._anew else self._known.get(id(value))
        found = known[1] if known is not None and known[0]() is value else self._look(value, kind, where)
        digest, left_out, opened, told = found
        if digest is None:
            raise _Open(where, kind)
        self.left_out |= left_out
        self.open = self.open or opened
        self.told += told
        return digest

    def _look(self, value: Any, kind: type, where: str) -> _Known:
        inner = Digester(self._is_own, anew=self._anew)
        inner._path, inner._strict, inner._parts = self._path, self._strict, self._parts
        digest: bytes | None = None
        with contextlib.suppress(_Open):
            digest = inner._function(value, where) if kind is FunctionType else inner._object(value, kind, where)
        self._parts = inner._parts
        self._circle = self._circle or inner._circle
        found = digest, inner.left_out, inner.open, inner.told
        of_itself = len(self._path) == 1 or not inner._circle  # and not of where it is met: a circle is within it
        if not self._anew and of_itself and not (digest is None and kind is FunctionType):
            with contextlib.suppress(TypeError):  # there are no references to it
                reference = weakref.ref(value, functools.partial(_forget, self._known, id(value)))
                self._known[id(value)] = reference, found
        return found

    def _function(self, function: FunctionType, where: str) -> bytes:
        code, quiet = function.__code__, not self._is_own(str(function.__module__))
        parts = [self._name(b"function", function)]
        if function.__name__ == "<lambda>":  # several may have the same name
            parts.append(self._code(code))
        left_out, opened = dict(self.left_out), self.open
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                parts.append(self._of(cell.cell_contents, f"{where}.{name}".lstrip(".")))
            except ValueError:  # empty
                parts.append(b"empty")
        parts += [self._of(one or (), where) for one in (function.__defaults__, function.__kwdefaults__)]
        inner = function.__dict__.get("__wrapped__")
        if inner is not None:
            parts.append(self._of(inner, where))
        if quiet:  # what a library's decorator keeps for itself
            self.left_out, self.open = left_out, opened
        return self.joined(b"function", *parts)

    def _code(self, code: Any) -> bytes:
        parts = [self._code(one) if type(one) is CodeType else _constant(one) for one in code.co_consts]
        return self.joined(b"code", code.co_code, " ".join(code.co_names).encode(), *parts)

    def _object(self, value: Any, kind: type, where: str) -> bytes:
        own = isinstance(kind.__module__, str) and self._is_own(kind.__module__)
        strict, self._strict = self._strict, not own
        try:
            return self._reduced(value, kind, where, own)
        except _Open as found:
            if own:  # too deep in it, or too much
                raise
            raise _Open(where, kind) from found
        finally:
            self._strict = strict

    def _reduced(self, value: Any, kind: type, where: str, own: bool) -> bytes:
        parts = [self._name(b"object", kind)]
        try:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except Exception:  # what cannot be pickled raises what it likes
            if not own or not hasattr(value, "__dict__"):
                raise _Open(where, kind) from None
            reduced = copyreg.__newobj__, (kind,), vars(value)  # type: ignore[attr-defined]  # known to pickle, not to typeshed
        if isinstance(reduced, str):
            return self.joined(b"global", reduced.encode(), *parts)
        make, args, state, items, pairs = (*reduced, None, None, None)[:5]
        told = self.told
        parts += [self._of(make, where), self._of(args, where)]
        if make is copyreg.__newobj__ and len(args) == 1:  # type: ignore[attr-defined]  # as above
            self.told = told  # only its class
        parts.append(self._state(() if state is None else state, where))
        parts += [self._of(item, where) for item in items or ()]
        parts.append(self._pairs(pairs or (), where, "[{!r}]"))
        return self.joined(b"object", *parts)

    def _state(self, state: Any, where: str) -> bytes:
        form = "{}" if not where else ".{}"
        if type(state) is dict:
            return self._pairs(state.items(), where, form)
        if type(state) is tuple and len(state) == 2 and type(state[1]) is dict and type(state[0]) in (dict, type(None)):
            return self.joined(b"slots", *(self._pairs((one or {}).items(), where, form) for one in state))
        return self._of(state, where)


def _forget(known: dict[int, Any], ident: int, reference: weakref.ref[Any]) -> None:
    found = known.get(ident)
    if found is not None and found[0] is reference:
        known.pop(ident, None)


def _number(value: Any) -> bytes:
    return hex(value).encode() if type(value) is int else repr(value).encode()


def _constant(value: Any) -> bytes:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value).encode("utf-8", "surrogatepass")
