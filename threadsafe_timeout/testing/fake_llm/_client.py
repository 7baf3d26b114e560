"""Starting and ending a server from Python."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout.testing.fake_llm._log import RequestRecord, ServerLog, read_log
from threadsafe_timeout.testing.fake_llm._options import TASK_PATTERN, ServerOptions

__all__ = ["FakeLLM"]

_START_SECONDS = 120.0  # a machine that is busy with the runner under test starts an interpreter slowly
_STOP_SECONDS = 60.0  # until then it may write the end of its log


class FakeLLM:
    """A fake LLM server in a process of its own. It runs from the creation of this object until `close`.

    It listens on a free port on loopback, and ends with this process, however that ends.

    - `mix`: behaviours and their weights. Which task gets which one depends only on `seed`
    - `minute`: how many seconds one minute of the server's own periods takes
    - `deadline`: seconds from a task's first request; it only marks the log
    - `log`: the file to which events are appended (default: a temporary one, which `close` deletes)

    Raises MissingExtraError without the extra `fake-llm`, ValueError for settings that make no sense, RuntimeError
    if the server does not start.

        with FakeLLM(mix={"good": 3, "hang": 1}, seed=7) as llm:
            client = openai.OpenAI(base_url=llm.base_url, api_key="unused")
    """

    def __init__(
        self,
        mix: Mapping[str, int] | None = None,
        seed: int = 0,
        minute: float = 1.0,
        deadline: float | None = None,
        log: str | os.PathLike[str] | None = None,
        *,
        tasks: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        classifier: str = "good",
        embeddings: str = "good",
        storm: int | None = None,
        task_pattern: str = TASK_PATTERN,
    ) -> None:
        self._folder: str | None = None
        if log is None:
            self._folder = tempfile.mkdtemp(prefix="fake-llm-")
            log = Path(self._folder, "log.jsonl")
        self.log_path = Path(log).absolute()
        try:
            self.options = ServerOptions(
                mix={"good": 1} if mix is None else dict(mix), seed=seed, minute=minute, deadline=deadline,
                log=str(self.log_path), tasks=tasks, host=host, port=port, classifier=classifier,
                embeddings=embeddings, storm=storm, task_pattern=task_pattern,
            )
            self._process = self._start()
            try:
                said = self._await_address()
            except BaseException:
                self._end_process()
                raise
        except BaseException:
            self._remove_folder()
            raise
        self.pid: int = said["pid"]
        self.port: int = said["port"]
        self.base_url: str = said["base_url"]

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "threadsafe_timeout.testing.fake_llm", "--until-stdin-closes",
                   *self.options.to_arguments()]
        # A session of its own: Ctrl-C in a terminal reaches the program under test, which still wants its answers.
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True)

    def _await_address(self) -> dict[str, Any]:
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        ready, _, _ = select.select([stdout], [], [], _START_SECONDS)
        line = stdout.readline() if ready else b""
        if line:
            said: dict[str, Any] = json.loads(line)
            return said
        if not ready:
            raise RuntimeError(f"the fake LLM server said nothing for {_START_SECONDS:.0f} s after its start")
        message = stderr.read().decode("utf-8", "replace").strip()
        if "threadsafe-timeout[fake-llm]" in message:
            raise MissingExtraError("the fake LLM server", "fake-llm", "h11")
        raise RuntimeError(f"the fake LLM server did not start: {message or 'it said nothing'}")

    def begin_run(self, name: str) -> float:
        """Start a run called `name`. Returns its time on the server's clock.

        The deadlines of all tasks are counted from the start again. A task keeps its behaviour. Open requests stay in
        the run in which they began.
        """
        connection = http.client.HTTPConnection(self.options.host, self.port, timeout=_START_SECONDS)
        try:
            connection.request("POST", "/_fake_llm/run", json.dumps({"name": name}))
            began: float = json.loads(connection.getresponse().read())["t"]
            return began
        finally:
            connection.close()

    def log(self) -> ServerLog:
        """The requests, connections and runs that are in the log now."""
        return read_log(self.log_path)

    def requests(self, run: str | None = None) -> list[RequestRecord]:
        """The requests that have reached the server (in `run`, if given), in the order they began."""
        return [request for request in self.log().requests if run is None or request.run == run]

    def behaviour(self, task: str) -> str:
        """What the server does with the requests of `task`."""
        from threadsafe_timeout.testing.fake_llm._mix import Deck

        return Deck(self.options.mix, self.options.seed, self.options.tasks).behaviour(task)

    def close(self) -> None:
        """End the server and delete its temporary log. Open requests are cut off. Calling it again does nothing."""
        self._end_process()
        self._remove_folder()

    def _end_process(self) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _remove_folder(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            self.log_path.unlink(missing_ok=True)
            os.rmdir(folder)

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self._process.poll() is None else "ended"
        return f"<FakeLLM {self.base_url} {state}>"
