"""The thresholds of the guard: one `Limit` per detector, and how they are written down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DEFAULTS", "Limit", "as_limit", "limits_from", "parse_limits", "polls"]


@dataclass(frozen=True, slots=True)
class Limit:
    """The counts at which a guard acts: `stop` ends the loop, `warn` adds a line for the model, `observe` logs.

    None means never.
    """

    stop: int | None = None
    warn: int | None = None
    observe: int | None = None

    def lowered(self, mode: str) -> Limit:
        """This limit if at most `mode` is allowed: `stop`, `warn`, `observe` or `off`."""
        if mode == "stop":
            return self
        if mode == "warn":
            return Limit(None, self.warn or self.stop, self.observe)
        return Limit(None, None, self.observe or self.warn or self.stop) if mode == "observe" else Limit()

    def __str__(self) -> str:
        parts = [f"{name}:{count}" for name in ("observe", "warn", "stop") if (count := getattr(self, name))]
        return "+".join(parts) or "off"


# Chosen by 1,526 recorded runs (docs/guards.md says what they are worth there, on each half and for each model); those
# with a `warn` come from agents with real tools. A count is reached at the turn that makes it so.
DEFAULTS: dict[str, Limit] = {
    "searches": Limit(stop=4),
    "look_ups": Limit(stop=7),
    "cut_tags": Limit(stop=4),
    "same_response": Limit(stop=5),
    "no_action": Limit(stop=5),
    "empty": Limit(stop=6, warn=3),
    "repeats": Limit(stop=5, warn=3),
    "errors": Limit(stop=4, warn=3),
    "cycles": Limit(stop=4, warn=3),
    "paraphrases": Limit(stop=8, warn=4),
    "restarts": Limit(stop=5, warn=3),
    "calls": Limit(observe=100),
}
"""The default limits, by name."""
# Tools whose name, or whose command, says that they wait for something: the same call again is what they are for.
_POLLS = re.compile(
    r"(?:^|[\W_]|(?<=[a-z])(?=[A-Z]))(?:poll|sleep|wait|await|status|state|progress|health|heartbeat|ping|watch|monitor"
    r"|ready|refresh|tail|bench|benchmark|timeit|hyperfine|stress|flaky)(?:$|[\W_]|ing|(?=[A-Z])|For|Until)",
    re.IGNORECASE,
)
_SHELLS = re.compile(r"bash|shell|terminal|command|cmd|exec|run", re.IGNORECASE)


def polls(name: str, arguments: str) -> bool:
    """Whether a call waits for something: its name says so, or the command it runs."""
    if _POLLS.search(name):
        return True
    return bool(_SHELLS.search(name)) and _POLLS.search(arguments[:200]) is not None


_OFF = {"off", "none", "never", "false", ""}
_PART = re.compile(r"(?:(stop|warn|observe)\s*:\s*)?(\d+)")


def as_limit(name: str, value: Any) -> Limit:
    """A limit from a number (`stop` at it), None or "off", a `Limit`, a dict, or text like "warn:3+stop:5". Raises
    ValueError or TypeError naming the limit."""
    given: dict[str, Any]
    if isinstance(value, Limit):
        return value
    if value is None or value is False:
        given = {}
    elif isinstance(value, Mapping):
        given = dict(value)
    elif isinstance(value, str):
        given = _from_text(name, value)
    else:
        given = {"stop": value}
    unknown = set(given) - {"stop", "warn", "observe"}
    if unknown:
        raise ValueError(f"{name}: {sorted(map(str, unknown))[0]!r} is not one of stop, warn, observe")
    for count in given.values():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"{name}: a limit is a whole number from 1 on, or off; got {count!r}")
    return Limit(**given)


def _from_text(name: str, text: str) -> dict[str, int]:
    if text.strip().lower() in _OFF:
        return {}
    given: dict[str, int] = {}
    for part in re.split(r"[+ ]+", text.strip().lower()):
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(f"{name}: write a number, off, or warn:3+stop:5; got {text!r}")
        given[found[1] or "stop"] = int(found[2])
    return given


def limits_from(given: Mapping[str, Any], base: Mapping[str, Limit] | None = None) -> dict[str, Limit]:
    """The defaults, changed by what is given. Raises TypeError for a limit that does not exist."""
    limits = dict(DEFAULTS if base is None else base)
    for name, value in given.items():
        if name == "max_consecutive_searches":  # the setting's name, and its way to count: so many are allowed
            limits["searches"] = Limit() if value is None else as_limit(name, value + 1)
        elif name in limits:
            limits[name] = as_limit(name, value)
        else:
            known = ", ".join([*limits, "max_consecutive_searches"])
            raise TypeError(f"there is no limit {name!r}; the limits are {known}")
    return limits


def parse_limits(value: Any) -> tuple[tuple[str, Limit], ...]:
    """Limits from a mapping, or from text like "cut_tags=6, repeats=warn:3+stop:8, calls=off"."""
    pairs: dict[str, Any] = {}
    if isinstance(value, Mapping):
        pairs = dict(value)
    elif isinstance(value, str):
        for part in filter(None, (piece.strip() for piece in value.split(","))):
            name, equals, limit = part.partition("=")
            if not equals:
                raise ValueError(f"must be name=limit, got {part!r}")
            pairs[name.strip()] = limit.strip()
    else:
        try:
            pairs = dict(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be limits by name, like repeats=3, got {value!r}") from None
    for name in list(pairs):
        if name == "max_consecutive_searches":
            raise ValueError("must not hold max_consecutive_searches, which is a setting of its own")
    try:
        changed = limits_from(pairs)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"must hold limits of the guard: {exc}") from None
    return tuple((name, changed[name]) for name in pairs)
