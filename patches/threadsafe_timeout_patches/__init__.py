"""Patches: one module per patched library or runner, found through entry points.

`DECLARED` says of each what its own module says of it, so that `install()` need not import it before the first of
the modules that it patches. `selectors` is not here: what it patches in `select`, a class of the standard `selectors`
takes as its own, so that has to be imported before the patch is applied.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the import of `typing` takes longer than that of this module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DECLARED"]

DECLARED: dict[str, dict[str, Any]] = {
    "aiohttp": {"MODULES": ("aiohttp.client",), "SUPPORTED": {"aiohttp": ">=3.8,<4"}},
    "anthropic": {"MODULES": ("anthropic._base_client",), "SUPPORTED": {"anthropic": ">=0.40,<3"}},
    "asyncio": {"MODULES": ("asyncio.base_events", "asyncio.runners", "asyncio.tasks")},
    "bedrock": {
        "MODULES": ("botocore.client", "botocore.response", "botocore.eventstream"),
        "SUPPORTED": {"botocore": ">=1.31,<2"},
    },
    "cohere": {"MODULES": ("cohere.core.http_client",), "SUPPORTED": {"cohere": ">=5.5,<8"}},
    "futures": {"MODULES": ("concurrent.futures.thread",)},
    "google_genai": {
        "MODULES": ("google.genai._api_client", "google.genai._gaos.basesdk"),
        "SUPPORTED": {"google-genai": ">=1.16,<4"},
    },
    "http_client": {"MODULES": ("http.client", "urllib.request")},
    "httpcore": {
        "MODULES": (
            "httpcore._backends.anyio", "httpcore._sync.http_proxy", "httpcore._sync.socks_proxy",
            "httpcore._async.http_proxy", "httpcore._async.socks_proxy", "httpcore2._backends.anyio",
            "httpcore2._sync.http_proxy", "httpcore2._sync.socks_proxy", "httpcore2._async.http_proxy",
            "httpcore2._async.socks_proxy",
        ),
        "SUPPORTED": {"httpcore": ">=1.0,<2", "httpcore2": ">=2,<3"},
    },
    "httpx": {"MODULES": ("httpx._client", "httpx2._client"), "SUPPORTED": {"httpx": ">=0.25,<1", "httpx2": ">=2,<3"}},
    "legacy_runner": {
        "MODULES": ("batch_test_runner", "interactive_executor"),
        "CLASSES": ("BatchTestRunner", "InteractiveExecutor"),
    },
    "litellm": {
        "MODULES": (
            "litellm", "litellm.router", "litellm.router_rust.core", "litellm.litellm_core_utils.streaming_handler",
        ),
        "SUPPORTED": {"litellm": ">=1.60,<2"},
        "IMPORT_WITH": {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    },
    "locks": {"MODULES": ("threading",), "OPT_IN": True},
    "mistralai": {
        "MODULES": (
            "mistralai.basesdk", "mistralai.client.basesdk", "mistralai.azure.client.basesdk",
            "mistralai.gcp.client.basesdk",
        ),
        "SUPPORTED": {"mistralai": ">=1.0,<4"},
    },
    "multiprocessing": {
        "MODULES": (
            "multiprocessing.connection", "multiprocessing.managers", "multiprocessing.popen_fork",
            "multiprocessing.process", "multiprocessing.queues",
        ),
    },
    "multiprocessing_pool": {"MODULES": ("multiprocessing.pool",)},
    "ollama": {"MODULES": ("ollama._client",), "SUPPORTED": {"ollama": ">=0.4,<1"}},
    "openai": {"MODULES": ("openai._base_client",), "SUPPORTED": {"openai": ">=1.40,<4"}},
    "opentelemetry": {
        "MODULES": ("opentelemetry.metrics", "opentelemetry.trace"),
        "SUPPORTED": {"opentelemetry-api": ">=1.24,<2"},
    },
    "processes": {
        "MODULES": (
            "concurrent.futures.process", "multiprocessing.pool", "multiprocessing.process", "multiprocessing.queues",
            "multiprocessing.util", "os", "subprocess",
        ),
    },
    "queue": {"MODULES": ("queue",)},
    "requests": {"MODULES": ("requests.sessions", "requests.models"), "SUPPORTED": {"requests": ">=2.25,<3"}},
    "signal_alarm": {
        "MODULES": ("signal", "wrapt_timeout_decorator.wrap_helper"),
        "SUPPORTED": {"wrapt-timeout-decorator": ">=1.3.12,<2"},
    },
    "socket": {"MODULES": ("socket",)},
    "ssl": {"MODULES": ("ssl",)},
    "subprocess": {"MODULES": ("subprocess",)},
    "threading": {"MODULES": ("threading",)},
    "time": {"MODULES": ("time",)},
    "urllib3": {
        "MODULES": ("urllib3.connectionpool", "urllib3.poolmanager", "urllib3.response"),
        "SUPPORTED": {"urllib3": ">=1.26,<3"},
    },
}
