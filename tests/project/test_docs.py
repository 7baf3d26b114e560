"""The pages as such: their links lead somewhere, the index lists all of them, their examples are Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from doc_links import PAGES, ROOT, broken, html, markdown, slug


def test_every_link_and_anchor_leads_somewhere():
    assert broken(PAGES) == []


def test_the_index_lists_every_page():
    listed = set(markdown((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))[1])
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_are_python(page: Path):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        ast.parse(block)


def test_what_leads_nowhere_is_found(tmp_path: Path):
    (tmp_path / "a.md").write_text(
        "# One `code` thing\n# One `code` thing\n[x](#one-code-thing-1) [y](#two) [z](b.html#there) [v](b.html#gone) [w](c.md)\n"
        "`[no](nowhere.md)`\n\n    [code](nowhere.md)\n\n```\n[code](nowhere.md)\n```\n[far](https://example.org/#x)\n"
    )
    (tmp_path / "b.html").write_text('<a id="there" href="a.md#one-code-thing"></a><a href="#no">')
    assert broken([tmp_path / "a.md", tmp_path / "b.html"]) == [
        "a.md: #two", "a.md: b.html#gone", "a.md: c.md", "b.html: #no"
    ]  # fmt: skip


def test_anchors_are_those_of_github():
    assert slug("3.14 and 3.15") == "314-and-315"
    assert slug("`map` and similar functions") == "map-and-similar-functions"
    assert slug("`multiprocessing.pool.ThreadPool`") == "multiprocessingpoolthreadpool"
    assert html('<h2 id="a">x</h2><img src="p.png">') == ({"a"}, ["p.png"])
