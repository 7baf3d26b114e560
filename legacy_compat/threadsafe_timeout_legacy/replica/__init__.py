"""A replica of the legacy batch runner, in both of its versions, to replay the stall with.

It was written from notes about the original, and behaves like it: module names, class names, signatures, what binds at
import and what inside functions. It knows nothing of threadsafe-timeout. Its modules import each other by their
top-level names, so run it with the directories of `replica_path` on the path:

    version = "2025-08-16"                          # or "last"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, replica_path(version)))}
    subprocess.Popen([sys.executable, replica_script(version), "--num-tasks", "100"], env=env, cwd=work_directory)

Environment: `LEGACY_MINUTE_SECONDS` says how many real seconds one legacy minute takes (60, the default, is real time);
every constant of the program scales with it. `LEGACY_BASE_URL` and `LEGACY_API_KEY` are for the `openai` client.

Sins kept on purpose, because they are the point:

- a one-worker pool per task, left through a `with` that waits for the stuck thread it has just given up on;
- as many threads per task as that makes (two), all joined by the interpreter at exit;
- decisions by the words in an error's message: "timed out" gives up, "Connection" or "429" tries again;
- `except Exception` and bare `except:` that swallow whatever comes, also around a sleep that holds a lock;
- error classification on the main thread, under a lock, one failed record after another;
- a `timeout` argument that is not used, and embedding calls that have none;
- results that reach the disk at the end of the batch, or every N results, and never before;
- a lock file that a process deletes when its wait for the lock has timed out.

Different from the original on purpose:

- `run_single_test` has two more keywords at its end, `task_instance` and `required_tools`: our notes do not say how the
  original hands them over;
- the client's default timeout (600 s) is passed explicitly, so that it scales too; the client's own back-off (0.5 to
  8 s) is not the program's and does not scale;
- tools are found by the words of their description: the original looks the embedding up in a prebuilt index.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["VERSIONS", "asyncio_script", "replica_path", "replica_script"]

VERSIONS = ("2025-08-16", "last")
"""The versions there are: the one of the incident, and the last one, after its author's fixes."""

_ROOT = Path(__file__).resolve().parent
_DIRECTORIES = {"2025-08-16": "v2025_08_16", "last": "last"}


def replica_path(version: str) -> list[Path]:
    """The directories to put on `sys.path` or `PYTHONPATH`, in this order. ValueError for a version there is not."""
    if version not in _DIRECTORIES:
        raise ValueError(f"no version {version!r} of the legacy replica; there are {', '.join(map(repr, VERSIONS))}")
    return [_ROOT / _DIRECTORIES[version], _ROOT / "common"]


def replica_script(version: str) -> Path:
    """The script that is the program's command line. It needs `replica_path(version)` on `PYTHONPATH`."""
    return replica_path(version)[-1] / "smart_batch_runner.py"


def asyncio_script() -> Path:
    """The same batch with its loop on asyncio, on this library's `AsyncPool`: the one part that knows of it. It needs
    `replica_path("2025-08-16")` on `PYTHONPATH`."""
    return _ROOT / "on_asyncio" / "asyncio_batch_runner.py"
