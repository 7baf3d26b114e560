"""The `threadsafe-timeout` command. Each subcommand is a module found through an entry point.

A command module has `HELP` (one line), `add_arguments(parser)` and `run(args) -> int` (the exit status). Only the
command asked for is imported, so `threadsafe-timeout fake-llm` does not pay for what `replay` needs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, version
from typing import NoReturn

from threadsafe_timeout._environment.distributions import entry_points
from threadsafe_timeout._errors import MissingExtraError, SettingError
from threadsafe_timeout._text import nearest

__all__ = ["main"]

GROUP = "threadsafe_timeout.commands"


def _add_command(subparsers: argparse._SubParsersAction[_Parser], entry: EntryPoint) -> None:
    module = entry.load()
    parser = subparsers.add_parser(entry.name, help=module.HELP, description=module.__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


class _Parser(argparse.ArgumentParser):
    """One that suggests what was meant."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)$", message)
        if found is not None:
            message += nearest(found[1], [word.strip(" '") for word in found[2].split(",")])
        found = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if found is not None:
            message += nearest(found[1], _options(self))
        super().error(message)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All that it and its subcommands take."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _options(inner)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status. A missing extra or a bad setting is told in one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {entry.name: entry for entry in entry_points(GROUP)}
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    parser = _Parser(prog="threadsafe-timeout", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=version("threadsafe-timeout"))
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    try:
        if wanted is not None and wanted not in commands:
            parser.error(f"invalid choice: '{wanted}' (choose from {', '.join(sorted(commands))})")
        for entry in [commands[wanted]] if wanted is not None else commands.values():
            _add_command(subparsers, entry)
        options = parser.parse_args(arguments)
        status: int = options.run(options)
        return status
    except (MissingExtraError, SettingError) as error:
        sys.stderr.write(f"threadsafe-timeout: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
