"""`find_loop` and `LoopGuard`: loops are seen, honest work is let alone, nothing crashes, memory is bounded."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from anthropic.types import Message
from freezegun import freeze_time
from guard_conversations import LOOPS, READ, Call, Say, Script, as_anthropic, as_chat, as_tags, conversations
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.responses import Response

from threadsafe_timeout import LoopDetected
from threadsafe_timeout._guard.alike import may_be_alike, result_fingerprint
from threadsafe_timeout.guard import DEFAULTS, Experience, Limit, Loop, LoopGuard, find_loop

CASES = {name: (script, messages) for name, script, messages in conversations()}
RECORDED = Path(__file__).parents[3] / "shared" / "transcripts" / "legacy-runs.jsonl.gz"


def test_there_are_enough_conversations():
    assert len(CASES) >= 60
    assert {script.kind for script, _ in CASES.values()} >= {
        None, "search_loop", "no_action_loop", "repeat_loop", "error_loop", "cycle_loop", "paraphrase_loop", "empty_loop",
        "restart_loop",
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_loops_are_seen_at_their_turn_and_honest_work_is_not_ended(name):
    script, messages = CASES[name]
    loop = find_loop(messages)
    assert (loop and loop.kind) == script.kind, loop
    if script.turn is not None:
        assert loop.turn == script.turn
    if loop is not None:
        assert loop.detail
        assert loop.count >= 1
        assert loop.limit in DEFAULTS


@pytest.mark.parametrize("name", CASES)
def test_one_by_one_and_all_at_once_are_the_same(name):
    _, messages = CASES[name]
    guard = LoopGuard()
    for message in messages:
        if guard.see(message):
            break
    guard.settle()
    whole = LoopGuard()
    whole.see(messages)
    assert guard.loop == whole.settle() == find_loop(messages)
    assert guard.see(messages[0]) == guard.loop, "what has ended stays ended"


def completions(script: Script):
    """As executors get them: completions and messages of openai's client, results as dicts."""
    for message in as_chat(script):
        if message["role"] != "assistant":
            yield message
            continue
        typed = ChatCompletionMessage.model_validate(message)
        choice = {"index": 0, "finish_reason": "stop", "message": typed}
        yield ChatCompletion.model_validate(
            {"id": "c", "created": 1, "model": "m", "object": "chat.completion", "choices": [choice]}
        )


def anthropic_objects(script: Script):
    for message in as_anthropic(script):
        if message["role"] != "assistant":
            yield message
            continue
        yield Message.model_validate({
            **message, "id": "m", "type": "message", "model": "m", "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        })  # fmt: skip


def responses(script: Script):
    for number, step in enumerate(script.steps):
        if isinstance(step, Call):
            output = [{"type": "function_call", "id": "f", "call_id": f"c{number}", "name": step.name,
                       "arguments": json.dumps(step.arguments), "status": "completed"}]
            heard = {"type": "function_call_output", "call_id": f"c{number}", "output": step.result}
        else:
            content = [{"type": "output_text", "text": step.text, "annotations": []}]
            output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}]
            heard = {"role": "user", "content": step.answer or ""}
        yield Response.model_validate({
            "id": "r", "object": "response", "created_at": 1, "model": "m", "output": output, "tools": [],
            "parallel_tool_calls": False, "tool_choice": "auto",
        })  # fmt: skip
        yield heard


def namespaces(script: Script):
    for message in as_chat(script):
        calls = message.get("tool_calls")
        if calls:
            calls = [SimpleNamespace(id=one["id"], function=SimpleNamespace(**one["function"])) for one in calls]
            yield SimpleNamespace(content=None, tool_calls=calls)
        else:
            yield SimpleNamespace(**message)


@pytest.mark.parametrize("form", [completions, anthropic_objects, responses, namespaces])
@pytest.mark.parametrize("script", [one for one in LOOPS if "chat" in one.forms and one.kind != "empty_loop"], ids=lambda one: one.name)
def test_objects_of_the_clients_are_read_like_dicts(form, script):
    loop = find_loop(form(script))
    assert loop is not None
    assert loop.kind == script.kind
    assert loop.turn == (script.turn or loop.turn)


def test_an_extract_of_ones_own():
    log = [("model", "run", "ls")] + [("model", "run", "cat a")] * 6 + [("comment", "", "")]

    def extract(event):
        who, name, arguments = event
        if who == "comment":
            return None
        call = {"id": "1", "function": {"name": name, "arguments": arguments}}
        return [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "nothing"}]

    loop = find_loop(log, extract=extract)
    assert loop.kind == "repeat_loop"
    assert loop.turn == 6
    assert find_loop(log[:4] + log[-1:], extract=extract) is None


def test_a_search_is_what_the_user_says_it_is():
    searched = as_chat(Script("s", [Call("lookup", {"q": str(n)}, f"r{n}") for n in range(9)]))
    assert find_loop(searched) is None
    assert find_loop(searched, search_tools=["lookup"]).kind == "search_loop"
    seen = []
    loop = find_loop(searched, is_search=lambda message: seen.append(message) or True, max_consecutive_searches=2)
    assert loop.turn == 3
    assert seen[0] is searched[2], "is_search is given the message as it is"
    with pytest.raises(TypeError, match="is_search cannot read a dict"):
        find_loop(searched, is_search=lambda text: text.startswith("x"))


def test_tools_that_poll_can_be_named():
    messages = as_chat(Script("p", [Call("barrier", {}, "closed")] * 9))
    assert find_loop(messages).kind == "repeat_loop"
    assert find_loop(messages, polls=["barrier"]) is None


def test_a_conversation_whose_results_are_not_seen_needs_more_of_the_same():
    calls = [message for message in as_chat(Script("r", [READ] * 12)) if message["role"] == "assistant"]
    loop = find_loop(calls)
    assert loop.kind == "repeat_loop"
    assert loop.turn == 8


def test_limits_can_be_lowered_raised_and_put_off():
    messages = as_chat(Script("r", [READ] * 12))
    assert find_loop(messages, repeats=2).turn == 2
    assert find_loop(messages, repeats="warn:2+stop:9").turn == 9
    assert find_loop(messages, repeats=None) is None
    assert find_loop(messages, repeats="off") is None
    guard = LoopGuard(repeats={"observe": 2, "warn": 4}, calls="off")
    assert guard.see(messages) is None
    guard.settle()
    assert [(note.action, note.turn) for note in guard.notes] == [("observe", 2), ("warn", 4)]


@pytest.mark.parametrize(
    ("limits", "error", "words"),
    [
        ({"repeat": 3}, TypeError, "no limit 'repeat'.*repeats"),
        ({"repeats": 0}, ValueError, "repeats.*got 0"),
        ({"repeats": True}, ValueError, "repeats.*got True"),
        ({"repeats": "often"}, ValueError, "repeats.*often"),
        ({"repeats": {"end": 3}}, ValueError, "repeats.*'end'"),
        ({"cycles": 2.5}, ValueError, "cycles.*2.5"),
    ],
)
def test_a_bad_limit_is_named(limits, error, words):
    with pytest.raises(error, match=words):
        find_loop([], **limits)


def test_a_loop_is_a_value_and_its_error_pickles():
    loop = find_loop(as_chat(Script("r", [READ] * 6)))
    assert pickle.loads(pickle.dumps(loop)) == loop
    assert isinstance(loop, Loop)
    error = pickle.loads(pickle.dumps(LoopDetected("repeat_loop", "the same")))
    assert error.kind == "repeat_loop"
    assert not any(word in str(error).lower() for word in ("timeout", "timed out", "connection", "429", "rate limit"))
    assert str(Limit(stop=5, warn=3)) == "warn:3+stop:5"


def test_time_stamps_from_a_clock_are_no_news():
    steps = []
    with freeze_time("2026-01-01 00:00:00", auto_tick_seconds=61):
        from datetime import datetime

        for _ in range(8):
            steps.append(Call("fetch", {"id": 1}, f'{{"at": "{datetime.now().isoformat()}", "items": []}}'))
    assert len({step.result for step in steps}) == 8
    assert find_loop(as_chat(Script("t", steps))).turn == 5
    changing = [Call("fetch", {"id": 1}, f'{{"at": "2026-01-01T00:00:0{n}", "items": {n}}}') for n in range(8)]
    assert find_loop(as_chat(Script("t", changing))) is None


CUT = Script("c", [Say("<tool_call>reader", "NO ACTION DETECTED: use <tool_call>name</tool_call>, please.")] * 9)
RECOVERED = Script("d", [Say("<tool_call>reader", "NO ACTION DETECTED: use the format, please.")] * 2 + [READ])


def turns_until_ended(experience, script=CUT, model="m"):
    guard = LoopGuard(experience=experience, model=model)
    guard.see(as_tags(script))
    guard.finish()
    return guard.loop.turn if guard.loop else None, bool(guard.loop and guard.loop.early)


def test_a_run_learns_which_loops_are_never_left(caplog):
    experience = Experience()
    assert [turns_until_ended(experience) for _ in range(100)] == [(3, False)] * 100
    assert not caplog.records
    ended = [turns_until_ended(experience) for _ in range(200)]
    assert ended.count((2, True)) == 180, "and every tenth goes on"
    assert ended.count((3, False)) == 20
    assert "100 tasks of m came to 2 cut tags, told of the first (cut_tags)" in caplog.text
    ended = [turns_until_ended(experience) for _ in range(20)]
    assert ended.count((1, True)) == 18, "and at the first, when three hundred that came there were lost"
    assert turns_until_ended(experience, model="another") == (3, False), "of each model by itself"


def test_one_that_leaves_its_loop_makes_the_run_careful(caplog):
    experience = Experience()
    for _ in range(150):
        turns_until_ended(experience)
    left = [turns_until_ended(experience, RECOVERED) for _ in range(10)]
    assert left.count((2, True)) >= 1
    assert left[-1] == (None, False)
    assert "m called a tool after 2 cut tags, told of the first (cut_tags)" in caplog.text
    assert {turns_until_ended(experience) for _ in range(300)} == {(3, False)}


def test_one_that_leaves_its_loop_late_says_nothing_against_ending_it_later():
    """A model that leaves some loops after two cut tags, and none after three."""
    experience = Experience()
    silent = Script("f", [Say("<tool_call>reader")] * 9)
    after_two = Script("g", [*silent.steps[:2], READ])
    for number in range(200):
        turns_until_ended(experience, after_two if number % 20 == 0 else silent)
    assert turns_until_ended(experience, silent) == (3, True)
    assert turns_until_ended(experience, after_two) == (None, False)


def test_a_search_after_a_loop_is_no_recovery():
    experience = Experience()
    again = Script("e", [*CUT.steps[:2], Say("<tool_search>x</tool_search>", "Found: y"), *CUT.steps])
    for _ in range(100):
        turns_until_ended(experience, again)
    assert turns_until_ended(experience) == (2, True)


def test_recorded_runs_of_the_legacy_executor():
    """The goals on the half that the limits were not chosen on. The records are not part of this repository."""
    if not RECORDED.exists():
        pytest.skip(f"no recorded runs at {RECORDED.name}: they are not part of this repository")
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        runs = [json.loads(line) for line in lines][1::2]
    saved = harmed = 0
    for run in runs:
        guard = LoopGuard()
        for turn in run["turns"]:
            guard.say(turn["response"])
            if turn["feedback"]:
                guard.see({"role": "user", "content": turn["feedback"]})
            if guard.settle():
                break
        if guard.loop:
            rest = run["turns"][guard.loop.turn :]
            saved += len(rest)
            harmed += run["success"] and any(turn["feedback"].startswith("\u2705") for turn in rest)
    assert saved / sum(len(run["turns"]) for run in runs) >= 0.14
    assert harmed <= 0.001 * sum(run["success"] for run in runs)


text = st.text(max_size=300) | st.sampled_from(["<tool_call>", "</tool_call>", "<tool_call>x</tool_call>", "done", ""])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text | st.binary(max_size=50)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["role", "content", "tool_calls", "type", "function", "name", "arguments", "id", "output", "choices",
                         "message", "text", "input", "response", "feedback", "is_error", "tool_use_id", "call_id"]),
        inner | st.sampled_from(["assistant", "user", "tool", "system", "function_call", "tool_use", "tool_result", "message"]),
        max_size=6,
    )
    | st.builds(SimpleNamespace, role=inner, content=inner, tool_calls=inner),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(anything, max_size=12))
def test_no_message_crashes_the_guard(messages):
    guard = LoopGuard(experience=Experience())
    for message in messages:
        guard.see(message)
        guard.say(message)
    guard.finish()
    find_loop(messages)


@settings(max_examples=100)
@given(st.lists(text, min_size=1, max_size=30))
def test_any_text_is_read_turn_by_turn(texts):
    loop = find_loop([{"role": "assistant", "content": one} for one in texts])
    assert loop is None or 1 <= loop.turn <= len(texts)


class Hostile:
    """Asking it for anything fails."""

    __hash__ = None

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __repr__(self):
        raise RuntimeError("no repr either")

    def __bool__(self):
        raise RuntimeError("nor a truth")

    def __eq__(self, other):
        raise RuntimeError("nor is it equal to anything")


class HostileText(str):
    __slots__ = ()

    def strip(self, *args):
        raise RuntimeError("strip")


class HostileDict(dict):
    def get(self, *args):
        raise RuntimeError("get")

    __getitem__ = get


class HostileList(list):
    def __iter__(self):
        raise RuntimeError("iter")

    __len__ = __iter__


class Endless:
    """Has everything, and in it everything again."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return "assistant" if name == "role" else Endless()


ODD = [
    Hostile(), HostileText("assistant"), HostileText("<tool_call>x"), HostileDict(role="assistant", content="x"), HostileList([1]),
    Endless(), object(), float("nan"), 10**400, "\ud800", "\0" * 50, b"\xff", memoryview(b"x"), {None: None}, range(3), print, type,
    "<tool_call>[]</tool_call>", '<tool_call>{"name": null}</tool_call>', "9" * 6000, "1:" * 3000, {"a": {1, 2}},
]  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(ODD) - 1), st.integers(0, 7)), min_size=1, max_size=10))
def test_odd_objects_in_every_place_are_passed_over(places):
    guard = LoopGuard(experience=Experience(), search_tools=["search"])
    for number, place in places:
        odd = ODD[number]
        message = [
            odd, [odd], {"role": "tool", "content": odd}, {"role": "user", "content": odd}, {"role": "assistant", "content": odd},
            {"role": "assistant", "content": odd, "tool_calls": odd}, {"type": "tool_result", "content": [odd], "is_error": odd},
            {"role": "assistant", "tool_calls": [{"id": odd, "function": {"name": "search", "arguments": odd}}]},
        ][place]  # fmt: skip
        guard.see(message)
        guard.say(message)
        guard.settle()
    guard.finish()


def test_what_the_users_functions_raise_is_raised():
    def fails(message):
        raise LookupError("mine")

    for reading in ({"extract": fails}, {"is_search": fails}):
        guard = LoopGuard(**reading)
        with pytest.raises(LookupError, match="mine"):
            guard.see({"role": "assistant", "content": "x"})
        with pytest.raises(LookupError, match="mine"):
            guard.say("x")


times = st.sampled_from(["10:00:01", "12:34:56.7", "2026-01-02 03:04:05", "2026-01-02T03:04:05Z", "5 ms", "12.25 s", "0x7f001122"])
line = st.lists(st.sampled_from(["a", "job", "7", "8", "count 3", "done", "\n"]) | times, max_size=12)


@settings(max_examples=150)
@given(line, st.data())
def test_results_alike_but_for_their_times_are_not_ruled_out(words, data):
    other = [data.draw(times) if word[0].isdigit() and len(word) > 2 else word for word in words]
    one, two = " ".join(words), " ".join(other)
    if result_fingerprint(one) == result_fingerprint(two):
        assert may_be_alike(one, two)
    else:
        assert one != two


def test_a_number_that_goes_up_is_seen_at_once():
    for one, two in (("item 5", "item 6"), ("at 10:00:01 5 items", "at 10:00:02 6 items"), ("x" * 900 + " 19", "x" * 900 + " 20")):
        assert not may_be_alike(one, two)


def test_hostile_objects_and_deep_and_endless_ones():
    deep = message = {"role": "assistant", "content": []}
    for _ in range(5000):
        message["content"] = [{"type": "tool_result", "content": []}]
        message = message["content"][0]
    circle = []
    circle.append(circle)
    own = {"role": "assistant", "content": "x"}
    own["content"] = [own]
    guard = LoopGuard()
    for one in (Hostile(), {"role": "assistant", "content": Hostile()}, deep, circle, own, [[[]]] * 9, object(), print):
        guard.see(one)
        guard.say(one)
    assert guard.unread >= 1


def kept_bytes(thing) -> int:
    return len(pickle.dumps(thing))


def test_memory_is_bounded():
    guard = LoopGuard(calls="observe:1")
    sizes = []
    for number in range(3000):
        big = number % 500 == 0
        guard.see({"role": "assistant", "content": "y" * 300_000 if big else "words", "tool_calls": [
            {"id": str(number), "function": {"name": f"search{number % 7}", "arguments": json.dumps({"q": f"word{number}"})}}]})  # fmt: skip
        guard.see({"role": "tool", "tool_call_id": str(number), "content": f"result {number} " * (20_000 if big else 3)})
        if number in (999, 2999):
            sizes.append(kept_bytes(guard))
    assert guard.loop is None
    assert sizes[1] <= 1.2 * sizes[0] + 20_000
    assert max(sizes) < 2_000_000


@pytest.mark.parametrize("size", [1_000_000])
def test_a_megabyte_of_tags_is_read_in_linear_time(size):
    """Were it quadratic, this would take minutes, and the test's time limit would end it."""
    for piece in ("<tool_call>", "<tool_call", "</tool_call>", "<tool_search>a", "<", "x>"):
        find_loop([{"role": "assistant", "content": piece * (size // len(piece))}] * 2)
