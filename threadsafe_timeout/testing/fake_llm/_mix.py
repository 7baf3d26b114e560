"""Which behaviour a task gets: a deck built from the mix, shuffled by the seed, dealt by the task's number.

The same task gets the same behaviour in every run with the same seed, whatever order the tasks arrive in, and a batch
of exactly as many tasks as the deck has cards gets exactly the mix, not a sample of it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping

from threadsafe_timeout._text import nearest

__all__ = ["BEHAVIOURS", "Deck", "parse_mix"]

BEHAVIOURS: Mapping[str, str] = {
    "good": "searches once, calls the tools the prompt requires, says that the task is completed",
    "slow": "good, but 20 to 40 legacy seconds for each answer",
    "hang": "accepts the request and never answers",
    "trickle": "sends the headers, then one byte now and then, for ever",
    "search": "always asks for another <tool_search>, each worded differently",
    "paraphrase": "always asks for the same <tool_search> in other words",
    "cycle": "asks for search A, then B, then A, then B, ...",
    "cut": "stops before the closing tag of its <tool_call>, as if that were a stop sequence, and says the same again",
    "alternate": "reads about tool A, then tool B, then A, then B, ...",
    "empty": "answers with nothing",
    "storm429": "429 with Retry-After, always or for a task's first N requests",
    "error500": "500 for every request",
    "garbage": "200 with a body that is not JSON",
    "drop": "closes the connection in the middle of the body",
}

_TRAILING_NUMBER = re.compile(r"(\d+)\D*\Z")


def parse_mix(text: str) -> dict[str, int]:
    """`"hang=40,good=60"` as a dict. Raises ValueError naming what is wrong with it."""
    mix: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, weight = part.partition("=")
        if name in mix:
            raise ValueError(f"the mix names {name!r} twice: {text!r}")
        if weight and not weight.isdecimal():
            raise ValueError(f"the weight of {name!r} in the mix must be a whole number, not {weight!r}")
        mix[name] = int(weight or 1)
    return check_mix(mix)


def check_mix(mix: Mapping[str, int]) -> dict[str, int]:
    """A copy of `mix`, checked: known behaviours, whole weights, at least one above zero."""
    unknown = [name for name in mix if name not in BEHAVIOURS]
    if unknown:
        meant = nearest(unknown[0], BEHAVIOURS)
        raise ValueError(f"unknown behaviour {unknown[0]!r} in the mix{meant}; known: {', '.join(BEHAVIOURS)}")
    if any(isinstance(weight, bool) or not isinstance(weight, int) or weight < 0 for weight in mix.values()):
        raise ValueError(f"the weights of a mix are whole numbers, zero or more: {dict(mix)!r}")
    if not any(mix.values()):
        raise ValueError("the mix needs at least one behaviour with a weight above zero")
    return dict(mix)


def stable_hash(text: str) -> int:
    """The same number in every process (`hash()` of a str is not)."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


class Deck:
    """`size` cards (default: the sum of the weights) in the proportions of `mix`, by largest remainder."""

    def __init__(self, mix: Mapping[str, int], seed: int, size: int | None = None) -> None:
        weights = check_mix(mix)
        total = sum(weights.values())
        size = total if size is None else size
        if size < 1:
            raise ValueError(f"tasks must be at least 1, not {size}")
        counts = {name: weight * size // total for name, weight in weights.items()}
        by_remainder = sorted(weights, key=lambda name: -(weights[name] * size % total))  # stable: ties in mix order
        for name in by_remainder[: size - sum(counts.values())]:
            counts[name] += 1
        self.cards = [name for name, count in counts.items() for _ in range(count)]
        random.Random(seed).shuffle(self.cards)

    def behaviour(self, task: str) -> str:
        """The card of `task`: by its trailing number, or by a hash of its name if it has none."""
        number = _TRAILING_NUMBER.search(task)
        return self.cards[(int(number[1]) if number else stable_hash(task)) % len(self.cards)]
