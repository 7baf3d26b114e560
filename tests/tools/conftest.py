"""These run beside other tools, which an extra of their own installs: `pip install -e '.[test-tools]'`."""

from importlib.util import find_spec

import pytest

NEEDED = ("coverage", "debugpy", "eventlet", "gevent", "httpx", "jaxtyping", "openai", "typeguard")

_missing = [name for name in NEEDED if find_spec(name) is None]
if _missing:
    raise pytest.UsageError(f"tests/tools needs {', '.join(_missing)}: pip install -e '.[test-tools]'")
