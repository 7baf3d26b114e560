"""What the tests of waits get."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker

import pytest
from threadsafe_timeout_patches import _descriptors


@pytest.fixture
def running() -> Iterator[threading.Thread]:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, daemon=True)
    thread.start()
    yield thread
    over.set()
    thread.join()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def no_leaked_descriptors() -> Iterator[None]:
    def open_now() -> int:
        if not os.path.exists("/proc/self/fd"):
            return 0
        return len(os.listdir("/proc/self/fd")) - len(_descriptors._spare)  # those are kept for the next waiter

    resource_tracker.ensure_running()  # one for the whole process, and started by the first to need it
    before, until = open_now(), time.monotonic() + 120
    yield
    while open_now() > before:  # another thread may look at something, or an object not have been collected yet
        assert time.monotonic() < until, "descriptors were left open"
        gc.collect()
