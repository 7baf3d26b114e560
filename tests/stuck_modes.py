"""Ways for a task to get stuck, each with what becomes of its thread; see test_stuck_modes.py.

    python -m stuck_modes URL URL MODE...

runs these modes as an unsuspecting program would, four stuck tasks and four good ones behind them each, and ends, or
does not.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

WIDTH = 4
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "case 1"}]}'


class Hold:
    """What the stuck tasks are stuck in. Leaving it lets every one of them go."""

    def __init__(self, hanging: str, trickling: str) -> None:
        self.urls = {"hang": hanging, "trickle": trickling}  # of fake LLM servers
        self.closed = False
        self.event = threading.Event()
        self.lock = threading.Lock()
        self.lock.acquire()
        self.queue: queue.Queue[None] = queue.Queue()
        self.future: Future[None] = Future()
        # Connections wait in its backlog, where the kernel takes what they send and nobody answers.
        self.silent = socket.create_server(("127.0.0.1", 0), backlog=64)

    def child(self) -> list[str]:
        """The command of a child process that sleeps until it is killed, or until this is left."""
        return [sys.executable, "-S", "-c", f"import socket; socket.create_connection({self.address}).recv(1)"]

    @property
    def address(self) -> tuple[str, int]:
        address: tuple[str, int] = self.silent.getsockname()
        return address

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        self.event.set()
        self.lock.release()
        for _ in range(WIDTH):
            self.queue.put(None)
        self.future.set_result(None)
        self.silent.close()


def work() -> None:
    sum(range(100))


def python_loop(hold: Hold) -> None:
    while not hold.closed:
        work()


def swallowing_loop(hold: Hold) -> None:
    while not hold.closed:
        try:
            work()
        except:  # noqa: E722  (that is the mode)
            pass


def generator(hold: Hold) -> None:
    def numbers():
        number = 0
        while not hold.closed:
            number += 1
            yield number

    for _ in numbers():
        pass


def waiting_generator(hold: Hold) -> None:
    def events():
        while not hold.closed:
            yield hold.event.wait(120)

    for _ in events():
        pass


def sleep(hold: Hold) -> None:
    until = time.monotonic() + 120
    while not hold.closed and time.monotonic() < until:
        time.sleep(5)


def lock(hold: Hold) -> None:
    with hold.lock:
        pass


def queue_get(hold: Hold) -> None:
    hold.queue.get()


def event_wait(hold: Hold) -> None:
    hold.event.wait()


def future_result(hold: Hold) -> None:
    hold.future.result()


def raw_socket(hold: Hold) -> None:
    with contextlib.suppress(ConnectionResetError), socket.create_connection(hold.address) as connection:
        connection.recv(1)


def tls_handshake(hold: Hold) -> None:
    context = ssl.create_default_context()
    with contextlib.suppress(OSError), socket.create_connection(hold.address) as connection:
        context.wrap_socket(connection, server_hostname="localhost")


def _post(url: str) -> None:
    request = urllib.request.Request(f"{url}/chat/completions", BODY, {"content-type": "application/json"})
    with contextlib.suppress(OSError), urllib.request.urlopen(request) as response:
        response.read()


def urllib_hang(hold: Hold) -> None:
    _post(hold.urls["hang"])


def urllib_trickle(hold: Hold) -> None:
    _post(hold.urls["trickle"])


def http_client_hang(hold: Hold) -> None:
    connection = HTTPConnection(urlsplit(hold.urls["hang"]).netloc)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("POST", "/v1/chat/completions", BODY)
        connection.getresponse()


def _ask(url: str) -> None:
    import openai

    with openai.OpenAI(base_url=url, api_key="unused", timeout=None) as client, contextlib.suppress(openai.OpenAIError):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "case 1"}])


def openai_hang(hold: Hold) -> None:
    _ask(hold.urls["hang"])


def openai_trickle(hold: Hold) -> None:
    _ask(hold.urls["trickle"])


def subprocess_run(hold: Hold) -> None:
    subprocess.run(hold.child(), check=False, stderr=subprocess.DEVNULL)


def _nested(hold: Hold, depth: int) -> None:
    if depth == 0:
        return event_wait(hold)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_nested, hold, depth - 1).result()


def nested_2(hold: Hold) -> None:
    _nested(hold, 1)


def nested_3(hold: Hold) -> None:
    _nested(hold, 2)


@dataclass(frozen=True)
class Mode:
    """`woken`: the thread is got out of it, and not given up; at once, or, if it `insists`, perhaps after
    a grace."""

    stick: Callable[[Hold], object]
    woken: bool
    group: str
    insists: bool = False

    @property
    def name(self) -> str:
        return self.stick.__name__


MODES = [
    Mode(python_loop, True, "python"),
    Mode(swallowing_loop, True, "python", insists=True),
    Mode(generator, True, "python"),
    Mode(waiting_generator, True, "waits"),
    Mode(sleep, True, "waits"),
    Mode(lock, False, "waits"),
    Mode(queue_get, True, "waits"),
    Mode(event_wait, True, "waits"),
    Mode(future_result, True, "waits"),
    Mode(nested_2, True, "waits"),
    Mode(nested_3, True, "waits"),
    Mode(raw_socket, True, "network"),
    Mode(tls_handshake, True, "network"),
    Mode(subprocess_run, True, "network"),
    Mode(urllib_hang, True, "http"),
    Mode(urllib_trickle, True, "http"),
    Mode(http_client_hang, True, "http"),
    Mode(openai_hang, True, "http"),
    Mode(openai_trickle, True, "http"),
]


def main(hanging: str, trickling: str, *names: str) -> None:
    hold = Hold(hanging, trickling)  # never let go
    modes = [mode for mode in MODES if mode.name in names]
    with contextlib.ExitStack() as stack:
        pools = {mode: stack.enter_context(ThreadPoolExecutor(WIDTH, mode.name)) for mode in modes}
        stuck = {mode: [pool.submit(mode.stick, hold) for _ in range(WIDTH)] for mode, pool in pools.items()}
        good = {mode: [pool.submit(int, number) for number in range(WIDTH)] for mode, pool in pools.items()}
    for mode in modes:
        errors = {type(future.exception()).__name__ for future in stuck[mode]}
        print(mode.name, *errors, sum(future.result() for future in good[mode]))  # noqa: T201  (what the test reads)


if __name__ == "__main__":
    main(*sys.argv[1:])
