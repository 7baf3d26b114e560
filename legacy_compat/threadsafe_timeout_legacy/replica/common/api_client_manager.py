"""Builds API clients, a new one for each task."""

from __future__ import annotations

import os

from legacy_clock import seconds
from openai import AzureOpenAI, OpenAI

DEFAULT_MODEL = "DeepSeek-R1-0528"


class APIClientManager:
    """Knows which kind of client a model needs."""

    def __init__(self, key_index: int | None = None) -> None:
        keys = os.environ.get("LEGACY_API_KEY", "unused").split(",")
        self.api_key = keys[(key_index or 0) % len(keys)]
        self.base_url = os.environ.get("LEGACY_BASE_URL", "http://127.0.0.1:8089/v1")

    def get_client(self, model: str = DEFAULT_MODEL) -> OpenAI:
        # max_retries stays at the client's default, 2: a hang costs three timeouts
        if model.startswith("azure-"):
            return AzureOpenAI(
                api_key=self.api_key,
                azure_endpoint=self.base_url.removesuffix("/").removesuffix("/v1"),
                api_version="2024-02-01",
                timeout=seconds(600),
            )
        return OpenAI(api_key=self.api_key, base_url=self.base_url, timeout=seconds(600))


def get_client_for_model(model: str = DEFAULT_MODEL, key_index: int | None = None) -> OpenAI:
    return APIClientManager(key_index).get_client(model)
