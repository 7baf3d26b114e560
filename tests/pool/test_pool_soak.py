"""Many tasks through one pool, every tenth stuck: one outcome each, nothing lost, nothing that grows."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak_pool.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak_pool", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak_pool"] = module
    spec.loader.exec_module(module)
    return module


def test_a_few_hundred_tasks(soak, caplog):
    caplog.set_level(logging.CRITICAL, "threadsafe_timeout")
    found, figures = soak.run(300, width=4, traced=False)
    assert not found, figures


@pytest.mark.stress
@pytest.mark.timeout(580)
def test_a_soak_leaves_no_allocation_behind(soak, caplog):
    """(Traced, which is slow. The script itself takes as many tasks as you have time for.)"""
    caplog.set_level(logging.CRITICAL, "threadsafe_timeout")
    found, figures = soak.run(4_000, traced=True)
    assert not found, figures
