"""Executors of any shape are ended their own way, and what cannot be guarded is refused by name."""

from __future__ import annotations

import asyncio
import inspect
import logging
from types import SimpleNamespace

import pytest
from blocked import LONG, expire
from guard_conversations import GO_ON

import threadsafe_timeout
from threadsafe_timeout import ThreadPoolExecutor, _settings, guard_interactive, guarded
from threadsafe_timeout._guard.tally import CutAnswers, cut_answers
from threadsafe_timeout.guard import LoopGuard, guarded_turns
from threadsafe_timeout.testing import MockClock


def call(number, name="read_file", arguments='{"path": "a.py"}'):
    function = SimpleNamespace(name=name, arguments=arguments)
    return SimpleNamespace(content=None, tool_calls=[SimpleNamespace(id=f"c{number}", function=function)])


class Agent:
    """An executor of today: a list of messages, answers as objects, tools it runs itself."""

    steps = 50

    def __init__(self, answer=call, result="the same"):
        self.answer, self.result, self.asked, self.seen = answer, result, 0, []

    def ask(self, messages):
        self.asked += 1
        self.seen.append(list(messages))
        return self.answer(self.asked)

    def run(self, task):
        messages = [{"role": "user", "content": task}]
        for step in range(self.steps):
            answer = self.ask(messages)
            if answer is None:
                return {"steps": step}
            messages.append(answer)
            messages.append({"role": "tool", "tool_call_id": f"c{self.asked}", "content": self.result})
        return {"steps": self.steps}


class AsyncAgent(Agent):
    async def ask(self, messages):
        await asyncio.sleep(0)
        return Agent.ask(self, messages)

    async def run(self, task):
        messages = [{"role": "user", "content": task}]
        for step in range(self.steps):
            answer = await self.ask(messages)
            if answer is None:
                return {"steps": step}
            messages += [answer, {"role": "tool", "content": self.result}]
        return {"steps": self.steps}


def in_chat(number):
    return {"role": "assistant", "content": None, "tool_calls": [{"id": f"{number}", "function": {"name": "f", "arguments": "{}"}}]}


def in_anthropic(number):
    return {"role": "assistant", "content": [{"type": "tool_use", "id": f"{number}", "name": "f", "input": {}}]}


def in_responses(number):
    return SimpleNamespace(output=[SimpleNamespace(type="function_call", name="f", arguments="{}", call_id=f"{number}")])


def in_completions(number):
    return SimpleNamespace(choices=[SimpleNamespace(message=call(number))])


def in_tags(number):
    return "<tool_call>f</tool_call>"


SHAPES = [call, in_chat, in_anthropic, in_responses, in_completions, in_tags]


@pytest.mark.parametrize("answer", SHAPES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("cls", [Agent, AsyncAgent])
def test_methods_that_return_any_shape_sync_and_async(cls, answer):
    agent = guard_interactive(cls(answer), execute="run", turn="ask", tools=None)
    result = agent.run("go")
    if inspect.isawaitable(result):
        result = asyncio.run(result)
    assert result["error_type"] == "repeat_loop"
    assert agent.asked == 5, "no call after the loop was seen"
    assert result["steps"] == 5
    assert "same call with the same result" in result["error"]


def test_an_async_class_stays_async_and_honest_work_passes():
    cls = guarded(execute="run", turn="ask", tools=None)(type("Own", (AsyncAgent,), {"ask": AsyncAgent.ask, "run": AsyncAgent.run}))
    assert inspect.iscoroutinefunction(cls.run)
    assert inspect.iscoroutinefunction(cls.ask)
    agent = cls(lambda n: call(n, arguments=f'{{"page": {n}}}'))
    assert asyncio.run(agent.run("go")) == {"steps": 50}


def test_an_async_turn_that_is_stuck_is_cut_off():
    class Stuck(AsyncAgent):
        async def ask(self, messages):
            self.asked += 1
            expire()  # not before
            await asyncio.Event().wait()

        async def run(self, task):
            return await AsyncAgent.run(self, task)

    agent = guard_interactive(Stuck(), LONG, execute="run", turn="ask", tools=None)
    result = asyncio.run(agent.run("go"))
    assert result["error_type"] == "timeout"
    assert agent.asked == 1


def test_a_plain_function_that_returns_a_coroutine():
    class Odd(AsyncAgent):
        def ask(self, messages):
            return AsyncAgent.ask(self, messages)

    result = asyncio.run(guard_interactive(Odd(), execute="run", turn="ask", tools=None).run("go"))
    assert result["error_type"] == "repeat_loop"


def test_what_the_turn_returns_at_the_end_can_be_chosen():
    seen = []
    agent = guard_interactive(Agent(), execute="run", turn="ask", tools=None, ending=lambda loop: seen.append(loop.kind))
    agent.run("go")
    assert seen == ["repeat_loop"]


def test_static_methods_slots_and_results_that_are_objects():
    class Static:
        count = 0

        @staticmethod
        def ask(messages):
            Static.count += 1
            return in_tags(0)

        def run(self, task):
            messages = []
            while (answer := self.ask(messages)) is not None:
                messages += [answer, {"role": "user", "content": "told"}]
            return SimpleNamespace(error_type=None)

    guard_interactive(Static, execute="run", turn="ask", tools=None)
    assert Static().run("go").error_type == "repeat_loop"
    assert Static.count == 5


class Streaming:
    def ask(self, messages):
        yield "piece"

    async def pieces(self):
        yield "piece"

    @property
    def answer(self):
        return "text"

    def run(self):
        return {}


class Slotted:
    __slots__ = ()

    def ask(self, messages):
        return None

    def run(self):
        return {}


@pytest.mark.parametrize(
    ("target", "options", "error", "words"),
    [
        (Streaming, {"turn": "ask"}, TypeError, "'ask' of .*Streaming.* is a generator"),
        (Streaming, {"turn": "pieces"}, TypeError, "'pieces' of .* is a generator"),
        (Streaming, {"turn": "answer"}, TypeError, "'answer' of .* is a property, not a method"),
        (Streaming, {"turn": "missing"}, AttributeError, "no method 'missing'; name yours in turn="),
        (Agent, {"turn": "ask", "tools": "missing"}, AttributeError, "no method 'missing'; name yours in tools="),
        (Slotted(), {"turn": "ask"}, TypeError, "__slots__"),
        (Agent, {"turn": "ask", "repair": "all"}, ValueError, "repair"),
        (Agent, {"turn": "ask", "reapeats": 3}, TypeError, "no limit 'reapeats'"),
    ],
)
def test_what_cannot_be_guarded_is_refused_by_name(target, options, error, words):
    before = dict(vars(target)) if inspect.isclass(target) else None
    with pytest.raises(error, match=words):
        guard_interactive(target, execute="run", **options)
    if before is not None:
        assert dict(vars(target)) == before, "nothing was put on it"


def test_an_answer_that_cannot_be_read_is_told_once(caplog):
    agent = guard_interactive(Agent(lambda n: 3.5), execute="run", turn="ask", tools=None)
    assert agent.run("go") == {"steps": 50}
    told = [record for record in caplog.records if getattr(record, "event", "") == "guard_unread"]
    assert len(told) == 1
    assert "type float" in told[0].getMessage()
    agent = guard_interactive(Agent(lambda n: 3.5), execute="run", turn="ask", tools=None,
                              extract=lambda value: in_chat(1) if value == 3.5 else value)  # fmt: skip
    assert agent.run("go")["error_type"] == "repeat_loop"


def test_is_search_is_called_with_message_objects():
    agent = guard_interactive(Agent(), execute="run", turn="ask", tools=None, is_search=lambda answer: bool(answer.tool_calls))
    result = agent.run("go")
    assert result["error_type"] == "search_loop"
    assert agent.asked == 4


def test_a_conversation_in_an_attribute():
    class Own(Agent):
        def ask(self):
            return Agent.ask(self, self.messages)

        def run(self, task):
            self.messages = [{"role": "user", "content": task}]
            for step in range(self.steps):
                answer = self.ask()
                if answer is None:
                    return {"steps": step}
                self.messages += [answer, {"role": "tool", "content": f"result {step if self.result else 0}"}]
            return {"steps": self.steps}

    changing = guard_interactive(Own(result="changes"), execute="run", turn="ask", tools=None, conversation="messages")
    assert changing.run("go") == {"steps": 50}
    same = guard_interactive(Own(result=""), execute="run", turn="ask", tools=None, conversation="messages")
    assert same.run("go")["steps"] == 5


def test_what_tools_give_is_seen_where_the_conversation_is_not():
    class Hidden(Agent):
        def ask(self, text):
            return Agent.ask(self, [])

        def use(self, answer):
            return f"result {self.asked}"

        def run(self, task):
            for step in range(self.steps):
                answer = self.ask("text")
                if answer is None:
                    return {"steps": step}
                self.use(answer)
            return {"steps": self.steps}

    assert guard_interactive(Hidden(), execute="run", turn="ask", tools="use").run("go") == {"steps": 50}
    blind = guard_interactive(Hidden(), execute="run", turn="ask", tools=None)
    assert blind.run("go")["steps"] == 8, "without results, more of the same are needed"
    assert blind.asked == 8


def test_warn_adds_a_line_to_what_the_model_sees_next_and_to_nothing_else():
    agent = guard_interactive(Agent(), execute="run", turn="ask", tools=None, repeats="warn:3+stop:5")
    assert agent.run("go")["steps"] == 5
    warned = [turn for turn, messages in enumerate(agent.seen, 1) if "Note: the same call" in str(messages)]
    assert warned == [4]
    assert agent.seen[3][-1]["role"] == "user"
    assert "Note:" not in str(agent.seen[4]), "the executor's own list is as it was"


@pytest.mark.parametrize("last", ["a string", {"role": "user", "content": "text"}, {"role": "user", "content": [{"type": "text", "text": "x"}]}])
def test_a_warning_finds_its_place_in_each_form(last):
    from threadsafe_timeout._guard.conversation import with_line

    before = [{"role": "assistant", "content": "y"}, last]
    after = with_line(before, "a line")
    assert "a line" in str(after[-1])
    assert before[-1] is last
    assert with_line([object()], "a line") is None


def test_a_warning_that_cannot_be_told_is_logged(caplog):
    class Hidden(Agent):
        def ask(self):
            return Agent.ask(self, [])

        def run(self, task):
            return [self.ask() for _ in range(9)]

    guard_interactive(Hidden(), execute="run", turn="ask", tools=None).run("go")
    assert "the model could not be told" in caplog.text


@pytest.mark.parametrize(("mode", "steps"), [("stop", 5), ("warn", 50), ("observe", 50), ("off", 50)])
def test_the_setting_says_what_a_guard_may_do(mode, steps, monkeypatch, caplog):
    monkeypatch.setattr(_settings, "_settings", _settings.Settings(loop_guard=mode))
    result = guard_interactive(Agent(), execute="run", turn="ask", tools=None).run("go")
    assert result["steps"] == steps
    assert ("error_type" in result) == (mode == "stop")
    assert bool([r for r in caplog.records if getattr(r, "limit", "") == "repeats"]) == (mode != "off")


def test_limits_from_the_settings(monkeypatch):
    chosen, _ = _settings.load({"guard_limits": "repeats=stop:2, cut_tags=off", "guard_learn": "off"})
    monkeypatch.setattr(_settings, "_settings", chosen)
    assert guard_interactive(Agent(), execute="run", turn="ask", tools=None).run("go")["steps"] == 2
    assert guard_interactive(Agent(), execute="run", turn="ask", tools=None, repeats=3).run("go")["steps"] == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("guard_limits", "repeat=3"), ("guard_limits", "repeats"), ("guard_limits", {"repeats": 0}), ("guard_learn", "maybe"),
     ("guard_repair", "all"), ("client_guard", "kill"), ("guard_limits", "max_consecutive_searches=4"), ("guard_limits", 5)],
)  # fmt: skip
def test_a_bad_setting_names_its_source(name, value):
    with pytest.raises(threadsafe_timeout.SettingError, match=rf"install\(\): {name}: must"):
        _settings.load({name: value})


class Cut(Agent):
    """Its client's stop sequence is the closing tag."""

    def run(self, task):
        messages, ran = [{"role": "user", "content": task}], 0
        for step in range(20):
            answer = self.ask(messages)
            if answer is None:
                return {"steps": step, "ran": ran}
            acts = "</tool_call>" in answer
            ran += acts
            messages += [{"role": "assistant", "content": answer},
                         {"role": "user", "content": f"ran it, {step}" if acts else "No action was detected: use <tool_call>."}]  # fmt: skip
        return {"steps": 20, "ran": ran}


def test_cut_tags_are_mended_when_asked(caplog):
    cut_answers.tell()
    caplog.clear()
    plain = guard_interactive(Cut(lambda n: "<tool_call>reader"), execute="run", turn="ask", tools=None)
    result = plain.run("go")
    assert result["error_type"] == "no_action_loop"
    assert result["steps"] == 2
    assert plain.asked == 3
    mended = guard_interactive(Cut(lambda n: "<tool_call>reader"), execute="run", turn="ask", tools=None, repair="cut-tags")
    assert mended.run("go") == {"steps": 20, "ran": 20}
    assert "unclosed" not in "".join(record.getMessage() for record in caplog.records if getattr(record, "event", "") == "cut_answers")
    cut_answers.tell()
    told = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "cut_answers"]
    assert len(told) == 1, "once per run"
    assert "23 answers ended in an unclosed <tool_call>" in told[0]
    assert "20 of them were mended" in told[0]


def test_the_tally_says_what_mending_would_do(caplog):
    tally = CutAnswers()
    for _ in range(3):
        tally.add(500)
    tally.tell()
    tally.tell()
    assert "1,500 answers" in caplog.records[0].getMessage()
    assert 'guard_repair="cut-tags"' in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("<tool_call>reader", "<tool_call>reader</tool_call>"),
        ("I run it.\n<tool_search>csv files \n", "I run it.\n<tool_search>csv files</tool_search>"),
        ("<tool_call>", None),
        ("<tool_call", None),
        ("<tool_call>a</tool_call> <tool_call>b", None),
        ("<tool_call>a<tool_call>", None),
        ("a < b", None),
    ],
)
def test_only_what_a_stop_sequence_cut_is_mended(text, mended):
    from threadsafe_timeout._guard.tags import mend

    assert mend(text) == mended


def test_a_pool_counts_and_tells_of_loops_that_were_ended():
    agent = guard_interactive(Agent(), execute="run", turn="ask", tools=None)
    events = []
    with ThreadPoolExecutor(2) as pool:
        with pool.on_event(events.append):
            result = pool.with_options(name="task 7").submit(agent.run, "go").result(120)
            pool.shutdown()
        stats = pool.stats()
    assert result["error_type"] == "repeat_loop"
    assert stats["loops"] == 1
    loops = [event for event in events if event.kind == "loop"]
    assert [(event.task, event.reason) for event in loops] == [
        ("task 7", "repeat_loop: the same call with the same result 5 times in a row")
    ]


def test_an_hour_of_turns_in_virtual_time():
    class Slow(Agent):
        steps = 1000

        def ask(self, messages):
            clock.jump(60)
            return Agent.ask(self, messages)

        def run(self, task):
            return Agent.run(self, task)

    with MockClock() as clock:
        agent = guard_interactive(Slow(lambda n: call(n, arguments=f'{{"page": {n}}}')), 3600, execute="run", turn="ask", tools=None)
        result = agent.run("go")
    assert result["error_type"] == "timeout"
    assert 59 <= agent.asked <= 60
    assert "timeout after 3600" in result["error"].lower()


def test_a_plain_loop_is_guarded():
    messages = [{"role": "user", "content": "go"}]
    turns = guarded_turns(messages, max_turns=50)
    seen = []
    for turn in turns:
        seen.append(turn)
        messages += [in_chat(turn), {"role": "tool", "content": "the same"}]
    assert seen == [1, 2, 3, 4, 5]
    assert turns.ended == turns.loop.kind == "repeat_loop"


def test_a_plain_loop_ends_by_turns_by_time_and_by_itself():
    turns = guarded_turns([], max_turns=3)
    assert list(turns) == [1, 2, 3]
    assert turns.ended == "max_turns"
    with MockClock() as clock:
        timed, count = guarded_turns([], timeout=10), 0
        for count in timed:  # noqa: B007  # the last one is what is wanted
            clock.jump(4)
    assert (count, timed.ended) == (3, "timeout")
    for _ in (own := guarded_turns([])):
        break
    assert own.ended is None
    with pytest.raises(TypeError, match="no limit 'searchs'"):
        guarded_turns([], searchs=3)


def test_a_plain_loop_that_shortens_its_conversation():
    messages = []
    turns = guarded_turns(messages, max_turns=40)
    for turn in turns:
        messages += [in_chat(turn), {"role": "tool", "content": f"result {turn}"}]
        del messages[:-4]
    assert turns.ended == "max_turns"


def test_two_executors_one_in_the_other_are_watched_apart():
    inner = guard_interactive(Agent(), execute="run", turn="ask", tools=None)

    class Outer(Agent):
        def ask(self, messages):
            inner.asked = 0
            assert inner.run("inner")["error_type"] == "repeat_loop"
            return Agent.ask(self, messages)

        def run(self, task):
            return Agent.run(self, task)

    outer = guard_interactive(Outer(lambda n: call(n, arguments=f'{{"page": {n}}}')), execute="run", turn="ask", tools=None)
    assert outer.run("go") == {"steps": 50}


def test_an_executor_that_hands_over_only_what_is_new():
    class Stateful(Agent):
        def ask(self, fresh):
            return Agent.ask(self, fresh)

        def run(self, task):
            fresh = [{"role": "user", "content": task}]
            for step in range(self.steps):
                if self.ask(fresh) is None:
                    return {"steps": step}
                fresh = [{"type": "function_call_output", "call_id": "1", "output": "the same"}]
            return {"steps": self.steps}

    assert guard_interactive(Stateful(in_responses), execute="run", turn="ask", tools=None).run("go")["steps"] == 5


def test_nothing_of_the_models_words_is_in_a_result_or_in_the_log(caplog):
    caplog.set_level(logging.DEBUG)
    secret = "test timeout after 5 seconds"
    agent = guard_interactive(Agent(lambda n: call(n, name=secret)), execute="run", turn="ask", tools=None)
    result = agent.run("go")
    assert secret not in result["error"], "runners tell a timeout by these words"
    assert secret not in caplog.text
    assert LoopGuard().see({"role": "user", "content": GO_ON}) is None
