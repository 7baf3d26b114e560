"""Serve an OpenAI-shaped API on loopback that answers, hangs, trickles or loops, as the mix says.

It prints one line of JSON with its address when it listens, and runs until Ctrl-C. Point your runner at it:

    threadsafe-timeout fake-llm --port 8089 --mix good=60,hang=40
    OPENAI_BASE_URL=http://127.0.0.1:8089/v1 OPENAI_API_KEY=unused python my_runner.py
"""

from __future__ import annotations

import argparse
import sys

from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout._files import why_not_writable
from threadsafe_timeout.testing.fake_llm import _options

__all__ = ["HELP", "add_arguments", "run"]

HELP = "serve a fake LLM that misbehaves as you ask, to test a runner against"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options on `parser`."""
    _options.add_arguments(parser)
    parser.add_argument("--until-stdin-closes", action="store_true",
                        help="end when standard input does, so also when the process at its other end dies")


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop. 2 if the options make no sense or the address cannot be had."""
    try:
        options = _options.from_arguments(arguments)
    except ValueError as error:
        sys.stderr.write(f"fake-llm: {error}\n")
        return 2
    problem = why_not_writable(options.log) if options.log not in (None, "-") else None
    if problem is not None:
        sys.stderr.write(f"fake-llm: --log: {options.log} cannot be written: {problem}\n")
        return 2
    try:
        from threadsafe_timeout.testing.fake_llm._server import serve
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        raise MissingExtraError("the fake LLM server", "fake-llm", "h11") from error
    try:
        serve(options, until_stdin_closes=arguments.until_stdin_closes)
    except OSError as error:
        sys.stderr.write(f"fake-llm: cannot listen on {options.host} port {options.port}: {error.strerror or error}\n")
        return 2
    return 0
