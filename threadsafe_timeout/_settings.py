"""Settings: one frozen dataclass, and where each value came from.

Precedence: `install(**settings)`, then `THREADSAFE_TIMEOUT_<NAME>` environment variables, then
`[tool.threadsafe-timeout]` in the pyproject.toml of the working directory, then the defaults.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from threadsafe_timeout._checks import in_seconds
from threadsafe_timeout._errors import SettingError
from threadsafe_timeout._text import nearest

__all__ = ["Settings", "load", "set_settings", "settings", "sources"]

_PREFIX = "THREADSAFE_TIMEOUT_"
_OFF = {"off", "none", ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force. Durations are seconds."""

    task_timeout: float | None = None
    """Seconds one pool task may run, from its start. None: no limit (the legacy runner: the task's own timeout)."""
    grace: float = 2.0
    """Seconds between the steps for an overdue task (cancel, interrupt, abandon), and for clean-up."""
    max_abandoned: int | None = None
    """How many abandoned threads may be alive before `submit` fails. None: 256, or 2 x the workers if that is more."""
    on_exhausted: str = "raise"
    """What happens above `max_abandoned`. `raise`: `submit` fails. `exit`: the process exits with status 75."""
    catchable_timeout: str = "map"
    """Which tasks first get their deadline as a `TimeoutError` that their own handlers can catch, once, and only then
    as `Cancelled`. `map`: those of `map` and similar functions. `all`: every pool task. `off`: none."""
    on_expired_wait: str = "cancel"
    """What happens, when a pool is left, to a task whose only wait with a timeout has expired and whose outcome nothing
    can ask for any more. `cancel`: it is cancelled. `single`: only if it is the one task of a pool with one worker.
    `wait`: the pool waits for it, as the standard pool does."""
    llm_timeout: float | None = 120.0
    """Seconds one LLM call may take in total, retries and back-off included, in a scope or not."""
    llm_first_byte: float | None = None
    """Seconds until the first byte of the answer to an LLM client's request; after that the client may try again."""
    llm_idle_content: float | None = None
    """Seconds without content in the body of an LLM client's answer; a keep-alive comment is not content."""
    http_timeout: float | None = None
    """Seconds one HTTP exchange that is not an LLM call may take in total, including redirects and the body."""
    interactive_timeout: float | None = 300.0
    """Seconds one `execute_interactive` may take; never more than its task has left."""
    max_consecutive_searches: int | None = 3
    """How many search turns in a row are allowed before the loop is ended."""
    loop_guard: str = "stop"
    """The most that a guard may do about a loop: `stop`, `warn` (tell the model), `observe` (log only) or `off`."""
    guard_limits: tuple[tuple[str, Any], ...] = ()
    """Limits of the guard that are not the defaults, by name: `cut_tags=6, no_action=off, repeats=warn:3+stop:8`."""
    guard_learn: bool = True
    """Whether loops that no task of this run has ever left are ended earlier."""
    guard_repair: str = "off"
    """`cut-tags`: an answer that ends in an unclosed tool tag gets the closing tag. It changes results."""
    client_guard: str = "observe"
    """What is done about a loop in the calls of openai's and anthropic's clients: `observe` (log), `stop` or `off`."""
    checkpoint: str | None = ".threadsafe_timeout/<runner>.jsonl"
    """Where the legacy runner's tasks are saved; `<runner>` is the name of the program. None (`off`): nowhere."""
    resume: str = "unfinished"
    """`unfinished`: continue a run of the same configuration that did not end. `never`. `always`."""
    retry: tuple[str, ...] = ("failed",)
    """Which finished tasks a resumed run runs again, by status: `failed`, `timeout`, `loop`."""
    status_dir: str | None = None
    """The folder in which a run writes its status and its events, for `threadsafe-timeout watch`, `stacks` and
    `report`. None (`off`): nowhere."""
    keep_runs: int = 20
    """How many runs are kept in `status_dir`. When a run begins, the oldest that are over are deleted."""
    patches: tuple[str, ...] = ()
    """Names of the patches to apply, or names with `-` to leave out, with `+` to add one that is opt-in. Empty: all
    that apply and are not opt-in."""


def _duration(value: Any) -> float:
    try:
        number = float(value)
        good = not isinstance(value, bool) and number >= 0 and not math.isinf(number)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise ValueError(f"must be a number of seconds >= 0, got {value!r}{in_seconds(value)}")
    return number


def _whole(value: Any) -> int:
    try:
        number = int(value)
        good = not isinstance(value, bool) and number >= 0 and number == float(value)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise ValueError(f"must be a whole number >= 0, got {value!r}")
    return number


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def parse_optional(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.strip().lower() in _OFF):
            return None
        return parse(value)

    return parse_optional


def _path(value: Any) -> str | None:
    if value is False:  # the way TOML says off
        return None
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise ValueError(f"must be the path of a file, or off; got {value!r}") from None
    if os.path.isdir(path):
        raise ValueError(f"must be the path of a file; {path!r} is a directory")
    return path


def _folder(value: Any) -> str | None:
    if value is False:
        return None
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise ValueError(f"must be the path of a folder, or off; got {value!r}") from None
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"must be the path of a folder; {path!r} is a file")
    return path


def _choice(*choices: str) -> Callable[[Any], str]:
    def parse_choice(value: Any) -> str:
        word = str(value).strip().lower()
        if word not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, got {value!r}{nearest(word, choices)}")
        return word

    return parse_choice


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in {"on", "off", "true", "false", "1", "0"}:
        raise ValueError("must be on or off")
    return word in {"on", "true", "1"}


def _guard_limits(value: Any) -> tuple[tuple[str, Any], ...]:
    from threadsafe_timeout._guard.limits import parse_limits  # only for a program that sets them

    return parse_limits(value if value is not None else ())


def _names(value: Any) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(word.strip() for word in words if word.strip())
    except (AttributeError, TypeError):
        raise ValueError(f"must be names, in a list or with commas between them; got {value!r}") from None


def _statuses(value: Any) -> tuple[str, ...]:
    return tuple(map(_choice("failed", "timeout", "loop"), _optional(_names)(value) or ()))


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "task_timeout": _optional(_duration),
    "grace": _duration,
    "max_abandoned": _optional(_whole),
    "on_exhausted": _choice("raise", "exit"),
    "catchable_timeout": _choice("map", "all", "off"),
    "on_expired_wait": _choice("cancel", "single", "wait"),
    "llm_timeout": _optional(_duration),
    "llm_first_byte": _optional(_duration),
    "llm_idle_content": _optional(_duration),
    "http_timeout": _optional(_duration),
    "interactive_timeout": _optional(_duration),
    "max_consecutive_searches": _optional(_whole),
    "loop_guard": _choice("stop", "warn", "observe", "off"),
    "guard_limits": _guard_limits,
    "guard_learn": _switch,
    "guard_repair": _choice("off", "cut-tags"),
    "client_guard": _choice("observe", "stop", "off"),
    "checkpoint": _optional(_path),
    "resume": _choice("unfinished", "never", "always"),
    "retry": _statuses,
    "status_dir": _optional(_folder),
    "keep_runs": _whole,
    "patches": _names,
}


def _parse(name: str, value: Any, source: str) -> Any:
    try:
        return _PARSERS[name](value)
    except KeyError:
        known = ", ".join(sorted(_PARSERS))
        unknown = f"there is no such setting{nearest(name, _PARSERS)}; the settings are {known}"
        raise SettingError(name, source, unknown) from None
    except ValueError as exc:
        raise SettingError(name, source, str(exc)) from None


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    return [
        (key.removeprefix(_PREFIX).lower(), value, f"environment variable {key}")
        for key, value in sorted(environ.items())
        if key.startswith(_PREFIX)
    ]


def _from_pyproject(path: Path) -> list[tuple[str, Any, str]]:
    try:
        content = path.read_bytes()
    except OSError:
        return []
    named = b"threadsafe-timeout" in content
    if not named and b"threadsafe-timeout" not in content.lower().replace(b"_", b"-"):
        return []  # saves most programs the TOML parser, and its complaints about what is somebody else's
    import tomllib

    table: Any
    try:
        table = tomllib.loads(content.decode())
    except ValueError as exc:  # not TOML, or not UTF-8
        if not named:
            return []
        raise SettingError("[tool.threadsafe-timeout]", str(path), f"is not valid TOML: {exc}") from None
    _refuse_misspelt(table, str(path))
    for name in ("tool", "threadsafe-timeout"):
        table = table.get(name, {})
        if not isinstance(table, dict):
            raise SettingError("[tool.threadsafe-timeout]", str(path), f"must be a table, got {name} = {table!r}")
    return [(name.replace("-", "_"), value, f"{path}, [tool.threadsafe-timeout]") for name, value in table.items()]


def _refuse_misspelt(document: dict[str, Any], path: str) -> None:
    """A table under a name that nobody reads would be settings that are ignored."""
    tool = document.get("tool")
    tables = [("tool.", tool if isinstance(tool, dict) else {}), ("", document)]
    for prefix, table in tables:
        for name in table:
            ours = name.lower().replace("_", "-") == "threadsafe-timeout"
            if ours and (prefix, name) != ("tool.", "threadsafe-timeout"):
                raise SettingError(f"[{prefix}{name}]", path, "is not read; write [tool.threadsafe-timeout]")


def load(given: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, str]]:
    """Settings from every source, and where each value came from. Raises SettingError naming the source."""
    found = (
        _from_pyproject(Path("pyproject.toml"))
        + _from_environment(os.environ)
        + [(name, value, "install()") for name, value in (given or {}).items()]
    )
    values: dict[str, Any] = {}
    origin = {field.name: "default" for field in fields(Settings)}
    for name, value, source in found:
        values[name] = _parse(name, value, source)
        origin[name] = source
    return replace(Settings(), **values), origin


_settings = Settings()
_sources: dict[str, str] = {}


def settings() -> Settings:
    """The settings in force."""
    return _settings


def sources() -> dict[str, str]:
    """Where each setting in force came from."""
    return dict(_sources)


def set_settings(new: Settings, origin: dict[str, str]) -> None:
    """Put settings in force. `install()` and `uninstall()` do this."""
    global _settings, _sources
    _settings, _sources = new, origin
