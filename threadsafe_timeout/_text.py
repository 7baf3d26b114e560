"""Names, keys and reasons as a person reads them: in log lines, error texts and on terminals.

They come from a model's output as often as not. Raw, a line break in one forges a log line, an escape sequence does
what it likes with the terminal, and a bidirectional control shows the text around it in another order. Attributes and
record fields keep them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Place", "escaped", "nearest", "place", "shown"]

_LONGEST = 300  # characters: more of a name helps nobody

Place = tuple[str, int, str]  # file, line, function


def shown(value: object) -> str:
    """`value` as one piece of one line: as it is if all of it can be printed, else quoted and escaped as in Python."""
    text = value if type(value) is str else str(value)
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    return text if text.isprintable() else repr(text)


def escaped(line: str) -> str:
    """A whole line, without its end, with what cannot be printed escaped."""
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def place(where: Place) -> str:
    """A place in a program, in the form that terminals and editors make a link of."""
    file, line, function = where
    return f"{shown(file)}:{line}, in {shown(function)}"


def nearest(word: object, known: Iterable[str], *, like: float = 0.6) -> str:
    """`"; did you mean 'x'?"` for the one of `known` that `word` was meant to be, most likely; else nothing."""
    import difflib

    by_form = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(str(word).strip().lower().replace("-", "_"), by_form, n=1, cutoff=like)
    return f"; did you mean {by_form[found[0]]!r}?" if found else ""
