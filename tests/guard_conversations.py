"""Conversations to try the guard on: loops of each kind, and honest work that looks like one.

Each is written once, as steps, and told in the form of each kind of client. `Call`: the model calls a tool and gets its
result; `Say`: it says something and is answered (None: not at all).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Call(NamedTuple):
    name: str
    arguments: dict[str, Any]
    result: str
    error: bool = False


class Say(NamedTuple):
    text: str
    answer: str | None = None


@dataclass
class Script:
    name: str
    steps: list[Any]
    kind: str | None = None  # of the loop; None: honest work
    turn: int | None = None
    forms: tuple[str, ...] = ("tags", "chat", "responses", "anthropic")
    prompt: str = "Please do the task."
    options: dict[str, Any] = field(default_factory=dict)


def as_tags(script: Script) -> list[Any]:
    messages: list[Any] = [{"role": "user", "content": f"{script.prompt} Call tools with <tool_call>name</tool_call>."}]
    for step in script.steps:
        if isinstance(step, Call):
            body = json.dumps({"name": step.name, "arguments": step.arguments})
            messages.append({"role": "assistant", "content": f"Next.\n<tool_call>{body}</tool_call>"})
            messages.append({"role": "user", "content": step.result})
        else:
            messages.append({"role": "assistant", "content": step.text})
            if step.answer is not None:
                messages.append({"role": "user", "content": step.answer})
    return messages


def as_chat(script: Script) -> list[Any]:
    messages: list[Any] = [{"role": "system", "content": "You have tools."}, {"role": "user", "content": script.prompt}]
    for number, step in enumerate(script.steps):
        if isinstance(step, Call):
            function = {"name": step.name, "arguments": json.dumps(step.arguments)}
            call = {"id": f"call_{number}", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": step.result})
        else:
            messages.append({"role": "assistant", "content": step.text})
            if step.answer is not None:
                messages.append({"role": "user", "content": step.answer})
    return messages


def as_responses(script: Script) -> list[Any]:
    items: list[Any] = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": script.prompt}]}]
    for number, step in enumerate(script.steps):
        if isinstance(step, Call):
            items.append({"type": "reasoning", "id": f"rs_{number}", "summary": []})
            items.append({"type": "function_call", "call_id": f"call_{number}", "name": step.name,
                          "arguments": json.dumps(step.arguments)})
            items.append({"type": "function_call_output", "call_id": f"call_{number}", "output": step.result})
        else:
            content = [{"type": "output_text", "text": step.text, "annotations": []}]
            items.append({"type": "message", "role": "assistant", "content": content})
            if step.answer is not None:
                items.append({"type": "message", "role": "user", "content": [{"type": "input_text", "text": step.answer}]})
    return items


def as_anthropic(script: Script) -> list[Any]:
    messages: list[Any] = [{"role": "user", "content": script.prompt}]
    for number, step in enumerate(script.steps):
        if isinstance(step, Call):
            block = {"type": "tool_use", "id": f"toolu_{number}", "name": step.name, "input": step.arguments}
            result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": step.result, "is_error": step.error}
            messages.append({"role": "assistant", "content": [{"type": "text", "text": "Next."}, block]})
            messages.append({"role": "user", "content": [result]})
        else:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": step.text}]})
            if step.answer is not None:
                messages.append({"role": "user", "content": step.answer})
    return messages


FORMS: dict[str, Callable[[Script], list[Any]]] = {
    "tags": as_tags, "chat": as_chat, "responses": as_responses, "anthropic": as_anthropic,
}

NO_ACTION = "No action was detected in your answer. Please use one of the formats you were given."
GO_ON = "Please go on with the task; if you are done, call the tool finish."
READ = Call("read_file", {"path": "a.py"}, "def f():\n    return 1\n")
LIST = Call("list_files", {"path": "."}, "a.py\nb.py\n")
GREP = Call("grep", {"pattern": "f\\("}, "b.py:3: f()\n")
FAIL = Call("run_tests", {"path": "tests"}, "Error: no module named app", error=True)
DONE = "The task is completed: everything was read."


def searched(query: str, *ids: str) -> Call:
    return Call("search_docs", {"query": query}, "\n".join(f"{one}: an article (score 0.{len(query)})" for one in ids) or "no results")


PHRASES = [
    "how to close a database connection in the pool", "how to close a connection in the database pool",
    "how to close in the pool a database connection", "close a database connection in the pool how to",
    "in the pool how to close a database connection", "a database connection in the pool how to close",
    "database connection in the pool how to close a", "to close a database connection in the pool how",
]
TAGS = ("tags",)
STRUCTURED = ("chat", "responses", "anthropic")

LOOPS = [
    Script("the same call with the same result", [LIST] + [READ] * 7, "repeat_loop", 6),
    Script(
        "the same result but for its time stamps",
        [Call("fetch", {"id": 7}, f"2026-03-0{n} 10:0{n}:00 took {n}.5 ms: nothing") for n in range(1, 9)],
        "repeat_loop", 5,
    ),
    Script("the same call with the same error", [READ] + [FAIL] * 6, "error_loop", 5),
    Script("an error that never passes", [Call("post", {"id": 1}, "Error 429: rate limit, try again")] * 12, "error_loop", 8),
    Script("the same edit and the same failing test", [Call("edit", {"path": "a.py", "to": 1}, "saved"), FAIL] * 6, "cycle_loop", 8),
    Script("one key without end", [Call("press_key", {"key": "Tab"}, "ok")] * 20, "repeat_loop", 15),
    Script("a named error", [Call("parse", {"n": 1}, "ValueError: not a number")] * 6, "error_loop", 4),
    Script("two results of one call in turn", [Call("look", {}, "a wall"), Call("look", {}, "a door")] * 8, "cycle_loop", 8),
    Script("two calls in turn", [READ, LIST] * 6, "cycle_loop", 8),
    Script("ping-pong across three tools", [READ, LIST, GREP] * 6, "cycle_loop", 12),
    Script("five calls in turn", [READ, LIST, GREP, FAIL, searched("f", "d1")] * 6, "cycle_loop", 20),
    Script("paraphrased searches", [searched(one, "doc1", "doc2") for one in PHRASES * 2], "paraphrase_loop", 8),
    Script("paraphrased searches that find nothing", [searched(one) for one in PHRASES * 2], "paraphrase_loop", 8),
    Script("answers with nothing in them", [READ] + [Say("", GO_ON)] * 8, "empty_loop", 7, STRUCTURED),
    Script("the same words again and again", [READ] + [Say("I will look into it.", GO_ON)] * 8, "no_action_loop", 6),
    Script("nobody answers the same words", [READ] + [Say("Let me think.")] * 8, "no_action_loop", 6, ("tags", "chat", "anthropic")),
    Script("done, and from the beginning", [READ, Say(DONE, GO_ON)] * 8, "restart_loop", None),
    Script("cut tags", [READ] + [Say(f"Now {n}.\n<tool_call>write_file", NO_ACTION) for n in range(8)], "no_action_loop", 4, TAGS),
    Script("a cut tag that is told and comes again", [Say("<tool_call>reader", NO_ACTION)] * 8, "no_action_loop", 3, TAGS),
    Script("cut tags that nobody answers at first", [Say("<tool_call>reader")] * 2 + [Say("<tool_call>reader", NO_ACTION)] * 6, "no_action_loop", 4, TAGS),
    Script("other cut tags each time", [Say(f"<tool_call>reader_{n}", NO_ACTION) for n in range(8)], "no_action_loop", 4, TAGS),
    Script("cut tags nobody answers", [Say("<tool_call>reader")] * 8, "no_action_loop", 4, TAGS),
    Script("half an opening tag", [Say("I call it now: <tool_call", NO_ACTION)] * 8, "no_action_loop", 3, TAGS),
    Script(
        "an opening tag where the closing one belongs",
        [Say(f"<tool_call>reader[path={n}]<tool_call>", NO_ACTION) for n in range(8)], "no_action_loop", 4, TAGS,
    ),
    Script("words instead of actions", [READ] + [Say(f"Step {n}: I should read file {n}.", NO_ACTION) for n in range(8)], "no_action_loop", 6, TAGS),
    Script("searches without end", [Say(f"<tool_search>tool {n}</tool_search>", f"Found: t{n}") for n in range(8)], "search_loop", 4, TAGS),
    Script(
        "reading about the same tools",
        [Say(f"<tool_info>t{n % 3}</tool_info>", f"about t{n % 3}: words") for n in range(12)], "search_loop", 7, TAGS,
    ),
]  # fmt: skip

HONEST = [
    Script("polling", [Call("get_job_status", {"job": 3}, '{"state": "running"}')] * 30 + [Call("get_job_result", {"job": 3}, "42")]),
    Script("waiting in a shell", [Call("bash", {"command": "sleep 30; kubectl get pods"}, "api 0/1 Pending")] * 9 + [READ]),
    Script("waiting for a counter", [Call("count_rows", {"table": "t"}, f"{100 * n} rows") for n in range(20)]),
    Script("paging", [Call("list_items", {"page": n}, f"items {10 * n} to {10 * n + 9}") for n in range(25)]),
    Script("paging with the same words", [Call("next_page", {}, f"page {n} of 20") for n in range(20)]),
    Script("batch look-ups", [Call("find_user", {"name": name}, "not found") for name in ["ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "ivy", "jon"]]),
    Script("retry after a fixed error", [FAIL, FAIL, Call("edit", {"path": "app.py"}, "saved"), FAIL, Call("edit", {"path": "b.py"}, "saved"), Call("run_tests", {"path": "tests"}, "3 passed")]),
    Script("retries that pass", [Call("post", {"id": 1}, "Error 503: unavailable, try again")] * 6 + [Call("post", {"id": 1}, "created")]),
    Script("a careful search", [searched(f"topic {n} part {n * n}", f"doc{n}", f"doc{n + 1}") for n in range(12)]),
    Script("like searches that get somewhere", [searched(one, f"doc{n}") for n, one in enumerate(PHRASES * 2)]),
    Script("edit and test", [step for n in range(12) for step in (Call("edit", {"path": "a.py", "line": n}, "saved"), Call("run_tests", {}, f"{n} passed, {12 - n} failed"))]),
    Script("three rounds and then on", [READ, LIST] * 3 + [GREP, Call("edit", {"path": "a.py"}, "saved")]),
    Script("four times the same", [READ] * 4 + [LIST, READ, GREP]),
    Script("a long task", [Call("read_file", {"path": f"f{n}.py"}, f"content of {n}") for n in range(150)]),
    Script("an answer at the end", [READ, LIST, GREP, Say("The function is called once, in b.py.")]),
    Script("a chat with a person", [READ] + [Say(f"Here is idea {n}: {'x' * n}. What do you think?", answer) for n, answer in enumerate(
        ["yes", "no", "rather not", "ok", "yes", "tell me more about that one, please", "hm", "good", "and then?", "thanks, that is what I wanted"])]),
    Script("a person who says yes", [READ] + [Say(f"Shall I do step {n}?", "yes") for n in range(10)]),
    Script("a person with long questions", [Say(f"Answer {n}.", f"{word} could you also explain to me what number {n} has to do with it?")
                                            for n, word in enumerate(["Well", "So", "But", "And", "Then", "Now", "Right", "Fine", "Good", "Hm"])]),
    Script("a person who has it done again", [step for word in ["Thanks", "Good", "Right", "Fine", "Well", "Now", "So", "Then"]
                                             for step in (READ, Say(DONE, f"{word}, please read it once more for me, I changed it"))]),
    Script("the same failing test, edits between", [step for n in range(9) for step in (Call("edit", {"path": "a.py", "to": n}, "saved"), Call("bash", {"command": "pytest -q"}, f"Error: 1 failed, 4 passed in 0.{n}2s", error=True))]),
    Script("the same compiler error, edits between", [step for n in range(8) for step in (Call("bash", {"command": f"sed -i s/{n}/x/ a.c"}, ""), Call("bash", {"command": "make"}, "a.c:3: error: expected ';'"))]),
    Script("edit, read, test", [step for n in range(8) for step in (Call("edit", {"n": n}, "saved"), READ, Call("run_tests", {}, "Error: 1 failed", error=True))]),
    Script("a job whose result says that it runs", [Call("get_job", {"id": 1}, '{"status": "RUNNING"}')] * 10 + [Call("get_job", {"id": 1}, '{"status": "DONE"}')]),
    Script("a check that is not ready", [Call("check_deployment", {"id": 1}, "It isn't ready.")] * 10 + [Call("check_deployment", {"id": 1}, "live")]),
    Script("a job and its log in turn", [step for _ in range(8) for step in (Call("get_job", {"id": 1}, '{"state": "queued"}'), Call("get_log", {"id": 1}, ""))] + [READ]),
    Script("waiting between looks", [step for _ in range(8) for step in (Call("wait_seconds", {"s": 30}, "waited"), Call("get_job", {"id": 1}, "RUNNING"))] + [READ]),
    Script("keys on a keyboard", [Call("press_key", {"key": "Tab"}, "ok")] * 10 + [Call("press_key", {"key": "Enter"}, "ok")]),
    Script("scrolling down", [Call("scroll", {"by": -300}, "done")] * 12 + [Call("screenshot", {}, "an image")]),
    Script("steps through a maze", [Call("move", {"to": "north"}, "You moved north.")] * 10 + [Call("look", {}, "an exit")]),
    Script("the same search in one file after another", [Call("search_file", {"term": "def foo", "file": f"/repo/pkg/sub/deep/down/here/module_{name}.py"}, "No matches found") for name in "abcdefghijkl"]),
    Script("the same search on every page", [Call("search_logs", {"query": "error timeout in worker", "page": n}, "100 lines") for n in range(12)]),
    Script("a batch of searches by number", [Call("search_orders", {"query": f"the order with the number {100 + n} in the shop of the department"}, "not found") for n in range(12)]),
    Script("a refused connection that comes back", [Call("fetch", {"u": 1}, "ConnectionError: connection refused")] * 6 + [Call("fetch", {"u": 1}, "data")]),
    Script("measuring the same a few times", [Call("bash", {"command": "python benchmark.py"}, f"1{n}.3 ms per loop") for n in range(8)]),
    Script("a person who is told the same", [Say("Please choose A or B.", word) for word in ["what?", "A or what", "hm", "?", "dunno", "a", "B", "ok"]]),
    Script("a person who asks again in other words", [Say("I am sorry, I cannot help with that.", f"{word}, please think again: my case is another one") for word in ["But", "Oh", "Why", "Look", "Again", "Hey", "Well", "So"]]),
    Script("a person who asks about tags", [Say(f"Well, {n}: the model writes `<tool_call>` and then what it calls.", f"{word}, and what does it do about that one?") for n, word in enumerate(["So", "Hm", "Right", "Fine", "Good", "But", "And", "Now"])]),
    Script("a person who asks about tags without quotes", [Say(f"Number {n}: here it emits <tool_call> and then a JSON object that the server reads.", f"{word}, and what does it do about that one?") for n, word in enumerate(["So", "Hm", "Right", "Fine", "Good", "But", "And", "Now"])]),
    Script("two empty answers", [READ, Say("", GO_ON), Say("", GO_ON), LIST, Say("", GO_ON), GREP]),
    Script("one cut tag now and then", [step for n in range(8) for step in (Say("<tool_call>write_file", NO_ACTION), Call("write_file", {"path": f"{n}"}, "ok"))], forms=TAGS),
    Script("three cut tags nobody answers, and then right", [Say("<tool_call>reader")] * 3 + [READ, LIST], forms=TAGS),
    Script("three cut tags, another each time, and then right", [Say(f"<tool_call>reader{n}", NO_ACTION) for n in range(3)] + [READ, LIST], forms=TAGS),
    Script("told twice, and then right", [Say("<tool_call>reader", NO_ACTION)] * 2 + [READ, LIST], forms=TAGS),
    Script("thinking aloud between calls", [step for n in range(9) for step in (Say(f"Thinking about {n}.", NO_ACTION), Say(f"More about {n}.", NO_ACTION), Call("step", {"n": n}, f"ok {n}"))], forms=TAGS),
    Script("a careful look at every tool", [Say(f"<tool_info>tool_{n}</tool_info>", f"tool_{n} does thing {n}") for n in range(12)] + [READ], forms=TAGS),
    Script("search, read, call", [step for n in range(8) for step in (Say(f"<tool_search>tool {n}</tool_search>", f"Found: t{n}"), Call(f"t{n}", {}, "ok"))], forms=TAGS),
]  # fmt: skip


def conversations() -> Iterator[tuple[str, Script, list[Any]]]:
    """Each script in each of its forms."""
    for script in LOOPS + HONEST:
        for form in script.forms:
            yield f"{script.name} ({form})", script, FORMS[form](script)
