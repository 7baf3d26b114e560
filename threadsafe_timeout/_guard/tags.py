"""The tags of runners that have the model write its calls as text: `<tool_search>`, `<tool_info>`, `<tool_call>`."""

from __future__ import annotations

import json
import re

__all__ = ["CALL_TAGS", "cut_tag", "mend", "mentions_tags", "tag_calls"]

# In order of meaning: what only searches, what only looks something up, what calls.
CALL_TAGS = ("tool_search", "tool_info", "tool_call", "tool_use", "function_call")
_MOST = 64
_NAME = re.compile(r"\s*([\w.\-/]+)\s*(.*)", re.DOTALL)
_OPEN = re.compile(r"<(?:tool_(?:search|info|call|use)|function_call)\b")
# In quotes or backticks a tag is spoken of, and nothing is called.
_OPENED = re.compile(r"(?<![`'\"])<(?:tool_(?:search|info|call|use)|function_call)\b(?!>?[`'\"])")
_SENTENCE = re.compile(r">?\s*(?!\{)\w+(?: [\w,'-]+){5}")  # a tag in the middle of prose
# At the very end: a whole opening tag with something in it, and no closing tag.
_MENDABLE = re.compile(r"<(tool_search|tool_info|tool_call)>\s*[^<>\s][^<>]*\Z")


def tag_calls(text: str) -> list[tuple[str, str, str]]:
    """Tag, name and arguments of each closed tag. Takes time in proportion to the text."""
    found: list[tuple[str, str, str]] = []
    if "</" not in text:
        return found
    for tag in CALL_TAGS:
        opened, closed = f"<{tag}>", f"</{tag}>"
        place = text.find(opened)
        while place >= 0 and len(found) < _MOST:
            end = text.find(closed, place)
            if end < 0:
                break
            body = text[place + len(opened) : end].strip()
            if body:
                found.append((tag, *_name_and_arguments(tag, body)))
            place = text.find(opened, end)
    return found


def _name_and_arguments(tag: str, body: str) -> tuple[str, str]:
    if tag == "tool_search":
        return tag, " ".join(body.split())
    if body.startswith("{") and len(body) < 10_000:
        try:
            call = json.loads(body)
            return str(call.get("name", tag)), json.dumps(call.get("arguments", call), sort_keys=True)
        except (ValueError, AttributeError, RecursionError):
            pass
    found = _NAME.fullmatch(body)
    return (found[1], " ".join(found[2].split())) if found else (tag, " ".join(body.split()))


def cut_tag(text: str) -> str | None:
    """What stands after the last opening tag, in a text without a closed one; None if no tag was opened. A tag that is
    only spoken of, in quotes or in a sentence, is none."""
    if "<" not in text:
        return None
    last = None
    for last in _OPENED.finditer(text):  # noqa: B007  # the last one is what is wanted
        pass
    if last is None or _SENTENCE.match(text, last.end()):
        return None
    return text[last.end() :].lstrip(">").strip()


def mentions_tags(text: str) -> bool:
    """Whether a prompt or an executor's answer teaches the tags."""
    return "<" in text and _OPEN.search(text) is not None


def mend(text: str) -> str | None:
    """The text with the closing tag its stop sequence swallowed, or None if it does not end that way."""
    if "<tool_" not in text or tag_calls(text):
        return None
    found = _MENDABLE.search(text)
    return None if found is None else f"{text.rstrip()}</{found[1]}>"
