"""openai's sync client: `llm_timeout` bounds one call in total, retries and back-off included, in a scope or not.

The client's own `timeout` is per read and per attempt. Past the total the client's own timeout class is raised, so that
existing handlers fit; when a scope around ends first, the scope's cancellation wins.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from threadsafe_timeout import _scope
from threadsafe_timeout._install import Patching
from threadsafe_timeout._settings import settings

__all__ = ["MODULES", "apply"]

MODULES = ("openai._base_client",)


def apply(module: ModuleType, patching: Patching) -> None:
    http = getattr(module, "httpx2", None) or module.httpx

    def request(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        limit = settings().llm_timeout
        if limit is None:
            return wrapped(*args, **kwargs)
        with _scope.move_on_after(limit, name="LLM call") as scope:
            return wrapped(*args, **kwargs)
        assert scope.cancelled_caught
        # No header and no body: only where the request went.
        raise module.APITimeoutError(request=http.Request("POST", str(client.base_url)))

    patching.wrap_object(module.SyncAPIClient, "request", request)
