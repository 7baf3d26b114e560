"""A terminal in memory: what a person would see of what was written to it."""

from __future__ import annotations

import io
import re

_PIECES = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|(.)", re.DOTALL)


class Tty(io.BytesIO):
    def isatty(self) -> bool:
        return True

    def close(self) -> None:
        """What was written stays, when the stream over it is gone."""


def new_stream(tty: Tty) -> io.TextIOWrapper:
    """A stream as Python makes it for a terminal."""
    return io.TextIOWrapper(tty, "utf-8", line_buffering=True, write_through=True)


def visible(written: str) -> list[str]:
    """The lines on the screen, and where the cursor is among them is the last."""
    lines, row, column = [""], 0, 0
    for parameters, command, character in _PIECES.findall(written):
        if character == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append("")
        elif character == "\r":
            column = 0
        elif character:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
        elif command == "K":
            lines[row] = lines[row][:column]
        elif command == "A":
            row -= int(parameters or 1)
        else:
            assert command == "m", f"not known here: {command}"
    return [line.rstrip() for line in lines]


def shown(tty: Tty) -> list[str]:
    return visible(tty.getvalue().decode())
