"""What every test gets: a check that it left no thread behind, and none that is still to be interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import threadsafe_timeout
from threadsafe_timeout._interruption import pursuit as _pursuit

# Every HTTP client, here and in the processes that tests start, reads the certificates it trusts: one instead of all
# those of the system, which take it a twentieth of a second.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("loopback_tls.pem"))

# A shell that starts the tests in the background has SIGINT ignored, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Started once per process and shared by design; never counted as a leak. By the beginnings of their names.
SHARED_THREADS = ("threadsafe-timeout-timer", "litellm-logging")


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(SHARED_THREADS)}


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a thread running. A thread that is on its way out gets a bounded wait."""
    before = _threads()
    yield
    leaked = _threads() - before
    for thread in leaked:
        thread._started.wait(120)  # one that is being started is listed already, and cannot be joined yet
        thread.join(timeout=120)
    alive = [thread.name for thread in leaked if thread.is_alive()]
    assert not alive, f"the test left threads running: {alive}"
    until = time.monotonic() + 120
    while _pursuit._targets and time.monotonic() < until:
        os.sched_yield()
    assert not _pursuit._targets, "a thread that has left its scope is still pursued"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What stuck tasks wait for; set at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting comes from the environment or from a pyproject.toml, and what the test installs is undone."""
    for name in list(os.environ):
        if name.startswith("THREADSAFE_TIMEOUT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    threadsafe_timeout.uninstall()
