"""A debugger's client: what an editor does with debugpy, in the protocol that it does it in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asleep import ON_PATH

SECONDS = 100  # for all of a session


class Session:
    """A program under debugpy. The lines that say `# breakpoint` have one."""

    def __init__(self, program: str, cwd: Path) -> None:
        self._path = cwd / "program.py"
        self._path.write_text(textwrap.dedent(program))
        self._output = (cwd / "output").open("w+")
        environ = {key: value for key, value in os.environ.items() if not key.startswith("THREADSAFE_TIMEOUT_")} | ON_PATH
        # Where debugpy writes which port it has got, once it is ready: a client that comes before that breaks it.
        endpoints = cwd / "endpoints"
        environ["DEBUGPY_ADAPTER_ENDPOINTS"] = str(endpoints)
        self._process = subprocess.Popen(
            [sys.executable, "-Xfaulthandler", "-Xfrozen_modules=off", "-m", "debugpy", "--listen", "127.0.0.1:0", "--wait-for-client", "program.py"],
            cwd=cwd, env=environ, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, start_new_session=True,
        )  # fmt: skip
        self._until = time.monotonic() + SECONDS
        self._socket = self._connected(endpoints)
        self._file = self._socket.makefile("rb")
        self._number = 0
        self._waiting: list[dict[str, Any]] = []  # events that were not asked for yet

    def __enter__(self) -> Session:
        self.request("initialize", adapterID="tests", linesStartAt1=True, columnsStartAt1=True, pathFormat="path")
        self._send("attach", justMyCode=False)
        self.event("initialized")
        lines = self._path.read_text().splitlines()
        marked = [{"line": number} for number, line in enumerate(lines, 1) if line.endswith("# breakpoint")]
        self.request("setBreakpoints", source={"path": str(self._path)}, breakpoints=marked)
        self.request("configurationDone")
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # and the adapter that it has started
        self._process.wait()
        self._file.close()
        self._socket.close()
        self._output.close()

    def _connected(self, endpoints: Path) -> socket.socket:
        while not (endpoints.exists() and (found := endpoints.read_text()).endswith("\n")):
            assert time.monotonic() < self._until, self.output()
            assert self._process.poll() is None, self.output()
            time.sleep(0.05)
        return socket.create_connection(("127.0.0.1", json.loads(found)["client"]["port"]), SECONDS)

    def output(self) -> str:
        return (self._path.parent / "output").read_text(errors="replace")

    def _send(self, command: str, **arguments: Any) -> int:
        self._number += 1
        message = json.dumps({"seq": self._number, "type": "request", "command": command, "arguments": arguments}).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n" % len(message) + message)
        return self._number

    def _receive(self) -> dict[str, Any] | None:
        self._socket.settimeout(max(0.1, self._until - time.monotonic()))
        try:
            size = 0
            while header := self._file.readline().strip():
                size = int(header.split(b":")[1])
            return json.loads(self._file.read(size)) if size else None
        except TimeoutError:
            os.kill(self._process.pid, signal.SIGABRT)  # faulthandler says where it is
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
            raise AssertionError(f"nothing came any more within {SECONDS} s:\n{self.output()}") from None

    def request(self, command: str, **arguments: Any) -> Any:
        """Send it; its answer."""
        number = self._send(command, **arguments)
        while (message := self._receive()) is not None:
            if message["type"] == "response" and message["request_seq"] == number:
                assert message["success"], message
                return message.get("body")
            if message["type"] == "event":
                self._waiting.append(message)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        raise AssertionError(f"it ended ({self._process.returncode}) before it answered to {command}:\n{self.output()}")

    def event(self, *names: str) -> dict[str, Any]:
        """The next event with one of these names."""
        for number, message in enumerate(self._waiting):
            if message["event"] in names:
                return self._waiting.pop(number)
        while (message := self._receive()) is not None:
            if message["type"] == "event" and message["event"] in names:
                return message
        return {"event": "terminated"}

    def stops(self) -> Iterator[dict[str, Any]]:
        """Each stop, until the program has ended. The caller lets it go on."""
        while (event := self.event("stopped", "terminated", "exited"))["event"] == "stopped":
            yield event["body"]

    def end(self) -> int:
        """The exit status of the program; by now it is about to end."""
        return self._process.wait(max(1.0, self._until - time.monotonic()))
