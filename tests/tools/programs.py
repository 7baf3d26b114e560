"""Runs a program in a process of its own, of which nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

SECONDS = 100  # for a process; on a quiet machine each takes two or three


def run(program: str, cwd: Path, *, name: str = "program.py") -> subprocess.CompletedProcess[str]:
    (cwd / name).write_text(textwrap.dedent(program))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("THREADSAFE_TIMEOUT_")}
    # eventlet says at its import that it is deprecated.
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore:\nEventlet is deprecated", name],
        cwd=cwd, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGABRT)  # the programs have faulthandler say where they were
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=120)
            raise AssertionError(f"it did not end within {SECONDS} s:\n{out}\n{err}") from None
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
