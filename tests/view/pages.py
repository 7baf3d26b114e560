"""A page as a reader has it: its elements, its attributes, its words and the numbers at its top."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Elements, attributes and text of a page. `numbers`: the terms of its lists and what stands beside them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.numbers: dict[str, str] = {}
        self._within = ""
        self._term = ""
        self.feed(page)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._within = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._within == "dt":
            self._term = data
        elif self._within == "dd" and self._term:
            self.numbers[self._term] = data
            self._term = ""

    def count(self, term: str) -> int:
        return int(self.numbers[term].replace(",", ""))

    @property
    def plain(self) -> str:
        """The text, with one space between any two words."""
        return re.sub(r"\s+", " ", self.text)
