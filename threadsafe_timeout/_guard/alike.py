"""Whether two results say the same: texts that differ in white space, dates, times, durations and addresses only."""

from __future__ import annotations

import re

__all__ = ["LONGEST", "fingerprint", "may_be_alike", "result_fingerprint", "shortened"]

# Of a longer text the beginning and the end are compared, so that the cost of a turn is bounded.
LONGEST = 8_000
# Other numbers than these stay: a counter that goes up is progress. (It begins with a set of characters: so it is found
# four times as fast as with alternatives that do. A duration begins where its digits begin, and is not tried again at
# each of them: a long number would take time by its square.)
_FLEETING = re.compile(
    r"[0-9](?:[0-9]{3}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|[0-9]?:\d\d:\d\d(?:[.,]\d+)?|x[0-9a-fA-F]{6,}"
    r"|(?<![0-9]{2})[0-9]*+(?:\.[0-9]++)? ?(?:ms|seconds?|secs?|s|minutes?)\b)"
)
_FLEETING_LENGTH = 300  # by so much may two texts differ in length for their times and durations
_LONGEST_FLEETING = 48  # a longer number is none
_MOST_DIFFERENCES = 8  # that are looked at one by one


def shortened(text: str) -> str:
    """The text, or the beginning and the end of a long one with its length between them."""
    if len(text) <= 2 * LONGEST:
        return text
    return f"{text[:LONGEST]}\0{len(text)}\0{text[-LONGEST:]}"


def fingerprint(text: str) -> int:
    """The same number for texts that differ in white space only. Valid within this process."""
    return hash(" ".join(shortened(text).split()))


def result_fingerprint(text: str) -> int:
    """The same number for results that differ in white space, times and durations only."""
    return hash(" ".join(_FLEETING.sub("#", shortened(text)).split()))


def may_be_alike(one: str, other: str) -> bool:
    """False if the fingerprints of two results cannot be equal. A fingerprint takes many times as long as this: an
    agent that asks for the same again and again mostly gets a number that goes up, and that is found at the first place
    where the texts differ."""
    if abs(len(one) - len(other)) > _FLEETING_LENGTH:
        return False
    here = there = 0
    for _ in range(_MOST_DIFFERENCES):
        same = _common(one[here:], other[there:])
        here, there = here + same, there + same
        if here >= len(one) or there >= len(other) or one[here].isspace() or other[there].isspace():
            return True
        first, second = _end_of_fleeting(one, here), _end_of_fleeting(other, there)
        if not first or not second:
            return bool(first or second)
        here, there = first, second
    return True


def _common(one: str, other: str) -> int:
    """The length of the beginning that two texts share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if other.startswith(one[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def _end_of_fleeting(text: str, place: int) -> int:
    """Where the time, duration or address ends that this place is in; 0 if it is in none."""
    found = _FLEETING.search(text, max(0, place - _LONGEST_FLEETING), place + _LONGEST_FLEETING)
    while found is not None and found.start() <= place:
        if found.end() > place:
            return found.end()
        found = _FLEETING.search(text, found.end(), place + _LONGEST_FLEETING)
    return 0
