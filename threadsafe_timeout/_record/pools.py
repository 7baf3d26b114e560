"""What the pools of a run have done, those that are over included: one line of counts for each name."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING

from threadsafe_timeout._introspection.secrets import without_known_secrets
from threadsafe_timeout._record.snapshot import pool_line

if TYPE_CHECKING:
    from threadsafe_timeout._record.snapshot import AnyCrew

__all__ = ["OTHERS", "Pools"]

_MOST = 100  # names
OTHERS = "(other pools)"


class Pools:
    """The counts. A pool is held as long as it may have news, so that none is lost that ends between two looks; while
    nobody looks, none is."""

    def __init__(self) -> None:
        self.lines: dict[str, dict[str, int]] = {}
        self.listed: Counter[str] = Counter()  # how many of their tasks have a line of their own
        self.held: set[AnyCrew] = set()
        self._unheld: list[tuple[weakref.ref[AnyCrew], str, dict[str, int]]] = []
        self._over: dict[str, Counter[str]] = {}
        self._folded: weakref.WeakSet[AnyCrew] = weakref.WeakSet()  # those that are in there

    def name(self, prefix: str) -> str:
        """What a pool is called: by its prefix, if it is one of the first, without secrets."""
        name = without_known_secrets(prefix)
        if name not in self.lines and len(self.lines) >= _MOST:
            return OTHERS
        self.lines.setdefault(name, {})
        return name

    def look(self, crews: list[AnyCrew]) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        """Bring the counts up to date: the widths of the pools that are new, by name, and the lines that changed."""
        self._hold(crews)
        known = {name for name, line in self.lines.items() if line}
        found = {name: Counter(counts) for name, counts in self._over.items()}
        widths: dict[str, int] = {}
        for crew in list(self.held):
            name = self.name(crew.prefix)
            if name not in known:
                widths[name] = max(widths.get(name, 0), crew.width)
            is_gone = crew.is_gone()  # before its counts are taken: they are final then
            line = pool_line(crew)
            found.setdefault(name, Counter()).update(line)
            if is_gone:
                self._fold(crew, name, line)
        changed: dict[str, dict[str, int]] = {}
        for name, counts in found.items():
            whole = dict(counts) | {"unlisted": self._unlisted(name, counts)}
            if whole != self.lines.get(name):
                changed[name] = self.lines[name] = whole
        return widths, changed

    def _hold(self, crews: list[AnyCrew]) -> None:
        unheld, self._unheld = self._unheld, []
        for reference, name, line in unheld:
            crew = reference()
            if crew is not None:
                self.held.add(crew)
            else:
                self._add_over(name, line)
        self.held.update(crew for crew in crews if crew not in self._folded)

    def _fold(self, crew: AnyCrew, name: str, line: dict[str, int]) -> None:
        self.held.discard(crew)
        self._folded.add(crew)
        self._add_over(name, line)

    def _add_over(self, name: str, line: dict[str, int]) -> None:
        gone = {"workers": 0, "idle": 0, "running": 0, "pending": 0, "abandoned_alive": 0, "effective": 0, "width": 0}
        self._over.setdefault(name, Counter()).update({**line, **gone})

    def let_go(self) -> None:
        """Nobody looks until there is news."""
        self._unheld += [(weakref.ref(crew), self.name(crew.prefix), pool_line(crew)) for crew in self.held]
        self.held.clear()

    def have_news(self, crews: list[AnyCrew]) -> bool:
        """Whether one of them got a task since `look`, though all are let go of."""
        seen = {reference(): line["submitted"] for reference, _, line in self._unheld}
        return any(crew not in self._folded and seen.get(crew) != crew.submitted for crew in crews)

    def _unlisted(self, name: str, counts: Counter[str]) -> int:
        return max(0, counts["completed"] + counts["failed"] + counts["abandoned"] - self.listed[name])
