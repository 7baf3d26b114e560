"""`python -m threadsafe_timeout` is the command `threadsafe-timeout`."""

import sys

from threadsafe_timeout.cli import main

if __name__ == "__main__":
    sys.exit(main())
