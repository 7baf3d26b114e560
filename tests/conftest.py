"""What every test gets: a check that it left no thread behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

# Every HTTP client, here and in the processes that tests start, reads the certificates it trusts: one instead of all
# those of the system, which take it a twentieth of a second.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("loopback_tls.pem"))

# A shell that starts the tests in the background has SIGINT ignored, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Started once per process and shared by design; never counted as a leak.
SHARED_THREADS = frozenset({"threadsafe-timeout-timer"})


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name not in SHARED_THREADS}


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a thread running. A thread that is on its way out gets a bounded wait."""
    before = _threads()
    yield
    leaked = _threads() - before
    for thread in leaked:
        thread._started.wait(5)  # one that is being started is listed already, and cannot be joined yet
        thread.join(timeout=5)
    alive = [thread.name for thread in leaked if thread.is_alive()]
    assert not alive, f"the test left threads running: {alive}"
