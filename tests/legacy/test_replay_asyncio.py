"""The replica's batch with its loop on asyncio: `threadsafe-timeout replay --engine asyncio`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from threadsafe_timeout_legacy.replay._plan import Plan

from threadsafe_timeout import cli
from threadsafe_timeout.testing.fake_llm import parse_mix

OPTIONS = ["replay", "--engine", "asyncio", "--only", "after", "--workers", "12", "--tasks", "12", "--minute", "0.5"]

_KEPT_OR_LATE = (0, 1)  # some of its promises are in seconds, which a busy machine misses; what is counted is asserted


@pytest.mark.stress
def test_it_keeps_the_promises_and_is_shown_on_the_same_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.html"
    mix = ["--mix", "hang=4,trickle=2,search=2,good=4"]
    status = cli.main([*OPTIONS, *mix, "--json", str(numbers), "--html", str(page)])
    assert status in _KEPT_OR_LATE, capsys.readouterr().err
    after = json.loads(numbers.read_text())["after"]
    assert after["database"] == after["finished"] == after["journal"] == 12
    assert after["exit_code"] == 0
    html = page.read_text()
    assert "the same batch on asyncio" in html
    assert "AsyncPool" in html
    assert "one line" not in html.replace("in one line", "")


def test_a_quick_batch_of_good_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    numbers = tmp_path / "numbers.json"
    options = ["replay", "--engine", "asyncio", "--only", "after", "--workers", "3", "--tasks", "3", "--minute", "10"]
    status = cli.main([*options, "--mix", "good=3", "--json", str(numbers)])
    assert status in _KEPT_OR_LATE, capsys.readouterr().err
    after = json.loads(numbers.read_text())["after"]
    assert after["database"] == after["journal"] == 3
    assert after["kinds"]["good"]["completed"] == 3


def test_the_plan_is_kept_with_its_engine():
    plan = Plan(engine="asyncio", mix=parse_mix("good=1"))
    assert plan.described("after") == "the same batch on asyncio"
    with pytest.raises(ValueError, match="--engine asyncio"):
        Plan(engine="asyncio", version="last")
