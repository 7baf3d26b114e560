"""The pages in a real browser: whole at each width, light and dark, quiet, and alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Page, chromium, needs_chromium
from made_pages import ANSWERS, hostile_report, large_report, replay_page

pytestmark = [pytest.mark.stress, needs_chromium]
MAKERS = {"hostile": hostile_report, "large": large_report, "replay": replay_page}

# What is beyond the page's edges, of whatever does not scroll in itself; and of a picture, what is beyond its own.
LOOK = """(() => {
  const wide = document.documentElement.clientWidth, inside = (box, outer) =>
    box.left >= outer.left - 1 && box.right <= outer.right + 1 && box.top >= outer.top - 1 && box.bottom <= outer.bottom + 1;
  const pictures = [...document.querySelectorAll("figure svg[role=img], svg.chart")]
    .filter(one => getComputedStyle(one).display !== "none");
  const parts = "text, path, rect, circle, line";
  return {
    scrolls: document.documentElement.scrollWidth, width: window.innerWidth, pictures: pictures.length,
    small: pictures.filter(one => one.getBoundingClientRect().width < 200 || one.getBoundingClientRect().height < 20).length,
    wider: pictures.filter(one => !inside({...one.getBoundingClientRect().toJSON(), top: 0, bottom: 0},
                                          {left: 0, right: wide, top: 0, bottom: 0}))
                   .map(one => one.textContent.slice(0, 60)),
    cut: pictures.flatMap(one => [...one.querySelectorAll(parts)]
      .filter(part => !part.closest("defs") && !inside(part.getBoundingClientRect(), {
        left: 0, right: wide, top: one.getBoundingClientRect().top - 8, bottom: one.getBoundingClientRect().bottom + 8}))
      .map(part => `${part.tagName} ${part.getAttribute("class")} ${part.textContent}`.slice(0, 80))),
    tiny: pictures.flatMap(one => [...one.querySelectorAll("text")]
      .filter(part => part.getBoundingClientRect().height < 8).map(part => part.textContent)),
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    text: document.body.innerText,
  };
})()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each page, made once."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, make in MAKERS.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(make(folder), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


def brightness(colour: str) -> int:
    """Of `rgb(1, 2, 3)`."""
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", list(MAKERS))
def test_the_page_is_whole_and_alone(browser: Page, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    browser.open(pages[name], width, scheme)
    seen: dict[str, Any] = browser.ask(LOOK)
    assert seen["width"] == width
    assert seen["scrolls"] <= width
    assert seen["pictures"] >= 1
    assert (seen["small"], seen["wider"], seen["cut"], seen["tiny"]) == (0, [], [], [])
    assert (brightness(seen["paper"]) > brightness(seen["ink"])) == (scheme == "light")
    for words in ANSWERS[name]:
        assert words in seen["text"]
    assert browser.requests() == [pages[name].as_uri()]
    assert browser.complaints() == []


def test_what_it_asks_finds_a_page_that_is_not_so(browser: Page, tmp_path: Path) -> None:
    """Else the test above could pass on anything."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<meta charset=utf-8><body style='margin: 0'><div style='width: 900px'>wide</div><svg class=chart role=img width=600 "
        "height=100><text x=580 y=50>cut off</text></svg><script>console.error('loud')</script>"
        "<img src=http://127.0.0.1:9/away.png>"
    )
    browser.open(bad, 390, "light")
    seen = browser.ask(LOOK)
    assert seen["scrolls"] > 390
    assert seen["wider"] == ["cut off"]
    assert [part for part in seen["cut"] if "cut off" in part]
    assert "http://127.0.0.1:9/away.png" in browser.requests()
    assert [event for event in browser.complaints() if event["method"] == "Runtime.consoleAPICalled"]
