"""Tasks for processes of their own; importable there. A fifo or a file in `path` says that one has begun."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import threadsafe_timeout
from threadsafe_timeout._guard.loops import Loop
from threadsafe_timeout._guard.watch import tell_pool
from threadsafe_timeout._patching.install import installed
from threadsafe_timeout._scopes.around import current_scope

LONG = 240.0  # seconds, for what comes as soon as the machine has time


class Refused(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(f"refused {number}")
        self.number = number


class Agent:
    """With something in `client`, most likely."""

    client: Agent
    _lock: object


def say(path: Path, text: object = "") -> None:
    whole = path.with_suffix(".new")
    whole.write_text(str(text))
    whole.rename(path)


def add(first: int, second: int) -> tuple[int, int]:
    return first + second, os.getpid()


def refuse(number: int) -> None:
    raise Refused(number)


def hold_the_gil(path: Path) -> None:
    say(path, os.getpid())
    sum(range(10**15))  # in C: no signal handler of Python's runs meanwhile


def backtrack(path: Path) -> None:
    say(path, os.getpid())
    re.match("(a+)+$", "a" * 60 + "b")


def ignore_sigterm(path: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(path, os.getpid())
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


def start_child_and_hang(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    say(path, child.pid)
    sum(range(10**15))


def start_child_and_die(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    say(path, child.pid)
    os._exit(3)


def clean_up(path: Path) -> None:
    try:
        say(path)
        time.sleep(600)
    finally:
        say(path.with_suffix(".cleaned"))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(7)


def allocate() -> int:
    return len(bytearray(1 << 40))


def look_around() -> tuple[float, bool, str]:
    """The seconds left, whether the patches are in force, and what this was forked from."""
    server = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return threadsafe_timeout.time_remaining(), installed() is not None, server


def take(agent: object) -> None: ...


def start_child_and_sleep(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    say(path, child.pid)
    child.wait()


def hold_or_double(folder: Path, number: int, stuck: bool) -> int:
    (folder / str(os.getpid())).touch()
    if stuck:
        sum(range(10**15))
    time.sleep(0.05)  # so that some are killed before they have ended
    return 2 * number


def ask(url: str, again: bool) -> object:
    """Of a service that answers; then, perhaps, of one that does not."""
    import openai

    with openai.OpenAI(api_key="unused", base_url=url, max_retries=0) as client:
        answers = [
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "a question"}])
            for model in (["good", "hang"] if again else ["good"])
        ]
    return len(answers)


def end_a_loop() -> str:
    tell_pool(Loop("repeat_loop", 3, 5, "the same call: 5 times", "repeats"))
    return "ended"


def be_late_in_a_pool() -> str:
    with threadsafe_timeout.ThreadPoolExecutor(1, grace=LONG) as pool:  # its sleep is woken, however late
        error = pool.with_options(timeout=0.01, name="inner").submit(time.sleep, 600).exception()
    return type(error).__name__


class Cancels:
    """Whoever packs it is cancelled meanwhile."""

    def __reduce__(self) -> tuple[type[Cancels], tuple[()]]:
        scope = current_scope()
        assert scope is not None
        scope.cancel("while its task was packed")
        return Cancels, ()
