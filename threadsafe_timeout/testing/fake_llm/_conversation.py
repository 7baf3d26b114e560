"""What the model says next: a pure function of the conversation, because the server remembers none.

How many assistant messages a conversation already holds is what turn it is. The tags are those of tool-using runners:
`<tool_search>`, `<tool_info>`, `<tool_call>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from threadsafe_timeout.testing.fake_llm._mix import stable_hash

__all__ = ["CLOSING", "Message", "classification", "first_user_text", "is_classification", "required_tools", "say"]

Message = dict[str, Any]

CLOSING = "All required steps have been executed and the results were checked. Task completed successfully."
# "Required tools: a, b", "required_tools = ['a', 'b']", or the heading alone with one bullet per tool below it.
_REQUIRED = re.compile(
    r"required[ _-]tools?[^:=\n]{0,40}[:=][ \t]*([^\n]*)((?:\n[ \t]*(?:[-*•]|\d+[.)])[^\n]*)*)", re.IGNORECASE
)
_NAME = re.compile(r"[A-Za-z_][\w.-]*\w|[A-Za-z]")
_CLASSIFICATION = re.compile(r"\b(?:error|failure)[ _-]classif|\bclassify\b.{0,80}\b(?:error|failure)", re.I | re.S)

_TOPICS = ("read the input file", "parse a csv table", "validate records", "transform nested data",
           "send an http request", "authenticate against a service", "store results", "compress an archive",
           "schedule a job", "notify a channel", "merge two sources", "render a report")
_ASKS = ("tool to {}", "how can I {}", "operation that can {} step by step", "{} utility with retries",
         "which component would {} safely", "alternative way to {}", "{}, low level primitive")
_PARAPHRASED = ["find", "tool", "that", "reads", "large", "csv", "files", "and", "validates", "every", "row", "against"]
_FILLERS = ("", "please", "quickly", "again", "now")


def text_of(message: Message) -> str:
    """The text of a message, whose content may be a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def first_user_text(messages: Sequence[Message]) -> str:
    """The first user message: what tells one task from another. Without one, whatever came first."""
    users = [message for message in messages if message.get("role") == "user"]
    return text_of((users or list(messages) or [{}])[0])


def is_classification(model: str, messages: Sequence[Message]) -> bool:
    """Whether a runner is asking what kind of failure it saw, rather than working on a task."""
    if "classif" in model.lower():
        return True
    opening = [text_of(message) for message in messages[:2]]
    return any(_CLASSIFICATION.search(text[:2000]) for text in opening)


def classification() -> str:
    """The one answer to every classification request."""
    return '{"category": "other_errors", "reason": "No tool was executed.", "confidence": 0.9}'


def required_tools(messages: Sequence[Message]) -> list[str]:
    """The tools the opening messages say are required, in order."""
    opening = "\n".join(text_of(message) for message in messages if message.get("role") != "assistant")
    found = _REQUIRED.search(opening)
    if found is None:
        return []
    bullets = [name[0] for name in (_NAME.search(line) for line in found[2].splitlines()) if name]
    return list(dict.fromkeys(_NAME.findall(found[1]) or bullets))


def _good(messages: Sequence[Message], turn: int) -> str:
    tools = required_tools(messages)
    if not tools and not any("tool_search" in text_of(message) for message in messages):
        return CLOSING  # a runner without tools: a plain answer
    wanted = (tools or ["processing"])[0].replace("_", " ")
    script = [f"I will look for the right tools first.\n<tool_search>{wanted} tool</tool_search>"]
    if tools:
        script.append(f"Let me check how it is used.\n<tool_info>{tools[0]}</tool_info>")
    script += [f"Next step.\n<tool_call>{tool}</tool_call>" for tool in tools]
    return script[turn] if turn < len(script) else CLOSING


def _search(task: str, turn: int) -> str:
    # 7 is coprime to 12: topic and wording both change every turn, and a pair comes again after 84 turns only
    place = stable_hash(task) % 84 + turn
    again = turn // (len(_TOPICS) * len(_ASKS))
    query = _ASKS[place % len(_ASKS)].format(_TOPICS[place % len(_TOPICS)])
    return f"That is not quite it yet.\n<tool_search>{query}{f' variant {again}' if again else ''}</tool_search>"


def _paraphrase(turn: int) -> str:
    shift = turn % len(_PARAPHRASED)
    words = _PARAPHRASED[shift:] + _PARAPHRASED[:shift] + [_FILLERS[turn % len(_FILLERS)]]
    return f"Let me search.\n<tool_search>{' '.join(words).strip()}</tool_search>"


def _cycle(turn: int) -> str:
    return f"<tool_search>{('convert the input format', 'write the converted output')[turn % 2]}</tool_search>"


def _cut(messages: Sequence[Message]) -> str:
    return f"I run the first tool.\n<tool_call>{(required_tools(messages) or ['processing'])[0]}"


def _alternate(messages: Sequence[Message], turn: int) -> str:
    tools = [*required_tools(messages), "file_operations_reader", "data_processing_parser"]
    return f"<tool_info>{tools[0] if turn % 2 == 0 else next(tool for tool in tools if tool != tools[0])}</tool_info>"


def say(behaviour: str, task: str, messages: Sequence[Message]) -> str:
    """The next assistant message of a task that behaves like `behaviour`."""
    turn = sum(message.get("role") == "assistant" for message in messages)
    sayings: dict[str, Callable[[], str]] = {
        "search": lambda: _search(task, turn),
        "paraphrase": lambda: _paraphrase(turn),
        "cycle": lambda: _cycle(turn),
        "cut": lambda: _cut(messages),
        "alternate": lambda: _alternate(messages, turn),
        "empty": lambda: "",
    }
    return sayings.get(behaviour, lambda: _good(messages, turn))()
