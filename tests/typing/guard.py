"""How the types of the guard's API come out; checked by mypy, never run."""

from typing import Any, assert_type

from threadsafe_timeout.guard import (
    Experience,
    Limit,
    Loop,
    LoopGuard,
    find_loop,
    guard_interactive,
    guarded,
    guarded_turns,
)


class Agent:
    def ask(self, messages: list[Any]) -> str:
        return ""

    async def run(self) -> dict[str, Any]:
        return {}


@guarded(execute="run", turn="ask", repeats=5)
class Decorated(Agent):
    pass


def looking(messages: list[dict[str, Any]]) -> None:
    assert_type(find_loop(messages, repeats=5, calls="off"), Loop | None)
    guard = LoopGuard(experience=Experience(), model="m", cycles=Limit(stop=3))
    assert_type(guard.see(messages), Loop | None)
    loop = guard.finish()
    if loop is not None:
        assert_type(loop.kind, str)
        assert_type(loop.turn, int)


def ending(agent: Agent) -> None:
    assert_type(guard_interactive(agent, 300, execute="run", turn="ask", tools=None), Agent)
    assert_type(guard_interactive(Agent, execute="run", turn="ask"), type[Agent])
    assert_type(Decorated(), Decorated)
    turns = guarded_turns([], timeout=3, max_turns=5)
    for turn in turns:
        assert_type(turn, int)
    assert_type(turns.ended, str | None)
