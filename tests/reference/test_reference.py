"""The API reference: pdoc builds it without a warning, its links lead somewhere, and every public name is in it.

Needs the extra `dev`; .ci/run runs it.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from doc_links import ROOT, broken, html

MODULES = {
    "threadsafe_timeout": "threadsafe_timeout.html",
    "threadsafe_timeout.checkpoint": "threadsafe_timeout/checkpoint.html",
    "threadsafe_timeout.doctor": "threadsafe_timeout/doctor.html",
    "threadsafe_timeout.guard": "threadsafe_timeout/guard.html",
    "threadsafe_timeout.testing": "threadsafe_timeout/testing.html",
    "threadsafe_timeout.testing.fake_llm": "threadsafe_timeout/testing/fake_llm.html",
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("api")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "docs" / "api.py"), str(place)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return place


def test_every_link_and_anchor_leads_somewhere(reference: Path):
    pages = sorted(reference.rglob("*.html"))
    assert len(pages) > len(MODULES)
    assert broken(pages) == []


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_its_place(reference: Path, name: str):
    anchors, _ = html((reference / MODULES[name]).read_text(encoding="utf-8"))
    assert set(importlib.import_module(name).__all__) <= anchors


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_says_what_it_is(name: str):
    module = importlib.import_module(name)
    undocumented = [public for public in module.__all__ if callable(getattr(module, public)) and not getattr(module, public).__doc__]
    assert undocumented == []
