"""Parts of a page that is one file: no script, no network, and everything that is not ours is escaped.

`element` builds HTML. What it is given as a plain `str` is text, and escaped; only `Html`, which `element` itself made,
goes in as it is. So nothing from a run, a task or a model becomes markup by being forgotten.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from threadsafe_timeout._text import escaped

__all__ = ["Html", "cut", "document", "element", "folded", "scrolling", "section", "table", "text"]

_CSS = Path(__file__).with_name("page.css")
_EMPTY = frozenset({"br", "circle", "line", "meta", "path", "rect"})  # they have no end tag, or need none


class Html(str):
    """Markup that was built here: it is not escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """`value` as text of a page. Control, bidirectional and other invisible characters show as escapes."""
    return value if isinstance(value, Html) else Html(escape(escaped(str(value))))


def cut(value: str, longest: int) -> str:
    """The beginning of a long text. What is cut off is marked."""
    return value if len(value) <= longest else value[:longest] + "…"


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """One element. A trailing `_` of an attribute's name is dropped, other ones become `-`; None leaves it out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY and not children:
        return Html(f"<{name}{given}/>" if name not in ("br", "meta") else f"<{name}{given}>")
    return Html(f"<{name}{given}>{''.join(text(child) for child in children)}</{name}>")


def document(title: str, parts: Iterable[Html], *, style: str = "") -> Html:
    """The whole page. `style` is CSS in addition to that of all pages. The policy allows this one style, and nothing
    else: no script, no image, no request."""
    style = _CSS.read_text(encoding="utf-8") + style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = (
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        Html(f"<style>{style}</style>"),
    )
    skip = element("a", "Skip to the content", class_="skip", href="#main")
    main = element("main", *_lines(parts), id="main", tabindex="-1")
    whole = element("html", element("head", *_lines(head)), element("body", *_lines((skip, main))), lang="en")
    return Html(f"<!doctype html>\n{whole}\n")


def _lines(parts: Iterable[Html]) -> Iterable[Html]:
    """Each on a line of its own, for those who read the source."""
    return (Html(f"\n{part}") for part in parts)


def section(name: str, heading: str, *parts: object) -> Html:
    """A part of the page with a heading of the second level, and `name` to link to."""
    return element("section", element("h2", heading, id=f"{name}-heading"), *parts, id=name,
                   aria_labelledby=f"{name}-heading")


def folded(summary: object, *parts: object, is_open: bool = False) -> Html:
    """Something to open. Printed, it is open."""
    return element("details", element("summary", summary), *parts, open="" if is_open else None)


def scrolling(what: str, *parts: object) -> Html:
    """For what may be wider than a small screen: it scrolls in itself, also by keyboard."""
    return element("div", *parts, class_="scroll", tabindex="0", role="region", aria_label=what)


def table(
    caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], *, numbers: Iterable[int] = ()
) -> Html:
    """A table that scrolls in itself. The first cell of a row is its heading; `numbers` are the columns to align
    right. The caption is for those who do not see the page."""
    right = frozenset(numbers)

    def kind(column: int) -> str | None:
        return "number" if column in right else None

    top = element("tr", *(element("th", cell, scope="col", class_=kind(column)) for column, cell in enumerate(head)))
    body = [
        element("tr", *(
            element("td" if column else "th", cell, class_=kind(column), scope=None if column else "row")
            for column, cell in enumerate(row)
        ))
        for row in rows
    ]  # fmt: skip
    return scrolling(caption, element(
        "table", element("caption", caption), element("thead", top), element("tbody", *_lines(body))
    ))  # fmt: skip
