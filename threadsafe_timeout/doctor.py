"""What is in force in this process (patches, interruption, settings), what is not, and why.

    from threadsafe_timeout.doctor import report
    print(report())

`threadsafe-timeout doctor` shows what would be in force in a program started in this directory.
"""

from __future__ import annotations

import functools
import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, packages_distributions, version
from importlib.util import find_spec
from types import CellType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import Any

from threadsafe_timeout import _settings
from threadsafe_timeout._environment import distributions as _distributions
from threadsafe_timeout._environment import finder as _finder
from threadsafe_timeout._environment import surroundings as _surroundings
from threadsafe_timeout._environment.distributions import GROUP, entry_points
from threadsafe_timeout._files import why_not_creatable
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._patching import install as _install
from threadsafe_timeout._text import escaped

__all__ = ["examine", "report"]

_CONTAINERS = (dict, tuple, list, set, frozenset, CellType, staticmethod, classmethod, functools.partial)
_DEEPEST = 5  # references: a container in a container in a container of somebody's


def examine() -> dict[str, Any]:
    """What is in force, as a dict that can be written as JSON.

    - `version`, `python`, `installed`, `interrupt`, `settings`
    - `why_not`: why nothing can be patched in this process, or None
    - `patches`: each with a `state`: `applied`, `partly applied`, `waiting` (none of its modules is imported yet, or
      one is still being imported, or is lazy and was not used yet), `not installed`, `out of range`, `failed`, `left
      out` (by the setting named in `detail`), or `off` (before `install()`)
    - `not_rebound`: where in this process original functions are still used, because they were imported before
      `install()` to a place where they cannot be replaced (a default argument, a class, a container). Finding them
      walks through all objects of the process (tens of milliseconds)

    Modules that were imported unnoticed are patched first. A `checkpoint` that will not be written is None, with the
    `problem`.
    """
    _finder.look()
    patching = _install.installed()
    settings, sources = _settings.settings(), _settings.sources()
    support = _pursuit.support()
    return {
        "version": version("threadsafe-timeout"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "installed": patching is not None,
        "why_not": _surroundings.why_not(),
        "interrupt": {"mechanism": support.mechanism, "detail": support.detail},
        "patches": [_patch(entry, patching) for entry in _entry_points()],
        "not_rebound": [] if patching is None else list(_not_rebound(patching)),
        "settings": {
            name: _setting(name, getattr(settings, name), sources.get(name, "default"), patching)
            for name in settings.__dataclass_fields__
        },
    }


def _setting(name: str, value: Any, source: str, patching: _install.Patching | None) -> dict[str, Any]:
    if name == "checkpoint" and value is not None and patching is not None:
        problem = "the patch legacy_runner, which writes it, is left out"
        if "legacy_runner" in patching.patches or _settings.settings().save == "tasks":
            problem = why_not_creatable(value.replace("<runner>", "runner")) or ""
        if problem:  # nobody is to look for a file that is not written
            return {"value": None, "source": source, "problem": problem}
    return {"value": value, "source": source}


def _entry_points() -> list[EntryPoint]:
    """Those of the patches there are, with the distributions that they are from."""
    from_each = {(entry.name, entry.value): entry for entry in entry_points(GROUP)}
    return [
        from_each.get(found) or EntryPoint(found.name, found.value, GROUP)
        for found in _install.known_patches().values()
    ]


def _patch(entry: EntryPoint, patching: _install.Patching | None) -> dict[str, Any]:
    name = entry.name
    found: dict[str, Any] = {"name": name, "state": "off", "detail": "", "modules": []}
    if entry.dist is not None and entry.dist.name != "threadsafe-timeout":
        found["from"] = f"{entry.dist.name} {entry.dist.version}"
    if patching is None:
        return found
    if name not in patching.patches:
        found["state"], found["detail"] = _why_not(name, patching)
        return found
    patch = patching.patches[name]
    if patch.broken:
        found["state"], found["detail"] = _why_not(name, patching)
        return found
    found["modules"] = modules = [_module(name, module, patching) for module in patch.MODULES]
    states = {module["state"] for module in modules}
    for state in ("failed", "out of range"):
        if state in states:
            found["state"] = state
            return found
    if "applied" in states:
        found["state"] = "partly applied" if "waiting" in states else "applied"
    else:
        found["state"] = "waiting" if "waiting" in states else "not installed"
    return found


def _why_not(name: str, patching: _install.Patching) -> tuple[str, str]:
    problem = patching.problems.get((name, ""))
    if problem is not None:
        return problem.kind, problem.detail
    chosen, source = _settings.settings().patches, _settings.sources().get("patches", "default")
    if f"-{name}" in chosen or any(other[0] not in "+-" for other in chosen):
        return "left out", f"patches, {source}"
    return "left out", f"opt-in: patches=+{name}"


def _module(patch: str, name: str, patching: _install.Patching) -> dict[str, Any]:
    problem = patching.problems.get((patch, name))
    distribution = _install.distribution_of(patching.patches[patch], name)
    if problem is not None:
        state, detail = problem.kind, problem.detail
    elif (patch, name) in patching.applied:
        state, detail = "applied", ""
    elif name in sys.modules:
        state, detail = "waiting", "it is still being imported, or is lazy and was not used yet"
    else:
        state, detail = ("waiting" if _is_installed(name, distribution) else "not installed"), ""
    return {
        "name": name, "state": state, "detail": detail, "package": distribution or name.partition(".")[0],
        "version": version_of(name, distribution),
    }  # fmt: skip


def _is_installed(name: str, distribution: str | None) -> bool:
    namespaced = distribution is not None and distribution.replace("-", "_") != name.partition(".")[0]
    if namespaced and version_of(name, distribution) is None:
        return False  # others have modules in the same package: "google" has many
    try:
        return find_spec(name.partition(".")[0]) is not None
    except ValueError:  # __main__ and its like
        return False


@functools.cache
def _distributions_of_packages() -> dict[str, list[str]]:
    try:
        return dict(packages_distributions())
    except Exception:  # the metadata of one cannot be read: versions are not shown
        return {}


def version_of(module: str, distribution: str | None = None) -> str | None:
    """The version of what a module belongs to (of `distribution`, if that is known); None if nobody says."""
    top = module.partition(".")[0]
    if distribution is not None:
        return _distributions.version_of(distribution)
    if top in sys.stdlib_module_names:
        return f"Python {platform.python_version()}"
    for candidate in _distributions_of_packages().get(top, ()):
        found = _distributions.version_of(candidate)
        if found is not None:  # else an installation with a hole in it
            return found
    return None


def import_installed() -> None:
    """Import what the patches are for, so that they are applied. Only what is installed: nothing of the user's own."""
    patching = _install.installed()
    if patching is None:
        return
    for name, patch in patching.patches.items():
        for module in patch.MODULES:
            distribution = _install.distribution_of(patch, module)
            if version_of(module, distribution) is None or not _is_installed(module, distribution):
                continue
            try:
                with _environment(patch.IMPORT_WITH):
                    import_module(module)
            except ModuleNotFoundError:
                pass  # a submodule that this version does not have
            except Exception as exc:
                patching.problems[name, module] = _install.Problem("failed", f"its import failed: {exc!r}")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    added = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _not_rebound(patching: _install.Patching) -> Iterator[dict[str, str]]:
    """Follow references from the originals outwards, through containers, to something with a name."""
    things = [old for _, old, _ in patching.replaced]
    # By id, so that this itself refers to none of them.
    names = {id(old): {name} for name, old, _ in patching.replaced}
    patched = {module for _, module in patching.applied}
    seen = {id(patching.replaced), *names, *(id(new) for _, _, new in patching.replaced)}
    found = set()
    for _ in range(_DEEPEST):
        containers: list[Any] = []
        referrers = gc.get_referrers(*things)  # one walk through all objects, which is what takes the time
        wanted = set(map(id, things))
        seen |= {id(things), id(containers), id(referrers)}
        for referrer in referrers:
            if id(referrer) in seen or _is_ours(referrer):
                continue
            if isinstance(referrer, type) and referrer.__module__ in patched:
                continue  # a class of a patched module: its methods are, where they wait
            for thing in gc.get_referents(referrer):
                if id(thing) not in wanted:
                    continue
                where = _name_of(referrer, thing)
                if where is not None:
                    found |= {(name, where) for name in names[id(thing)]}
                elif isinstance(referrer, _CONTAINERS):
                    containers.append(referrer)
                    names.setdefault(id(referrer), set()).update(names[id(thing)])
        seen |= set(map(id, containers))
        things = containers
        if not things:
            break
    for name, where in sorted(found):
        yield {"name": name, "where": where}


def _is_ours(referrer: Any) -> bool:
    """Whether it is a running function's frame, or something of this library's: it needs the original."""
    if isinstance(referrer, FrameType | GeneratorType):
        return True
    if isinstance(referrer, FunctionType):
        module = referrer.__globals__.get("__name__")
    elif isinstance(referrer, dict):
        module = referrer.get("__name__")
    else:
        module = getattr(referrer if isinstance(referrer, type) else type(referrer), "__module__", None)
    return isinstance(module, str) and module.startswith("threadsafe_timeout")


def _name_of(referrer: Any, thing: object) -> str | None:
    """Where to look for what refers to `thing`; None for a container, and for what nobody has written."""
    if isinstance(referrer, dict):
        module = referrer.get("__name__")
        # (What is there need not be a module: some put an object in their place.)
        if not isinstance(module, str) or _finder.namespace_of(sys.modules.get(module)) is not referrer:
            return None
        names = [key for key, value in referrer.items() if value is thing]
        return f"{module}.{names[0]}" if names else f"{module}, in a container"
    if isinstance(referrer, FunctionType):
        return f"{referrer.__module__}.{referrer.__qualname__}, a default or a variable of the function"
    if isinstance(referrer, type):
        return f"{referrer.__module__}.{referrer.__qualname__}, an attribute or a base of the class"
    kind = type(referrer)
    if isinstance(referrer, (ModuleType, *_CONTAINERS)) or kind.__module__ == "builtins":  # methods written in C
        return None
    return f"{kind.__module__}.{kind.__qualname__}, an attribute of an instance"


_MARKS = {"applied": "+", "partly applied": "+", "waiting": "~", "failed": "!", "out of range": "!"}


def report() -> str:
    """The result of `examine()` as text for people."""
    found = examine()
    interrupt = found["interrupt"]
    lines = [
        f"threadsafe-timeout {found['version']}, {found['python']}",
        f"interrupt: {interrupt['mechanism'] or 'none'} ({interrupt['detail']})",
        "",
        "patches" if found["installed"] else f"patches: {found['why_not'] or 'install() has not been called'}",
    ]
    for patch in found["patches"]:
        lines += _lines_of(patch)
    if found["not_rebound"]:
        lines += ["", "still in use where they cannot be replaced (import threadsafe_timeout.auto before these)"]
        lines += [f"  ! {each['name']}: {each['where']}" for each in found["not_rebound"]]
    lines += ["", "settings"]
    for name, setting in found["settings"].items():
        value = "none" if setting["value"] is None else setting["value"]
        value = ", ".join(value) or "all" if isinstance(value, tuple) else value
        why = f": nothing is saved: {setting['problem']}" if "problem" in setting else ""
        lines.append(f"    {name} = {value}".ljust(54) + f" {setting['source']}{why}")
    return "\n".join(map(escaped, lines))


def _lines_of(patch: dict[str, Any]) -> Iterator[str]:
    shown = [module for module in patch["modules"] if module["state"] == patch["state"]] or patch["modules"]
    tops = {module["package"]: module["version"] for module in shown}
    what = patch["detail"] or ", ".join(
        f"{top} {number}" if number and top not in sys.stdlib_module_names else top for top, number in tops.items()
    )
    origin = f" [{patch['from']}]" if "from" in patch else ""
    yield f"  {_MARKS.get(patch['state'], '-')} {patch['name']:<20} {patch['state']:<15} {what}{origin}".rstrip()
    for module in patch["modules"]:
        if module["detail"]:
            yield f"      {module['name']}: {module['state']}: {module['detail']}"
        elif module["state"] == "waiting":
            yield f"      {module['name']}: not imported yet"
