"""Links and anchors of documentation pages, in Markdown and in HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "MIGRATION.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))

Page = tuple[set[str], list[str]]  # its anchors, and where its links lead


def prose(text: str) -> str:
    """Markdown without its code, in which brackets and # mean something else. Code spans keep their text in headings."""
    lines, fenced, code = [], False, False
    previous = ""
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            # Four spaces after an empty line; in a list, that is its next paragraph, which has no code here.
            code = line.startswith("    ") and (code or not previous.strip())
            if not code:
                lines.append(line)
        previous = line
    return "\n".join(lines)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def markdown(text: str) -> Page:
    body = prose(text)
    anchors: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", body, re.MULTILINE):
        name, number = slug(heading), 0
        while (f"{name}-{number}" if number else name) in anchors:
            number += 1
        anchors.add(f"{name}-{number}" if number else name)
    links = re.findall(r"\]\(([^()\s]*(?:\([^()]*\))?[^()\s]*)\)", re.sub(r"`[^`]*`", "`", body))
    return anchors, links


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.links.append(value)


def html(text: str) -> Page:
    parser = _Html()
    parser.feed(text)
    return parser.anchors, parser.links


READERS: dict[str, Callable[[str], Page]] = {".md": markdown, ".html": html}


def broken(pages: Iterable[Path]) -> list[str]:
    """Each link that leads nowhere, as "page: link". Links to other servers are not followed."""
    known: dict[Path, Page] = {}

    def read(page: Path) -> Page:
        if page not in known:
            known[page] = READERS[page.suffix](page.read_text(encoding="utf-8"))
        return known[page]

    wrong = []
    for page in pages:
        for link in read(page)[1]:
            parts = urlsplit(link)
            if parts.scheme:  # https, mailto, data
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target.suffix in READERS and anchor not in read(target)[0]):
                wrong.append(f"{page.name}: {link}")
    return wrong
