"""The guard in the clients: for runners we know nothing about. It observes, unless it is told to stop."""

from __future__ import annotations

import asyncio
import threading

import pytest

import threadsafe_timeout
from threadsafe_timeout import LoopDetected, ThreadPoolExecutor, deadline
from threadsafe_timeout.testing.fake_llm import FakeLLM


@pytest.fixture(scope="module")
def server():
    with FakeLLM(mix={"cut": 1}, minute=0.01) as llm:
        yield llm


def client(server):
    import openai

    return openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0)


PROMPT = {"role": "user", "content": "case 1. Use <tool_call>name</tool_call>.\nRequired tools: reader"}
TOLD = {"role": "user", "content": "No action was detected. Use the format that you were given."}


def run(ask, turns=8):
    """A runner's loop: how many answers it got, and what ended it. It tries again whatever fails."""
    messages = [PROMPT]
    for turn in range(turns):
        refused = None
        for _attempt in range(3):
            try:
                answer = ask(messages)
                break
            except LoopDetected as exc:
                refused = exc
        else:
            return turn, refused
        messages += [{"role": "assistant", "content": answer.choices[0].message.content}, TOLD]
    return turns, None


def loops_in(caplog):
    return [record for record in caplog.records if getattr(record, "limit", "") == "cut_tags"]


def test_it_observes_inside_a_scope_and_only_there(server, caplog):
    with threadsafe_timeout.patched(checkpoint=None):
        llm = client(server)

        def ask(messages):
            return llm.chat.completions.create(model="m", messages=messages)

        assert run(ask) == (8, None)
        assert not loops_in(caplog), "outside of scopes it does nothing"
        with deadline(60):
            assert run(ask) == (8, None)
        llm.close()
    assert len(loops_in(caplog)) == 1, "told once"
    assert "observed only (client_guard)" in caplog.text


def test_it_stops_a_task_of_a_pool_when_asked(server):
    events, told = [], threading.Event()
    with threadsafe_timeout.patched(client_guard="stop", checkpoint=None):
        llm = client(server)

        def ask(messages):
            return llm.chat.completions.create(model="m", messages=messages)

        with ThreadPoolExecutor(4) as pool:
            pool.on_event(lambda event: (events.append(event), told.set()))
            ended = [future.result(120) for future in [pool.submit(run, ask) for _ in range(3)]]
            assert told.wait(120)
            stats = pool.stats()
        llm.close()
    assert [turns for turns, _ in ended] == [3, 3, 3], "each task by itself; no call after the loop was seen"
    assert {error.kind for _, error in ended} == {"no_action_loop"}
    assert stats["loops"] == 3
    assert events[0].kind == "loop"


def test_two_conversations_of_one_task_are_kept_apart(server):
    with threadsafe_timeout.patched(client_guard="stop", checkpoint=None), deadline(60):
        llm = client(server)
        messages = {name: [{**PROMPT, "content": PROMPT["content"] + name}] for name in "abc"}
        for _ in range(3):
            for own in messages.values():
                answer = llm.chat.completions.create(model="m", messages=own)
                own += [{"role": "assistant", "content": answer.choices[0].message.content}, TOLD]
        llm.close()


def test_async_clients_and_streams(server):
    import openai

    async def main():
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as llm:
            messages = [PROMPT]
            with deadline(60):
                for turn in range(8):
                    stream = await llm.chat.completions.create(model="m", messages=[TOLD], stream=True)
                    async for _ in stream:
                        pass
                    try:
                        answer = await llm.chat.completions.create(model="m", messages=messages)
                    except LoopDetected:
                        return turn
                    messages += [{"role": "assistant", "content": answer.choices[0].message.content}, TOLD]
        return None

    with threadsafe_timeout.patched(client_guard="stop", checkpoint=None):
        assert asyncio.run(main()) == 3


def test_the_same_question_again_is_another_sample_and_no_loop(server, caplog):
    with threadsafe_timeout.patched(client_guard="stop", checkpoint=None), deadline(60):
        llm = client(server)
        answers = {llm.chat.completions.create(model="m", messages=[PROMPT]).choices[0].message.content for _ in range(12)}
        llm.close()
    assert len(answers) == 1
    assert not loops_in(caplog)


def test_off_is_off(server, caplog):
    with threadsafe_timeout.patched(client_guard="off", checkpoint=None), deadline(60):
        llm = client(server)
        assert run(lambda messages: llm.chat.completions.create(model="m", messages=messages)) == (8, None)
        llm.close()
    assert not loops_in(caplog)
