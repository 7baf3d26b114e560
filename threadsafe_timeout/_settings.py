"""Settings: one frozen dataclass, and where each value came from.

Precedence: `install(**settings)`, then `THREADSAFE_TIMEOUT_<NAME>` environment variables, then
`[tool.threadsafe-timeout]` in the pyproject.toml of the working directory, then the defaults.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from threadsafe_timeout._checks import in_seconds, missing_for_cluster
from threadsafe_timeout._errors import SettingError
from threadsafe_timeout._text import nearest

__all__ = ["PREFIX", "Settings", "load", "parse", "set_settings", "settings", "sources"]

PREFIX = "THREADSAFE_TIMEOUT_"
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
    isolate: str = "thread"
    """Where the tasks of a pool run. `thread`. `process`: each in a process of its own, which can be killed."""
    task_memory: int | None = None
    """Bytes of memory (address space) that the process of such a task may have. None: no limit."""
    engine: str = "threads"
    """What the thread pools of the program run their tasks on. `threads`. `dask`: a Dask cluster."""
    engine_address: str | None = None
    """The address of that cluster's scheduler. None: a cluster of its own on this machine."""
    task_factory: str | None = None
    """`module:function`: makes functions that cannot travel anew, in the process of the task."""
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
    """Where the legacy runner's tasks are saved; `<runner>` is the name of the program. None (`off`): nowhere. With
    `save`, those of any runner, in a file beside it that has `.tasks` in its name."""
    save: str = "off"
    """`tasks`: each task of a pool is saved before its future is done, and a killed run that is started again gets the
    saved results. `off`: only what the program itself has saved."""
    resume: str = "unfinished"
    """`unfinished`: continue a run of the same configuration that did not end. `never`. `always`."""
    retry: tuple[str, ...] = ("failed",)
    """Which finished tasks a resumed run of the legacy runner runs again, by status: `failed`, `timeout`, `loop`. For
    any runner, `poison`: those that `run --supervise` has marked, because they bring the program down."""
    status_dir: str | None = ".threadsafe_timeout"
    """The folder in which a run that uses a pool writes its status and its events, for `threadsafe-timeout watch`,
    `stacks` and `report`. None (`off`): nowhere."""
    keep_runs: int = 20
    """How many runs are kept in `status_dir`. When a run begins, the oldest that are over are deleted."""
    summary: str = "auto"
    """A line about what is in force when the first pool begins, and one about its tasks at the end. `auto`: in the log,
    or on a terminal. `on`: in the log, or on stderr. `off`."""
    progress: str = "off"
    """While tasks run: `auto`, a bar if stderr is a terminal, else a line every half minute; `lines`; `off`."""
    stall_after: float | None = 30.0
    """Seconds for which a call of C may hold the interpreter before a warning says so, once it goes on. None (`off`):
    no warning."""
    stall_stacks: str = "off"
    """`on`: after `stall_after` seconds all stacks are written, while the call still holds the interpreter. `off`."""
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


def _span(value: Any) -> float:
    number = _duration(value)
    if number == 0:
        raise ValueError(f"must be more than 0 seconds, or off; got {value!r}")
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


def _address(value: Any) -> str:
    """`tcp://10.0.0.1:8786`, or without the scheme."""
    if not isinstance(value, str) or not value.rpartition(":")[2].strip("/").isdigit():
        raise ValueError(f"must be the address of a scheduler, as in tcp://10.0.0.1:8786, or off; got {value!r}")
    return value.strip()


def _function(value: Any) -> str:
    module, colon, name = value.strip().partition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"must be the name of a function, as in my_runner:make_task, or off; got {value!r}")
    return f"{module}:{name}"


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
    return tuple(map(_choice("failed", "timeout", "loop", "poison"), _optional(_names)(value) or ()))


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "task_timeout": _optional(_duration),
    "grace": _duration,
    "max_abandoned": _optional(_whole),
    "on_exhausted": _choice("raise", "exit"),
    "catchable_timeout": _choice("map", "all", "off"),
    "on_expired_wait": _choice("cancel", "single", "wait"),
    "isolate": _choice("thread", "process"),
    "task_memory": _optional(_whole),
    "engine": _choice("threads", "dask"),
    "engine_address": _optional(_address),
    "task_factory": _optional(_function),
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
    "save": _choice("tasks", "off"),
    "resume": _choice("unfinished", "never", "always"),
    "retry": _statuses,
    "status_dir": _optional(_folder),
    "keep_runs": _whole,
    "summary": _choice("auto", "on", "off"),
    "progress": _choice("auto", "lines", "off"),
    "stall_after": _optional(_span),
    "stall_stacks": _choice("on", "off"),
    "patches": _names,
}


def parse(name: str, value: Any, source: str) -> Any:
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
        (key.removeprefix(PREFIX).lower(), value, f"environment variable {key}")
        for key, value in sorted(environ.items())
        if key.startswith(PREFIX)
    ]


def _from_pyproject(path: str) -> list[tuple[str, Any, str]]:
    try:
        with open(path, "rb") as file:
            content = file.read()
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
        raise SettingError("[tool.threadsafe-timeout]", path, f"is not valid TOML: {exc}") from None
    _refuse_misspelt(table, path)
    for name in ("tool", "threadsafe-timeout"):
        table = table.get(name, {})
        if not isinstance(table, dict):
            raise SettingError("[tool.threadsafe-timeout]", path, f"must be a table, got {name} = {table!r}")
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
        _from_pyproject("pyproject.toml")
        + _from_environment(os.environ)
        + [(name, value, "install()") for name, value in (given or {}).items()]
    )
    values: dict[str, Any] = {}
    origin = {field.name: "default" for field in fields(Settings)}
    for name, value, source in found:
        values[name] = parse(name, value, source)
        origin[name] = source
    loaded = replace(Settings(), **values)
    _check_engine(loaded, origin)
    return loaded, origin


def _check_engine(loaded: Settings, origin: dict[str, str]) -> None:
    if loaded.engine_address is not None and loaded.engine != "dask":
        problem = f"is the address of a Dask cluster, but the engine is {loaded.engine}; set engine to dask"
        raise SettingError("engine_address", origin["engine_address"], problem)
    missing = missing_for_cluster() if loaded.engine == "dask" else None
    if missing is not None:
        problem = f"dask needs the package {missing!r}: run  pip install 'threadsafe-timeout[cluster]'"
        raise SettingError("engine", origin["engine"], problem)


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
