"""How the types of the scopes' API come out; checked by mypy, never run."""

import multiprocessing
import subprocess
from typing import assert_type

from threadsafe_timeout import (
    CancelScope,
    CancelSource,
    CancelToken,
    Timer,
    check_cancelled,
    current_deadline,
    deadline,
    keep_process,
    move_on_after,
    shield,
)


def returns_from_a_deadline() -> int:
    with deadline(5):
        return 1


@deadline(5, name="work")
def decorated(a: int, *, b: str) -> float:
    return a + len(b)


@deadline(5)
async def decorated_async(a: int) -> str:
    return str(a)


def scopes() -> None:
    with move_on_after(5) as scope:
        assert_type(scope, CancelScope)
        scope.deadline += 1
    assert_type(scope.cancelled_caught, bool)
    assert_type(scope.reason, str | None)
    assert_type(scope.cancel("reason"), bool)
    with shield(1), CancelScope(deadline=5.0, token=CancelSource().token, reason="r", name="n"):
        check_cancelled()
    assert_type(current_deadline(), float)
    assert_type(decorated(1, b="x"), float)
    decorated("x", b="y")  # type: ignore[arg-type]  # the signature is kept


async def coroutines() -> None:
    assert_type(await decorated_async(1), str)
    async with move_on_after(1) as scope:
        assert_type(scope, CancelScope)


def processes(child: subprocess.Popen[bytes], process: multiprocessing.Process) -> None:
    for one in (child, process, 12):
        keep_process(one)


def timers() -> None:
    timer = Timer(1.5, print, ["a"], {"end": ""})
    assert_type(timer.is_alive(), bool)
    timer.daemon = True
    Timer("5m", print)  # type: ignore[arg-type]  # seconds


def tokens(token: CancelToken) -> None:
    assert_type(token.wait(1.0), bool)
    assert_type(CancelToken.linked(token), CancelToken)
    with token.register(print):
        pass
