"""The folder a run happens in: a copy of the legacy runner, with or without the one line, and where it runs.

    before/  runner/…        the replica, copied
             site/           what both runs share: sitecustomize.py
             work/           the working directory; what the runner saves is here
             output.txt      what the runner printed
             observed-*.json what was seen from outside
"""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from threadsafe_timeout_legacy.replay._plan import Plan

__all__ = ["DATABASE", "JOURNAL", "LINE", "Workspace", "prepare"]

LINE = "import threadsafe_timeout.auto"
DATABASE = Path("pilot_bench_cumulative_results", "master_database.json")
JOURNAL = Path(".threadsafe_timeout", "smart_batch_runner.jsonl")
# The back-off of the openai client (0.5 s, doubled up to 8 s) is a constant of its module and knows nothing of
# compressed minutes: unscaled it would be many legacy minutes. And its first call imports modules and fills caches of
# type hints; a hundred threads do that at once, which costs seconds that do not scale either. So one call is made
# before the batch, answered within the process.
_SITECUSTOMIZE = '''\
"""For every run of a replay alike: the openai client's back-off scaled with the legacy minute, its caches warm."""
import os

import openai
import openai._base_client as base

scale = float(os.environ["LEGACY_MINUTE_SECONDS"]) / 60
base.INITIAL_RETRY_DELAY *= scale
base.MAX_RETRY_DELAY *= scale

answer = {"id": "", "object": "chat.completion", "created": 0, "model": "", "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}}]}
httpx = getattr(base, "httpx2", None) or base.httpx  # which one, depends on the version of openai
http_client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=answer)))
with openai.OpenAI(api_key="unused", base_url="http://127.0.0.1", http_client=http_client) as client:
    client.chat.completions.create(model="", messages=[{"role": "user", "content": ""}])
    client.embeddings  # imports its module
'''
_DROPPED = ("THREADSAFE_TIMEOUT_", "OPENAI_", "AZURE_OPENAI_", "LEGACY_")
_PLACEHOLDER_CA = Path(__file__).with_name("placeholder_ca.pem")


@dataclass(frozen=True)
class Workspace:
    """Where and how one run is started."""

    folder: Path
    work: Path
    command: list[str]
    environment: dict[str, str]
    difference: str
    """What distinguishes this copy of the runner from the replica: a unified diff, empty for "before", and on
    asyncio, where its loop is another."""


def prepare(folder: Path, plan: Plan, side: str, base_url: str) -> Workspace:
    """Copy the runner to `folder` and say how to start it there."""
    from threadsafe_timeout_legacy.replica import asyncio_script, replica_path, replica_script

    paths = []
    for source in replica_path(plan.version):
        paths.append(folder / "runner" / source.name)
        shutil.copytree(source, paths[-1], ignore=shutil.ignore_patterns("__pycache__"))
    original = replica_script(plan.version)
    script = folder / "runner" / original.parent.name / original.name
    on_asyncio = side == "after" and plan.engine == "asyncio"
    if on_asyncio:
        script = folder / "runner" / asyncio_script().name
        shutil.copy(asyncio_script(), script)
    elif side == "after":
        script.write_text(with_line(original.read_text()))
    site, work = folder / "site", folder / "work"
    site.mkdir()
    work.mkdir()
    (site / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    command = [sys.executable, str(script), "--num-tasks", str(plan.tasks), "--workers", str(plan.workers),
               "--qps", "0", "--seed", str(plan.seed)]
    if plan.checkpoint_interval:
        command += ["--checkpoint-interval", str(plan.checkpoint_interval)]
    environment = _environment(plan, side, base_url, [site, *paths])
    return Workspace(folder, work, command, environment, "" if on_asyncio else _difference(original, script))


def with_line(source: str) -> str:
    """`source` with the one line as its first (after `#!` and `from __future__`, which Python wants before it)."""
    lines = source.splitlines(keepends=True)
    place = max((number for number, line in enumerate(lines, 1)
                 if line.startswith("from __future__ ") or (number == 1 and line.startswith("#!"))), default=0)
    lines.insert(place, LINE + "\n")
    return "".join(lines)


def _difference(original: Path, script: Path) -> str:
    old, new = original.read_text().splitlines(), script.read_text().splitlines()
    return "\n".join(difflib.unified_diff(old, new, original.name, original.name, n=1, lineterm=""))


def _environment(plan: Plan, side: str, base_url: str, paths: list[Path]) -> dict[str, str]:
    environment = {
        name: value for name, value in os.environ.items()
        if not name.startswith(_DROPPED) and not name.lower().endswith("_proxy")
    }
    inherited = environment.get("PYTHONPATH")
    environment |= {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash leaves its stacks in output.txt
        "LEGACY_MINUTE_SECONDS": f"{plan.minute:g}",
        "LEGACY_BASE_URL": base_url,
        "LEGACY_API_KEY": "unused",
        # Each task builds a client of its own, and each client loads every certificate of the machine: tens of
        # milliseconds that do not shrink with the minute. Nothing here uses TLS, so one certificate does.
        "SSL_CERT_FILE": str(_PLACEHOLDER_CA),
    }
    if side == "after":
        environment |= plan.library_settings()
    return environment
