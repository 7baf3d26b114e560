"""Say what `import threadsafe_timeout.auto` does here: what is patched, with versions, what is not and why, and the
settings in force with the source of each.

It imports what is installed of what the patches are for, and nothing of yours. In a program of yours:
`from threadsafe_timeout.doctor import report; print(report())`. The exit status is 1 if a patch failed or is out of
range, 2 if a setting is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys

from threadsafe_timeout._errors import SettingError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "say what is patched here, what is not and why, and the settings in force"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    from threadsafe_timeout import doctor
    from threadsafe_timeout._patching import install as _install

    was_installed = _install.installed() is not None
    try:
        _install.install()
    except SettingError as error:
        sys.stderr.write(f"threadsafe-timeout doctor: {error}\n")
        return 2
    try:
        doctor.import_installed()
        found = doctor.examine()
        sys.stdout.write((json.dumps(found, indent=2) if args.json else doctor.report()) + "\n")
    finally:
        if not was_installed:
            _install.uninstall()
    return int(any(patch["state"] in ("failed", "out of range") for patch in found["patches"]))
