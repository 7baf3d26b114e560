"""Terminals for tests: tmux, whose screen can be read, and a bare pseudo-terminal, whose mode can."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import termios
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest
from conditions import until

COMMAND = [sys.executable, "-m", "threadsafe_timeout.cli"]
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
_UNTIL = 100.0  # a safety net, no expectation


class Tmux:
    """A program in a terminal of a size, with a screen as a person sees it."""

    def __init__(self, command: list[str], cwd: Path, columns: int = 120, height: int = 30) -> None:
        self._tmux = ["tmux", "-L", f"threadsafe-timeout-{uuid.uuid4().hex}", "-f", os.devnull]
        # What it wrote last stays to be read when the program has ended.
        shell = f"{shlex.join(command)}; echo left with $?; exec sleep 600"
        self._call("new-session", "-d", "-x", str(columns), "-y", str(height), "-c", str(cwd), shell)

    def _call(self, *arguments: str) -> str:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
        environment.pop("TMUX", None)
        done = subprocess.run(
            [*self._tmux, *arguments], capture_output=True, text=True, timeout=_UNTIL, check=True, env=environment,
        )  # fmt: skip
        return done.stdout

    def screen(self) -> list[str]:
        return self._call("capture-pane", "-p").rstrip("\n").split("\n")

    def text(self) -> str:
        return "\n".join(self.screen())

    def wait_for(self, *texts: str) -> list[str]:
        """The screen, once all of the texts are on it."""
        seen: list[str] = []

        def there() -> bool:
            seen[:] = self.screen()
            whole = "\n".join(seen)
            return all(text in whole for text in texts)

        until(there, lambda: f"{texts} on\n" + "\n".join(seen))
        return seen

    def press(self, *keys: str) -> None:
        self._call("send-keys", *keys)

    def resize(self, columns: int, height: int) -> None:
        self._call("resize-window", "-x", str(columns), "-y", str(height))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call("kill-server")


class Pty:
    """A program on a pseudo-terminal."""

    def __init__(self, command: list[str], cwd: Path, environment: Mapping[str, str] | None = None) -> None:
        self.master, self.slave = os.openpty()
        self.mode = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **(environment or {})},
        )  # fmt: skip

    def read(self) -> None:
        """What there is now."""
        while select.select([self.master], [], [], 0.02)[0]:
            self.output += os.read(self.master, 65536)

    def wait_for(self, text: bytes) -> None:
        def there() -> bool:
            self.read()
            return text in self.output

        until(there, lambda: self.output)

    def wait_for_end(self) -> int:
        def ended() -> bool:
            self.read()
            return self.process.poll() is not None

        until(ended, lambda: self.output)
        self.read()
        return self.process.wait(_UNTIL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(_UNTIL)
        os.close(self.master)
        os.close(self.slave)
