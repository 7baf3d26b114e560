"""What a server can be told, and how it is told on a command line."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from threadsafe_timeout._checks import check_seconds, check_whole
from threadsafe_timeout.testing.fake_llm._mix import BEHAVIOURS, Deck, parse_mix

__all__ = ["TASK_PATTERN", "ServerOptions", "add_arguments", "from_arguments"]

TASK_PATTERN = r"\bcase[-_ :#]*([A-Za-z]*-?\d+)\b"


@dataclass(frozen=True)
class ServerOptions:
    """The settings of one fake LLM server. Durations in seconds.

    `minute` is how long one minute of the server's own periods takes: 60 is real time, 1 is sixty times faster.
    `deadline` is in real seconds, counted from a task's first request in a run; it only marks the log.
    """

    mix: Mapping[str, int] = field(default_factory=lambda: {"good": 1})
    seed: int = 0
    minute: float = 1.0
    tasks: int | None = None
    deadline: float | None = None
    log: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    classifier: str = "good"
    embeddings: str = "good"
    storm: int | None = None
    task_pattern: str = TASK_PATTERN

    def __post_init__(self) -> None:
        Deck(self.mix, self.seed, self.tasks)
        for name, seconds in (("minute", self.minute), ("deadline", self.deadline)):
            if seconds is not None:
                check_seconds(name, seconds)
            if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
                raise ValueError(f"{name} must be a positive number of seconds, not {seconds!r}")
        for name, choice in (("classifier", self.classifier), ("embeddings", self.embeddings)):
            if choice not in ("good", "hang"):
                raise ValueError(f"{name} must be 'good' or 'hang', not {choice!r}")
        if not 0 <= check_whole("port", self.port) <= 65535:
            raise ValueError(f"port must be between 0 and 65535, not {self.port}")
        if self.storm is not None and check_whole("storm", self.storm) < 1:
            raise ValueError(f"storm must be at least 1 request, not {self.storm}")
        try:
            groups = re.compile(self.task_pattern).groups
        except re.error as error:
            raise ValueError(f"task_pattern is not a regular expression: {error}") from None
        if groups < 1:
            raise ValueError("task_pattern needs a group that holds the task's name, like r'task (\\d+)'")

    def to_arguments(self) -> list[str]:
        """The command line that gives these options again."""
        arguments = ["--mix", ",".join(f"{name}={weight}" for name, weight in self.mix.items())]
        for name in ("seed", "minute", "tasks", "deadline", "log", "host", "port", "classifier", "embeddings",
                     "storm", "task_pattern"):
            value = getattr(self, name)
            if value is not None:
                # --name=value: a value that begins with a dash is not taken for an option
                arguments.append(f"--{name.replace('_', '-')}={value}")
        return arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a server on `parser`."""
    defaults = ServerOptions()
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--host", default=defaults.host,
                        help="address to listen on (default %(default)s; anything else is seen by your network)")
    parser.add_argument("--mix", default="good=1", metavar="NAME=N,...",
                        help="behaviours and their weights (default %(default)s); known: " + ", ".join(BEHAVIOURS))
    parser.add_argument("--seed", type=int, default=0, help="which task gets which behaviour (default %(default)s)")
    parser.add_argument("--tasks", type=int, help="how many tasks to deal the mix to (default: the sum of the weights)")
    parser.add_argument("--minute", type=float, default=defaults.minute, metavar="SECONDS",
                        help="how long one minute of the server's periods takes; 60 is real time (default %(default)s)")
    parser.add_argument("--deadline", type=float, metavar="SECONDS",
                        help="mark what a task does later than this after its first request (default: mark nothing)")
    parser.add_argument("--log", metavar="PATH", help="append one JSON line per event to this file ('-': to stdout)")
    parser.add_argument("--classifier", choices=("good", "hang"), default="good",
                        help="how error classification requests are answered (default %(default)s)")
    parser.add_argument("--embeddings", choices=("good", "hang"), default="good",
                        help="how embeddings requests are answered (default %(default)s)")
    parser.add_argument("--storm", type=int, metavar="N",
                        help="storm429 answers a task's first N requests with 429, then is good (default: always 429)")
    parser.add_argument("--task-pattern", default=TASK_PATTERN, metavar="REGEX",
                        help="finds a task's name, as group 1, in the first user message (default %(default)s)")


def from_arguments(arguments: argparse.Namespace) -> ServerOptions:
    """The options a parser prepared by `add_arguments` has read. Raises ValueError for values that make no sense."""
    return ServerOptions(
        mix=parse_mix(arguments.mix), seed=arguments.seed, minute=arguments.minute, tasks=arguments.tasks,
        deadline=arguments.deadline, log=arguments.log, host=arguments.host, port=arguments.port,
        classifier=arguments.classifier, embeddings=arguments.embeddings, storm=arguments.storm,
        task_pattern=arguments.task_pattern,
    )
