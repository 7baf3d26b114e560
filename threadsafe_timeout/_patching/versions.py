"""Whether an installed version is in a range: as much of PEP 440 as a patch needs to say what it was made for.

A range is comparisons (`>=`, `>`, `<=`, `<`, `==`, `!=`) of release numbers, separated by commas, all of which must
hold: `">=1.0,<2"`. Only the release counts: `2.0rc1` and `2.0.post1` are 2.0, because that is how they behave.
"""

from __future__ import annotations

import operator
import re
from itertools import zip_longest

__all__ = ["in_range"]

_COMPARISON = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*v?(\d+(?:\.\d+)*)\s*")
_RELEASE = re.compile(r"\s*v?(?:(\d+)!)?(\d+(?:\.\d+)*)")
_OPERATORS = {
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def in_range(version: str, versions: str) -> bool:
    """Whether `version` is one of `versions`. One that is no number is not. Raises ValueError for a bad range."""
    found = _RELEASE.match(version)
    comparisons = [_comparison(part) for part in versions.split(",")]
    if found is None:
        return False
    if found[1] is not None and int(found[1]) > 0:
        return False  # an epoch: numbers that have begun anew cannot be compared with these
    return all(_OPERATORS[sign](*_padded(found[2], release)) for sign, release in comparisons)


def _comparison(text: str) -> tuple[str, str]:
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a comparison with a release, such as '>=1.0'")
    return match[1], match[2]


def _padded(one: str, other: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both as tuples of the same length: 1.0 and 1 are equal."""
    pairs = list(zip_longest(map(int, one.split(".")), map(int, other.split(".")), fillvalue=0))
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
