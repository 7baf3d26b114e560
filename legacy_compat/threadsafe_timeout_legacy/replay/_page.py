"""The page: one self-contained HTML file, of the parts that every page has (`threadsafe_timeout._view`)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from threadsafe_timeout._view.charts import legend
from threadsafe_timeout._view.page import Html, document, element, scrolling, section
from threadsafe_timeout_legacy.replay._analysis import Kind, SideResult
from threadsafe_timeout_legacy.replay._chart import chart
from threadsafe_timeout_legacy.replay._facts import FACTS, cell, conditions, legacy_time, notes
from threadsafe_timeout_legacy.replay._plan import Plan
from threadsafe_timeout_legacy.replay._promises import Promise
from threadsafe_timeout_legacy.replay._timeline import INCIDENT, Row, rows
from threadsafe_timeout_legacy.replay._workspace import LINE

__all__ = ["page"]

_CSS = Path(__file__).with_name("replay.css")
_TERMS = (
    ("legacy minute", "One minute of the incident. The replay is faster than life: every timeout, pause and answer is "
     "shortened by the same factor, so the order of events stays what it was."),
    ("finished", "The server has seen the task's last request end, and no other followed."),
    ("effective worker", "A worker that is not stuck on a task past its deadline."),
    ("saved", "Counted in the runner's own database, or held by the checkpoint: what is left after kill -9."),
    ("late request", "It began after its task's deadline: tokens paid for a result nobody waits for."),
)
_BEHAVIOUR = {
    "good": "answers and completes", "slow": "answers, slowly", "hang": "accepts the request, never answers",
    "trickle": "sends a byte now and then, for ever", "search": "asks for another search, for ever",
    "paraphrase": "repeats one search in other words", "cycle": "goes round between two searches",
    "storm429": "“too many requests”", "error500": "server error", "garbage": "answers nonsense",
    "drop": "closes the connection half way",
}


def page(plan: Plan, results: dict[str, SideResult], promises: list[Promise]) -> str:
    """The whole document."""
    parts = [
        *_header(plan, results), *_difference(results), _chart(plan, results), _timeline(results), _facts(results),
        _kinds(results), *_promises(promises), *_terms(plan, results),
    ]
    return document("The eight-hour stall, replayed", parts, style=_CSS.read_text(encoding="utf-8"))


def _header(plan: Plan, results: dict[str, SideResult]) -> Iterable[Html]:
    yield element("h1", "The eight-hour stall, replayed")
    yield element(
        "p", f"{plan.tasks} LLM tasks on {plan.workers} worker threads. Some of the model’s answers never come, some "
        "come a byte at a time, some ask for one more search for ever. The same runner, the same model, the same seed, "
        "twice: without the library, and with it.", class_="lead",
    )  # fmt: skip
    for note in notes(plan, results):
        yield element("p", note, class_="note")
    yield element("div", *(_card(plan, side, result) for side, result in results.items()), class_="cards")


def _card(plan: Plan, side: str, result: SideResult) -> Html:
    numbers = [
        ("tasks finished", result.finished, element("small", f" of {result.tasks}")),
        ("results saved", max(result.database, result.journal), element("small", f" of {result.tasks}")),
        ("requests after a deadline", result.late_requests, ""),
    ]
    return element(
        "section", element("h3", side.capitalize(), " ", element("span", f"· {plan.described(side)}")),
        element("dl", *(
            element("div", element("dt", words), element("dd", value, more)) for words, value, more in numbers
        ), class_="big"),
        element("p", _verdict(result)), class_=f"card {side}",
    )  # fmt: skip


def _verdict(result: SideResult) -> str:
    if result.ending == "exited" and result.makespan_minutes is not None:
        return f"The batch was complete after {legacy_time(result.makespan_minutes)}; the process exited by itself."
    if result.ending == "exited":
        when = legacy_time(result.end_minute)
        return f"The process exited at {when}, with {result.database} results in the database."
    stuck = result.tasks - result.finished
    batch = "The batch never ended" if result.makespan_minutes is None else "The batch ended, the process did not"
    return (f"{batch}: after {legacy_time(result.end_minute)}, {stuck} tasks were still stuck, "
            f"{result.threads_at_end} threads were alive, and it had to be killed.")


def _difference(results: dict[str, SideResult]) -> Iterable[Html]:
    after = results.get("after")
    if after is None:
        return
    if not after.difference:
        yield section("change", "The whole change", element(
            "p", "The batch and the conversation with the model are coroutines, on an ", element("code", "AsyncPool"),
            ", with one ", element("code", "AsyncOpenAI"),
            ". Tasks, tools, results and database are the same modules.",
        ))  # fmt: skip
        return
    lines = []
    for line in after.difference.strip().splitlines():
        kind = "plus" if line.startswith("+") and not line.startswith("+++") else "soft"
        lines += [element("span", line, class_=kind), "\n"]
    words = element("p", element("code", LINE), " is all that differs between the two copies of the runner.")
    yield section("change", "The whole change", element("pre", *map(_as_it_is, lines), tabindex="0"), words)


def _as_it_is(part: str) -> Html:
    """A part of a `pre`: the end of a line is one, not an escape."""
    return part if isinstance(part, Html) else Html(part)


def _mark(kind: str) -> Html:
    if kind == "incident":
        return element("circle", class_="incident", cx=15, cy=6, r=4.5)
    if kind == "deadline":
        return element("line", class_="deadline", x1=2, y1=6, x2=28, y2=6)
    if kind == "exit":
        return element("circle", class_="exit after", cx=15, cy=6, r=5.5)
    return element("path", class_=f"line {kind}", d="M1 6H29")


def _chart(plan: Plan, results: dict[str, SideResult]) -> Html:
    entries = [(side, f"{side}: {plan.described(side)}") for side in results]
    entries.append(("deadline", "the first tasks’ deadline; each has ten minutes of its own"))
    if any(result.ending == "exited" for result in results.values()):
        entries.append(("exit", "the process exited by itself"))
    if plan.workers == 100:
        entries.append(("incident", "as reported from the incident"))
    words = (
        "Legacy minutes since the first request; the scale stretches the first of them. An effective worker is not "
        "stuck on a task past its deadline. A result survives if it is on disk when the process is killed at that "
        "moment."
    )
    return section(
        "minutes", "What happened, minute by minute", legend([(_mark(kind), text) for kind, text in entries]),
        element("figure", chart(plan, results), element("figcaption", words, class_="soft")),
    )  # fmt: skip


def _timeline(results: dict[str, SideResult]) -> Html:
    sides = [rows(result) for result in results.values()]
    lines = []
    for moment, *found in zip(INCIDENT, *sides, strict=True):
        cells = [one for row in found for one in _cells(row)]
        first = element("th", moment.label, class_="number", scope="row")
        lines.append(element("tr", first, element("td", moment.text), *cells))
    head = _two_rows(["legacy time", "the incident"], results, ["finished", "effective", "saved"])
    words = element("p", "“Saved” is what is left on disk if the process is killed at that minute.")
    return section("incident", "Next to the incident", words, _table("Next to the incident", head, lines))


def _cells(row: Row) -> Iterable[Html]:
    if row.finished is None:
        yield element("td", "not watched", class_="number none", colspan=3)
        return
    for value in (row.finished, row.effective, row.on_disk):
        yield element("td", cell(value, row), class_="number" if value is not None else "number none")


def _two_rows(first: list[str], results: dict[str, SideResult], columns: list[str]) -> list[Html]:
    """A head with the same columns for each side."""
    top = [element("th", words, rowspan=2, scope="col") for words in first]
    top += [element("th", side, class_=f"group {side}", colspan=len(columns), scope="colgroup") for side in results]
    below = [element("th", words, class_="number", scope="col") for words in columns] * len(results)
    return [element("tr", *top), element("tr", *below)]


def _table(caption: str, head: Iterable[Html], lines: Iterable[Html]) -> Html:
    return scrolling(caption, element(
        "table", element("caption", caption), element("thead", *head), element("tbody", *lines)
    ))  # fmt: skip


def _facts(results: dict[str, SideResult]) -> Html:
    head = element("tr", element("th"), *(element("th", side, class_=side, scope="col") for side in results))
    lines = []
    for fact in FACTS:
        why = element("small", fact.why) if fact.why else ""
        cells = (element("td", fact.value(result)) for result in results.values())
        lines.append(element("tr", element("th", fact.label, why, scope="row"), *cells))
    words = element("p", "No number here comes from the runner’s own output.")
    heading = "What the server and the files saw"
    return section("facts", heading, words, _table(heading, [head], lines))


def _kind(kind: Kind | None) -> Iterable[Html]:
    if kind is None:
        yield element("td", "not seen", class_="number none", colspan=3)
        return
    for value in (f"{kind.finished} of {kind.tasks}", kind.requests, kind.late):
        yield element("td", value, class_="number")


def _kinds(results: dict[str, SideResult]) -> Html:
    lines = []
    for name in dict.fromkeys(name for result in results.values() for name in sorted(result.kinds)):
        first = element("th", name, element("small", _BEHAVIOUR.get(name, "")), scope="row")
        cells = [one for result in results.values() for one in _kind(result.kinds.get(name))]
        lines.append(element("tr", first, *cells))
    head = _two_rows(["the model"], results, ["finished", "requests", "late"])
    return section("kinds", "By what the model did", _table("By what the model did", head, lines))


def _promises(promises: list[Promise]) -> Iterable[Html]:
    if not promises:
        return
    lines = []
    for promise in promises:
        mark = element("b", "✓ kept", class_="good") if promise.held else element("b", "✗ broken", class_="bad")
        lines.append(element("li", mark, element("span", promise.text, element("small", promise.seen))))
    yield section("promises", "Promises of the library, checked", element("ul", *lines, class_="promises"))


def _terms(plan: Plan, results: dict[str, SideResult]) -> Iterable[Html]:
    heading = "How it was measured"
    lines = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in conditions(plan)]
    yield section("measured", heading, _table(heading, [], lines))
    words = [part for word, meaning in _TERMS for part in (element("dt", word), element("dd", meaning))]
    yield section("words", "Words", element("dl", *words, class_="terms"))
    commands = []
    for side, result in results.items():
        command = ["python", *(Path(word).name if word.endswith(".py") else word for word in result.command[1:])]
        note = element("span", f"# {side}", class_="soft")
        commands.append(element("pre", note, Html("\n"), shlex.join(command), tabindex="0"))
    yield section("commands", "Commands", *commands)
    made = element("code", "threadsafe-timeout replay")
    yield element("footer", "Made by ", made, ". This page loads nothing and runs no script.")
