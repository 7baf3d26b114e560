"""What a run is: how it was started, with which settings, and how to start it again. Without secrets."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from threadsafe_timeout import _settings
from threadsafe_timeout._environment.distributions import version_of
from threadsafe_timeout._introspection.secrets import MASK, is_name_of_secret, without_secrets

__all__ = ["SCHEMA", "run_line", "scrubbed"]

SCHEMA = 1


def run_line(run: str, now: float) -> dict[str, Any]:
    """The first event of a run."""
    ours = version_of("threadsafe-timeout") or "unknown"  # run from a folder
    cwd = os.getcwd()
    command = scrubbed([sys.executable, *sys.orig_argv[1:]])
    return {
        "kind": "run", "schema": SCHEMA, "t": now, "run": run, "pid": os.getpid(),
        "python": "{}.{}.{}".format(*sys.version_info), "version": ours, "program": _program(),
        "argv": scrubbed(sys.argv), "cwd": cwd, "executable": sys.executable, **_settings_in_force(),
        "resume": f"cd {shlex.quote(cwd)} && {shlex.join(command)}", "journal": None,
    }  # fmt: skip


def _program() -> str:
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is not None:
        return f"-m {module.name.removesuffix('.__main__')}"
    return os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"


def _settings_in_force() -> dict[str, Any]:
    chosen, sources = _settings.settings(), _settings.sources()
    changed = {name: value for name, value in dataclasses.asdict(chosen).items() if sources.get(name) != "default"}
    return {"settings": changed, "sources": {name: sources.get(name, "") for name in changed}}


def scrubbed(words: Iterable[str]) -> list[str]:
    """Arguments of a command without what looks like a secret, or follows an option that is called like one."""
    found: list[str] = []
    hidden = False
    for word in words:
        name, equals, _ = word.partition("=")
        option = word.startswith("-") and is_name_of_secret(name)
        if hidden and not word.startswith("-"):
            found.append(MASK)
        elif option and equals:
            found.append(f"{name}={MASK}")
        else:
            found.append(without_secrets(word))
        hidden = option and not equals
    return found
