"""The tests of the LLM clients other than openai and anthropic. They need packages that are heavy: the extra `test-clients`.

Run by name, and by `.ci/run`; the default run leaves them out. A package that is missing is an error, and skips nothing.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the network for one
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
NEEDED = ("aiohttp", "boto3", "cohere", "google.genai", "litellm", "mistralai", "ollama")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


missing = [module for module in NEEDED if not _is_there(module)]
if missing:
    raise pytest.UsageError(f"tests/clients needs {', '.join(missing)}: pip install -e '.[test-clients]'")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the clients leave to the collector is not what is tested here. Their own threads may have it run at any time,
    in a test of another client."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning"))
