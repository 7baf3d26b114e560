"""Results to JSON and back.

Plain JSON data is written as it is. Everything else that has a documented rule becomes an object tagged `"$type"`
(readable with jq, and turned back when loaded); whatever has no rule is refused, named by its path inside the value.

The common case must be cheap, for it runs before every durable save: the C encoder first, then one pass that only
looks. (The C encoder alone is not enough: it silently writes `{1: a, "1": b}` as an object with a key twice.)
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import sys
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from threadsafe_timeout.checkpoint._errors import UnserializableResult

__all__ = ["RecordedError", "class_name", "dumps", "is_plain", "json_text", "loads", "one_line", "plain_json"]

TAG = "$type"
# Above this Python itself refuses to write an int in decimal (sys.set_int_max_str_digits), so it is written in hex.
_BIG = 10**4000
# The json module's own limit is the recursion limit; a value that contains itself is far more likely than this depth.
_DEEPEST = 200

# Without check_circular a cycle is a RecursionError, which is as good, and each call is cheaper.
json_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_LINE_ENDS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))

_NAMES = frozenset({str})
_SCALARS = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list})
_PLAIN = _SCALARS | _CONTAINERS

Default = Callable[[Any], Any]


class RecordedError(Exception):
    """An exception as it was saved: its class by name, its message, and its traceback as text. Never unpickled."""

    def __init__(self, class_name: str, message: str, traceback: str = "") -> None:
        super().__init__(class_name, message, traceback)
        self.class_name = class_name
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.class_name}: {self.message}"


class _Refused(Exception):  # never leaves this module: it carries the path up while unwinding
    def __init__(self, value: object, reason: str) -> None:
        super().__init__(reason)
        self.type_name = class_name(type(value))
        self.reason = reason
        self.steps: list[str] = []


def class_name(cls: type) -> str:
    """`module.qualified.name`, the name a class is saved and looked up under."""
    return f"{cls.__module__}.{cls.__qualname__}"


def dumps(value: object, default: Default | None = None, name: str = "result") -> bytes:
    """`value` as one line of JSON in UTF-8. Raises `UnserializableResult` naming the place inside `value`."""
    try:
        text = json_text(value)
        if is_plain(value):
            return _to_bytes(text, value)
    except (TypeError, ValueError, RecursionError):
        pass  # a value that needs converting, a NaN, a cycle: the slow way converts it or names it
    try:
        converted = _convert(value, default, 0)
    except _Refused as refused:
        where = name + "".join(reversed(refused.steps[-20:]))
        raise UnserializableResult(where, refused.type_name, refused.reason) from None
    return _to_bytes(json_text(converted), converted)


def plain_json(value: object) -> bytes:
    """What `Record.plain()` gives, tags and all, as one line of JSON in UTF-8."""
    return _to_bytes(json_text(value), value)


def _to_bytes(text: str, value: object) -> bytes:
    if not text.isascii():
        text = one_line(text)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: written as an escape, which JSON allows and Python reads back
        return _encode_ascii(value).encode()


def one_line(text: str) -> str:
    """JSON text without what ends a line for `str.splitlines` and its like in other languages, and not for JSON. (All
    other such characters JSON has to escape anyway.) Outside its strings JSON has none of these."""
    for raw, escaped in _LINE_ENDS:
        text = text.replace(raw, escaped)
    return text


def is_plain(value: object) -> bool:
    """Whether `value`, which the encoder accepted, comes back equal. Looks at types only, mostly in C; no copies."""
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is dict:
            if TAG in item or not set(map(type, item)) <= _NAMES:
                return False
            item = item.values()
        elif kind is not list:
            return kind in _SCALARS  # only the value itself is put here without being looked at
        kinds = set(map(type, item))
        if not kinds <= _SCALARS:
            if not kinds <= _PLAIN:
                return False
            stack.extend([inner for inner in item if type(inner) in _CONTAINERS])
    return True


def _convert(value: Any, default: Default | None, depth: int) -> Any:
    if depth > _DEEPEST:
        raise _Refused(value, f"nested more than {_DEEPEST} deep, or contains itself")
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return value if -_BIG < value < _BIG else {TAG: "int", "value": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
    if kind is dict:
        return _convert_dict(value, default, depth)
    if kind is list:
        return _convert_items(value, default, depth)
    return _convert_other(value, default, depth)


def _convert_items(values: Iterable[Any], default: Default | None, depth: int) -> list[Any]:
    converted: list[Any] = []
    for index, item in enumerate(values):
        try:
            converted.append(_convert(item, default, depth + 1))
        except _Refused as refused:
            refused.steps.append(f"[{index}]")
            raise
    return converted


def _convert_fields(
    fields: Iterable[tuple[Any, Any]], default: Default | None, depth: int, attribute: bool = False
) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for name, item in fields:
        try:
            converted[name] = _convert(item, default, depth + 1)
        except _Refused as refused:
            refused.steps.append(f".{name}" if attribute else f"[{name!r}]")
            raise
    return converted


def _convert_dict(value: Mapping[Any, Any], default: Default | None, depth: int) -> dict[str, Any]:
    if TAG not in value and all(type(key) is str for key in value):
        return _convert_fields(value.items(), default, depth)
    pairs = []
    for key, item in value.items():
        try:
            pairs.append([_convert(key, default, depth + 1), _convert(item, default, depth + 1)])
        except _Refused as refused:
            refused.steps.append(f"[{key!r}]")
            raise
    return {TAG: "dict", "value": pairs}


def _convert_other(value: Any, default: Default | None, depth: int) -> Any:  # noqa: PLR0911  # a table of rules
    """The documented rules, most specific first: an IntEnum is an enum before it is an int."""
    if isinstance(value, enum.Enum):
        item = _convert_fields([("value", value.value)], default, depth, attribute=True)["value"]
        return {TAG: "enum", "class": class_name(type(value)), "name": value.name, "value": item}
    if isinstance(value, type):
        return _by_default(value, default, depth, "a class")
    if dataclasses.is_dataclass(value):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return _tagged_fields("dataclass", value, fields, default, depth)
    for convert in (_convert_builtin, _convert_numpy, _convert_pydantic):
        converted = convert(value, default, depth)
        if converted is not None:
            return converted
    if isinstance(value, Mapping):
        return _convert_dict(dict(value), default, depth)
    if isinstance(value, (list, deque, range)):
        return _convert_items(value, default, depth)
    return _by_default(value, default, depth, "there is no rule for it")


def _by_default(value: Any, default: Default | None, depth: int, reason: str) -> Any:
    if default is None:
        raise _Refused(value, reason)
    try:
        replacement = default(value)
    except Exception as error:
        raise _Refused(value, f"default= failed on it ({type(error).__name__}: {error})") from error
    if replacement is value:
        raise _Refused(value, "default= returned it unchanged")
    return _convert(replacement, default, depth + 1)


def _tagged_fields(
    tag: str, value: object, fields: Iterable[tuple[str, Any]], default: Default | None, depth: int
) -> dict[str, Any]:
    # Inline, so that jq '.result.score' reads the field; loading takes the tags out again.
    return {TAG: f"{tag}:{class_name(type(value))}", **_convert_fields(fields, default, depth, attribute=True)}


def _convert_builtin(value: Any, default: Default | None, depth: int) -> Any:  # noqa: PLR0911  # a table of rules
    if isinstance(value, BaseException):
        return _convert_exception(value)
    if isinstance(value, tuple):
        return {TAG: "tuple", "value": _convert_items(value, default, depth)}
    if isinstance(value, (set, frozenset)):
        items = sorted(_convert_items(value, default, depth), key=json_text)  # same set, same bytes
        return {TAG: "frozenset" if isinstance(value, frozenset) else "set", "value": items}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {TAG: "bytes", "value": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, datetime.datetime):
        return {TAG: "datetime", "value": value.isoformat()}
    if isinstance(value, datetime.date):
        return {TAG: "date", "value": value.isoformat()}
    if isinstance(value, datetime.time):
        return {TAG: "time", "value": value.isoformat()}
    if isinstance(value, datetime.timedelta):
        return {TAG: "timedelta", "value": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, pathlib.PurePath):
        return {TAG: "path", "value": str(value)}
    if isinstance(value, decimal.Decimal):
        return {TAG: "decimal", "value": str(value)}
    if isinstance(value, uuid.UUID):
        return {TAG: "uuid", "value": str(value)}
    if isinstance(value, complex) and type(value) is complex:
        return {TAG: "complex", "value": _convert_items((value.real, value.imag), default, depth)}
    return None


def _convert_exception(error: BaseException) -> dict[str, Any]:
    if isinstance(error, RecordedError):  # saved again after a resume: keep what it was, not that it was recorded
        name, message, text = error.class_name, error.message, error.traceback
    else:
        name = class_name(type(error))
        try:
            message = str(error)
        except Exception as problem:  # noqa: BLE001, RUF100  # a broken __str__ must not cost the record
            message = f"<__str__ failed: {type(problem).__name__}>"
        try:
            text = "".join(traceback.format_exception(error))
        except Exception as problem:  # noqa: BLE001, RUF100  # same for a broken __repr__ of a note or a group
            text = f"<traceback could not be formatted: {type(problem).__name__}>"
    return {TAG: "exception", "class": name, "message": message, "traceback": text}


def _convert_numpy(value: Any, default: Default | None, depth: int) -> Any:
    numpy = sys.modules.get("numpy")  # a numpy value cannot exist before numpy was imported
    if numpy is None or not isinstance(value, (numpy.generic, numpy.ndarray)):
        return _convert_subclass(value)
    dtype = value.dtype
    tag = "ndarray" if isinstance(value, numpy.ndarray) else "numpy"
    if dtype.kind in "Mm":
        data: Any = value.astype("int64").tolist()
    elif dtype.kind in "biufcSU" and dtype.str.lstrip("<>=|") not in ("f16", "c32"):
        data = value.tolist()
    elif dtype.kind == "O":
        return _convert_items(value.tolist(), default, depth) if value.ndim else _convert(value.item(), default, depth)
    else:
        return _by_default(value, default, depth, f"an array of {dtype} has no exact JSON form")
    encoded: dict[str, Any] = {TAG: tag, "dtype": dtype.str, "value": _convert(data, default, depth + 1)}
    if tag == "ndarray":
        encoded["shape"] = list(value.shape)  # nested lists alone cannot tell (0, 3) from (0,)
    return encoded


def _convert_subclass(value: Any) -> Any:
    """A str or number of a class of its own, such as a library's token type, as the plain one."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return _convert(int.__int__(value), None, 0)
    return _convert(float.__float__(value), None, 0) if isinstance(value, float) else None


def _convert_pydantic(value: Any, default: Default | None, depth: int) -> Any:
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not isinstance(value, pydantic.BaseModel):
        return None
    return _tagged_fields("pydantic", value, list(value), default, depth)


# --- and back ---------------------------------------------------------------------------------------------------


def loads(text: bytes, types: Mapping[str, type] | None = None) -> Any:
    """The value of `text`. Dataclasses, pydantic models and enums come back as such only if their class is in `types`.

    Classes are never imported by a name found in the file.
    """
    value = json.loads(text)
    return _revive(value, types or {}) if b'"$type"' in text else value


def _revive(value: Any, types: Mapping[str, type]) -> Any:  # noqa: PLR0911  # a table of rules
    if type(value) is list:
        return [_revive(item, types) for item in value]
    if type(value) is not dict:
        return value
    tag = value.get(TAG)
    if type(tag) is not str:
        return {name: _revive(item, types) for name, item in value.items()}
    kind, _, name = tag.partition(":")
    if name:
        fields = {field: _revive(item, types) for field, item in value.items() if field != TAG}
        return _rebuild(kind, types.get(name), fields)
    if kind == "exception":
        return RecordedError(value["class"], value["message"], value["traceback"])
    if kind == "enum":
        cls = types.get(value["class"])
        return _revive(value["value"], types) if cls is None else cls[value["name"]]  # type: ignore[index]  # an Enum class
    if kind in ("ndarray", "numpy"):
        return _revive_numpy(kind, value, _revive(value["value"], types))
    revive = _REVIVE.get(kind)
    if revive is None:  # a newer release's rule: the tagged form is better than nothing
        return {field: _revive(item, types) for field, item in value.items()}
    return revive(_revive(value["value"], types))


def _rebuild(kind: str, cls: Any, fields: dict[str, Any]) -> Any:
    if cls is None:
        return fields
    if kind == "pydantic":
        return cls.model_validate(fields)
    given = {field.name for field in dataclasses.fields(cls) if field.init}
    built = cls(**{name: item for name, item in fields.items() if name in given})
    for name, item in fields.items():  # what __post_init__ or later code set: the saved value is the true one
        object.__setattr__(built, name, item)
    return built


def _revive_numpy(kind: str, value: dict[str, Any], data: Any) -> Any:
    try:
        import numpy  # type: ignore[import-not-found, unused-ignore]  # optional; not installed where mypy runs
    except ImportError:
        return data
    dtype = numpy.dtype(value["dtype"])
    array = numpy.array(data, dtype="int64" if dtype.kind in "Mm" else dtype).astype(dtype)
    return array.reshape(value["shape"]) if kind == "ndarray" else array[()]


_REVIVE: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": base64.b64decode,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "path": pathlib.Path,
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "complex": lambda parts: complex(*parts),
}
