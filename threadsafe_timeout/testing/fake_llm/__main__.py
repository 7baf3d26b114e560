"""`python -m threadsafe_timeout.testing.fake_llm`: the same as `threadsafe-timeout fake-llm`."""

from __future__ import annotations

import argparse
import sys

from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout.testing.fake_llm import command


def main() -> int:
    parser = argparse.ArgumentParser(prog="fake-llm", description=command.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_arguments(parser)
    try:
        return command.run(parser.parse_args())
    except MissingExtraError as error:
        sys.stderr.write(f"fake-llm: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
