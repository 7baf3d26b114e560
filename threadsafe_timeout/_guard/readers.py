"""From any client's messages to `Said` and `Heard`.

Understood are: the chat form of OpenAI (`role`, `content`, `tool_calls`, `tool_call_id`), its completions, the items of
its Responses API, Anthropic's messages and content blocks, LangChain's messages, `{"response": …, "feedback": …}` of
recorded runs, and plain text with the tags of `tags.py`; each as a dict, as an object with such attributes (pydantic
models of the clients among them), or in a list. What is none of these gives nothing: `Reader.unread` counts it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from threadsafe_timeout._guard.alike import LONGEST, shortened
from threadsafe_timeout._guard.limits import polls as waits
from threadsafe_timeout._guard.tags import cut_tag, tag_calls
from threadsafe_timeout._guard.turns import Action, Heard, Said

__all__ = ["Reader", "check_names", "get", "role_of"]

_ROLES = {
    "assistant": "assistant", "ai": "assistant", "model": "assistant", "gpt": "assistant",
    "AIMessageChunk": "assistant", "user": "user", "human": "user", "tool": "tool", "function": "tool",
    "observation": "tool", "environment": "tool", "ipython": "tool", "system": "system", "developer": "system",
}  # fmt: skip
_OUTPUTS = {"function_call_output", "custom_tool_call_output", "computer_call_output", "local_shell_call_output"}
_DEEPEST = 8
_MOST_CALLS = 64


def get(thing: Any, name: str) -> Any:
    """A key or an attribute; None if there is none, or if asking for it fails."""
    if type(thing) is dict:
        return thing.get(name)
    try:
        return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
    except Exception:  # an object of somebody else's: anything may happen
        return None


def role_of(message: Any) -> str | None:
    """`assistant`, `user`, `tool` or `system`; None if it is not a message with a role."""
    for name in ("role", "type", "from"):
        word = get(message, name)
        if isinstance(word, str) and word in _ROLES:
            return _ROLES[word]
    return None


def _exact(text: str) -> str:
    """A plain string: a class of somebody else's may do anything in its methods."""
    return text if type(text) is str else str.__str__(text)


def _plain(value: Any) -> str:
    """Any value as text of bounded length, the same for the same value."""
    if isinstance(value, str):
        return _exact(value)
    try:
        return shortened(json.dumps(value, sort_keys=True, default=repr, ensure_ascii=False))
    except Exception:
        try:
            return shortened(repr(value))
        except Exception:
            return f"<{type(value).__name__}>"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        text = _exact(value).strip()
        if text.startswith("{") and len(text) < LONGEST:
            try:
                return json.dumps(json.loads(text), sort_keys=True)
            except (ValueError, RecursionError):
                pass
        return " ".join(shortened(text).split())
    return "" if value is None else _plain(value)


def check_names(parameter: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names of tools that a user gives. Raises TypeError: a text alone would be read as its letters."""
    listed = isinstance(names, Iterable) and not isinstance(names, str | bytes)
    given = tuple(names) if listed else ()
    if not listed or not all(isinstance(name, str) for name in given):
        raise TypeError(f"{parameter} must be a list of names of tools, got {names!r}")
    return given


class Reader:
    """Reads messages the way one user wants them read.

    `extract(message)` gives the message in the chat form, or a list of such, or None for one to be left out.
    `is_search(message)` says whether an answer only searches. `polls` are names of tools that wait for something,
    beside those whose name says so. `search_tools` are names of tools that search.
    """

    def __init__(
        self,
        extract: Callable[[Any], Any] | None = None,
        is_search: Callable[[Any], bool] | None = None,
        polls: Iterable[str] = (),
        search_tools: Iterable[str] = (),
    ) -> None:
        self._extract = extract
        self._is_search = is_search
        self._polls = frozenset(check_names("polls", polls))
        self._search_tools = frozenset(check_names("search_tools", search_tools))
        self._asking_user = False  # `extract` or `is_search` runs: what it raises is raised
        self.unread = 0

    def read(self, message: Any) -> list[Said | Heard]:
        """All that is in a message, or in a list of them."""
        try:
            return list(self._read(message, 0, extracted=self._extract is None))
        except Exception:  # an object of somebody else's, or something in it
            if self._asking_user:
                self._asking_user = False
                raise
            self.unread += 1
            return []

    def answer(self, response: Any) -> Said | None:
        """What an executor's turn method returned, as one answer of the model."""
        if self._extract is None and self._is_search is None and isinstance(response, str):
            return self._said(response, response)
        found = [one for one in self.read(response) if isinstance(one, Said)]
        return _joined(found) if found else None

    def _read(self, message: Any, depth: int, *, extracted: bool) -> Iterator[Said | Heard]:
        if message is None or depth > _DEEPEST:
            return
        if isinstance(message, list) or (extracted and isinstance(message, tuple)):
            for one in message:
                yield from self._read(one, depth + 1, extracted=extracted)
        elif not extracted and self._extract is not None:
            self._asking_user = True
            found = self._extract(message)
            self._asking_user = False
            yield from self._read(found, depth + 1, extracted=True)
        elif isinstance(message, str):
            yield self._said(message, message)
        elif isinstance(message, bytes | bytearray):
            yield self._said(bytes(message[: 4 * LONGEST]).decode("utf-8", "replace"), message)
        else:
            yield from self._read_thing(message, depth)

    def _read_thing(self, message: Any, depth: int) -> Iterator[Said | Heard]:
        role = role_of(message)
        if role is not None:
            yield from self._message(message, role)
            return
        choices, output = _listed(get(message, "choices")), get(message, "output")
        if choices:
            chosen = get(choices[0], "message") or get(choices[0], "text")
            yield from self._read(chosen, depth + 1, extracted=True)
        elif isinstance(output, list) and get(message, "type") is None:
            yield from self._joined_items(output, depth)
        elif get(message, "type") == "message":
            yield from self._message(message, "assistant")
        elif isinstance(get(message, "type"), str) and get(message, "type") != "object":
            yield from self._item(message)
        elif get(message, "response") is not None:
            yield self._said(_text_of(get(message, "response")), message)
            feedback = _text_of(get(message, "feedback"))
            if feedback:
                yield Heard(feedback)
        elif get(message, "tool_calls") is not None or isinstance(get(message, "content"), str | list):
            yield from self._message(message, "assistant")
        else:
            self.unread += 1

    def _joined_items(self, items: list[Any], depth: int) -> Iterator[Said | Heard]:
        found = [one for item in items[:_MOST_CALLS] for one in self._read(item, depth + 1, extracted=True)]
        said = [one for one in found if isinstance(one, Said)]
        if said:
            yield replace(_joined(said), joins=False)
        else:
            yield self._said("", None)

    def _message(self, message: Any, role: str) -> Iterator[Said | Heard]:
        content = get(message, "content")
        if content is None:
            content = get(message, "value")
        if role == "assistant":
            yield self._assistant(message, content)
        elif role == "tool":
            error = get(message, "is_error")
            if error is None and get(message, "status") == "error":
                error = True
            call_id = get(message, "tool_call_id") or get(message, "name")
            yield Heard(_text_of(content), "tool", _name(call_id), bool(error) or None)
        elif role == "user":
            yield from _heard_from_user(content)
        else:
            yield Heard(_text_of(content), "system")

    def _assistant(self, message: Any, content: Any) -> Said:
        text = _text_of(content, skip_calls=True)
        calls = [self._structured(call) for call in _listed(get(message, "tool_calls"))[:_MOST_CALLS]]
        single = get(message, "function_call")
        if single is not None and not calls:
            calls = [self._structured(single)]
        blocks = [block for block in _listed(content) if _is_call(block)][:_MOST_CALLS]
        calls += [self._structured(block) for block in blocks if not get(message, "tool_calls")]
        if not calls:
            item = get(message, "type") == "message" and get(message, "status") is not None
            return self._said(text, message, joins=item)
        return self._searched(Said(text, tuple(calls), structured=True, original=message))

    def _item(self, item: Any) -> Iterator[Said | Heard]:
        """An item of the Responses API, or a content block that stands alone."""
        kind = get(item, "type")
        if kind in _OUTPUTS:
            yield Heard(_text_of(get(item, "output")), "tool", _name(get(item, "call_id")))
        elif kind == "tool_result":
            yield from _heard_from_user([item])
        elif kind.endswith("_call") or kind in ("tool_use", "server_tool_use"):
            call = self._structured(item)
            yield self._searched(Said("", (call,), structured=True, joins=True, original=item))
        elif kind in ("text", "output_text"):
            yield self._said(_text_of(get(item, "text")), item, joins=True)
        elif kind in ("input_text", "input_image", "input_file"):
            yield Heard(_text_of([item]))
        elif kind not in ("reasoning", "thinking", "redacted_thinking"):
            self.unread += 1

    def _structured(self, call: Any) -> Action:
        inner = get(call, "function") or get(call, "custom") or call
        name = _name(get(inner, "name")) or _name(get(call, "type")) or "call"
        arguments = None
        for key in ("arguments", "args", "input", "action", "queries", "code"):
            arguments = get(inner, key)
            if arguments is not None:
                break
        return self._action(name, _arguments(arguments), _name(get(call, "call_id") or get(call, "id")))

    def _action(self, name: str, arguments: str, call_id: str | None = None, tag: str = "") -> Action:
        search = tag == "tool_search" or name in self._search_tools
        poll = not search and (name in self._polls or waits(name, arguments))
        return Action(name, arguments, call_id, search, search or tag == "tool_info", poll)

    def _said(self, text: str, original: Any, *, joins: bool = False) -> Said:
        """An answer in plain text, with the tags in it."""
        text = _exact(text)
        actions = tuple(self._action(name, arguments, tag=tag) for tag, name, arguments in tag_calls(text))
        cut = None if actions else cut_tag(text)
        return self._searched(Said(text, actions, cut, joins=joins, original=original))

    def _searched(self, said: Said) -> Said:
        if self._is_search is None:
            return said
        self._asking_user = True
        try:
            searches = bool(self._is_search(said.original))
        except (TypeError, AttributeError) as exc:
            raise TypeError(f"is_search cannot read a {type(said.original).__name__}: {exc}") from exc
        self._asking_user = False
        actions = said.actions or ((Action("search", "", None, True, True),) if searches else ())
        return replace(said, actions=tuple(replace(one, search=searches, look_up=searches) for one in actions))


def _joined(found: list[Said]) -> Said:
    """Several items as the one answer they are."""
    if len(found) == 1:
        return found[0]
    actions = tuple(action for one in found for action in one.actions)[:_MOST_CALLS]
    text = "\n".join(one.text for one in found if one.text)
    cut = None if actions else next((one.cut for one in found if one.cut is not None), None)
    joins = found[-1].joins
    return Said(text, actions, cut, any(one.structured for one in found), joins, found[0].original)


def _name(value: Any) -> str | None:
    return _exact(value) if isinstance(value, str) else None


def _is_call(block: Any) -> bool:
    return get(block, "type") in ("tool_use", "server_tool_use", "tool_call")


def _text_of(content: Any, *, skip_calls: bool = False) -> str:
    """The text of a message's content: a string, or a list of blocks."""
    if isinstance(content, str):
        return _exact(content)
    if content is None:
        return ""
    if not isinstance(content, list | tuple):
        return _plain(content)
    parts = []
    for block in content[:256]:
        text = block if isinstance(block, str) else get(block, "text")
        if isinstance(text, str):
            parts.append(_exact(text))
        elif get(block, "type") in ("thinking", "redacted_thinking", "reasoning") or (skip_calls and _is_call(block)):
            continue
        else:
            parts.append(_plain(block))
    return "\n".join(parts)


def _heard_from_user(content: Any) -> Iterator[Heard]:
    blocks = _listed(content)
    results = [block for block in blocks if get(block, "type") == "tool_result"]
    for block in results[:_MOST_CALLS]:
        error = get(block, "is_error")
        yield Heard(_text_of(get(block, "content")), "tool", _name(get(block, "tool_use_id")), bool(error) or None)
    rest = [block for block in blocks if get(block, "type") != "tool_result"]
    if rest or not results:
        yield Heard(_text_of(rest if blocks else content))
