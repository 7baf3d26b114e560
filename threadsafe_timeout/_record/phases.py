"""What a task is in, told from its stack: by the files of its innermost frames, the innermost last."""

from __future__ import annotations

import os

from threadsafe_timeout._text import Place

__all__ = ["phase_of_coroutine", "phase_of_thread"]

# Without their folder and `.py`.
_OF_THREADS = {
    "sleep": ("sleep", "time"),
    "lock": ("threading", "queue", "locks", "_base", "thread"),
    "network": ("socket", "ssl", "selectors", "http_client", "httpcore", "urllib3", "client", "connection", "sync"),
    "process": ("subprocess", "popen_fork", "processes", "process", "_link"),
}
_OF_COROUTINES = {
    "network": (
        "streams", "sslproto", "_asyncio", "client_proto", "client_reqrep", "connector", "http11", "http2",
        "connection", "connection_pool",
    ),
    "process": ("subprocess",),
    "lock": ("locks", "queues"),
}  # fmt: skip
_IN_THREAD = {file: phase for phase, files in _OF_THREADS.items() for file in files}
_IN_COROUTINE = {file: phase for phase, files in _OF_COROUTINES.items() for file in files}
_FRAMES_OF_THREAD, _FRAMES_OF_COROUTINE = 4, 6  # how many are looked at


def phase_of_thread(stack: list[Place]) -> str:
    """What the thread that runs it waits in."""
    for file, _, _ in reversed(stack[-_FRAMES_OF_THREAD:]):
        phase = _IN_THREAD.get(_name(file))
        if phase is not None:
            return phase
    return "python" if stack else "starting"


def phase_of_coroutine(stack: list[Place]) -> str:
    """What a suspended one awaits. If that is a library's lock, to read from the network, it is the network."""
    found = {_IN_COROUTINE.get(_name(file)) for file, _, _ in stack[-_FRAMES_OF_COROUTINE:]}
    if "network" not in found and stack and stack[-1][2] == "sleep":
        return "sleep"
    return next((phase for phase in _OF_COROUTINES if phase in found), "await" if stack else "starting")


def _name(file: str) -> str:
    return os.path.basename(file).removesuffix(".py")
