"""A fake LLM server for tests. It speaks the OpenAI API on loopback, in its own process, and misbehaves as you ask.

    from threadsafe_timeout.testing.fake_llm import FakeLLM

    with FakeLLM(mix={"hang": 40, "trickle": 20, "search": 20, "good": 20}, minute=1.0, deadline=10.0) as llm:
        run_my_batch(base_url=llm.base_url)
    late = [request for request in llm.requests() if request.late]

Its log has every request, so a test can check what reached the server. Needs the extra `fake-llm`. Start with
`_client`, then `_server`.
"""

from threadsafe_timeout.testing.fake_llm._client import FakeLLM
from threadsafe_timeout.testing.fake_llm._log import ConnectionRecord, RequestRecord, ServerLog, read_log
from threadsafe_timeout.testing.fake_llm._mix import BEHAVIOURS, parse_mix
from threadsafe_timeout.testing.fake_llm._options import ServerOptions

__all__ = [
    "BEHAVIOURS",
    "ConnectionRecord",
    "FakeLLM",
    "RequestRecord",
    "ServerLog",
    "ServerOptions",
    "parse_mix",
    "read_log",
]
