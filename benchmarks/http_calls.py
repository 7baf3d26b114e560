"""What HTTP costs with the patches, beside the same without; and how long cancelling takes to end a read.

    python benchmarks/http_calls.py [--rounds N] [--cancels N]

A server on loopback, in a process of its own, answers at once. Each round runs unpatched, patched outside scopes and
patched in a scope, each in a fresh process: installing and uninstalling in one process costs the interpreter's caches,
which no program does all the time. What counts is the best of many short runs, over all rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import threadsafe_timeout
from threadsafe_timeout import CancelScope, deadline

BODY = json.dumps({
    "id": "1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 200}}],
}).encode()  # fmt: skip
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def serve(pipe) -> None:
    """Answer requests: good ones on the first port, never on the second."""
    good, silent = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    pipe.send((good.getsockname()[1], silent.getsockname()[1]))
    threading.Thread(target=hold, args=(silent,), daemon=True).start()
    while True:
        connection = good.accept()[0]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def hold(listener: socket.socket) -> None:
    held = []
    while True:
        held.append(listener.accept()[0])


def answer(connection: socket.socket) -> None:
    request = b""
    while data := connection.recv(65536):
        request += data
        head, end, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and len(body) >= (int(length[1]) if length else 0):
            connection.sendall(ANSWER)
            request = b""


def seconds_of(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def calls_to(good: int) -> dict[str, tuple[Callable[[], object], int]]:
    """What is measured, and how many calls make one short run."""
    import openai

    http = getattr(openai._base_client, "httpx2", None) or openai._base_client.httpx
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{good}/v1", api_key="unused")
    plain = http.Client(trust_env=False)
    message = [{"role": "user", "content": "hello"}]
    ours, other = socket.socketpair()
    one, two = socket.socketpair()
    two.setblocking(False)
    one.setblocking(False)
    return {
        "openai: chat.completions.create": (lambda: client.chat.completions.create(model="m", messages=message), 20),
        f"{http.__name__}: get": (lambda: plain.get(f"http://127.0.0.1:{good}/"), 50),
        "socket: send and recv of a byte": (lambda: (ours.send(b"x"), other.recv(1)), 2000),
        "the same, non-blocking": (lambda: (one.send(b"x"), two.recv(1)), 2000),
    }


MODES = ("unpatched", "patched", "in a scope")


def measure(mode: str, good: int) -> None:
    """In a process of its own: the best seconds per call of each, as JSON on standard output."""
    if mode != "unpatched":
        threadsafe_timeout.install(checkpoint="off")
    with deadline(1000) if mode == "in a scope" else contextlib.nullcontext():
        best = {}
        for name, (call, size) in calls_to(good).items():
            seconds_of(call, 5 * size)
            best[name] = min(seconds_of(call, size) for _ in range(40))
    print(json.dumps(best))


def compare(good: int, rounds: int) -> None:
    found: dict[str, dict[str, list[float]]] = {mode: {} for mode in MODES}
    for _ in range(rounds):
        for mode in MODES:
            command = [sys.executable, __file__, "--measure", mode, "--port", str(good)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            for name, seconds in json.loads(done.stdout).items():
                found[mode].setdefault(name, []).append(seconds)
    for name, plain in found["unpatched"].items():
        best, outside, inside = (min(found[mode][name]) for mode in MODES)
        middle = statistics.median(found["patched"][name]) / statistics.median(plain)
        print(
            f"{name:<34} {best * 1e6:8.1f} µs   patched, outside scopes × {outside / best:5.3f} "
            f"(of the medians {middle:5.3f})   in a scope + {(inside - best) * 1e6:5.1f} µs"
        )


def cancel_to_return(name: str, call: Callable[[], object], times: int) -> None:
    """From `cancel()` in another thread to the end of the scope in the thread that was reading."""
    took = []
    for _ in range(times):
        scope, inside, cancelled_at = CancelScope(), threading.Event(), []

        def cancel(scope=scope, inside=inside, cancelled_at=cancelled_at) -> None:
            inside.wait(10)
            threading.Event().wait(0.01)  # for the reader to be inside recv
            cancelled_at.append(time.perf_counter())
            scope.cancel("enough")

        thread = threading.Thread(target=cancel)
        thread.start()
        with scope:
            inside.set()
            call()
        took.append(time.perf_counter() - cancelled_at[0])
        thread.join()
    took.sort()
    print(f"{name:<34} cancel to return: p50 {took[len(took) // 2] * 1e3:.2f} ms, "
          f"p99 {took[int(len(took) * 0.99)] * 1e3:.2f} ms, worst {took[-1] * 1e3:.2f} ms")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cancels", type=int, default=300)
    parser.add_argument("--measure", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.port)
        return

    import openai

    mine, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    good, silent = mine.recv()
    compare(good, options.rounds)

    http = getattr(openai._base_client, "httpx2", None) or openai._base_client.httpx
    silence = f"http://127.0.0.1:{silent}/v1"
    plain = http.Client(trust_env=False)
    lost = openai.OpenAI(base_url=silence, api_key="unused")
    ours, _other = socket.socketpair()
    with threadsafe_timeout.patched(checkpoint="off"):
        cancel_to_return("socket: recv", lambda: ours.recv(1), options.cancels)
        cancel_to_return(f"{http.__name__}: get", lambda: plain.get(silence, timeout=None), options.cancels)
        cancel_to_return(
            "openai: chat.completions.create",
            lambda: lost.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}]),
            options.cancels,
        )
    server.terminate()


if __name__ == "__main__":
    main()
