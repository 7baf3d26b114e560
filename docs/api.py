"""Build the API reference from the docstrings: `python docs/api.py [FOLDER]`, by default into build/api.

Needs pdoc (the extra `dev`). A warning of pdoc's, or one that importing a module gives, ends it with an error.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

MODULES = [
    "threadsafe_timeout",
    "threadsafe_timeout.checkpoint",
    "threadsafe_timeout.guard",
    "threadsafe_timeout.doctor",
    "threadsafe_timeout.testing",
    "threadsafe_timeout.testing.fake_llm",
]


def build(folder: Path) -> None:
    """Write the pages. Links between them are relative, so they can be opened from disk."""
    warnings.simplefilter("error")
    pdoc.render.configure(docformat="markdown", show_source=False, footer_text="threadsafe-timeout")
    pdoc.pdoc(*MODULES, output_directory=folder)
    for page in folder.rglob("*.html"):
        page.write_text(_without_dead_links(page.read_text(encoding="utf-8")), encoding="utf-8")


def _without_dead_links(page: str) -> str:
    """pdoc links a name in a docstring to its entry also if that name is inherited from the standard library
    (`Timer.interval`), for which it writes no entry."""
    entries = set(re.findall(r'id="([^"]+)"', page))
    return re.sub(
        r'<a href="#([^"]+)">(.*?)</a>', lambda link: link[0] if link[1] in entries else link[2], page, flags=re.DOTALL
    )


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "build" / "api"
    build(place)
    sys.stdout.write(f"{place / 'index.html'}\n")
