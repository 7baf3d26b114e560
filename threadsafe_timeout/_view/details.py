"""The tables of the report: what was stuck, loops, errors, the slowest tasks. What belongs together is one row."""

from __future__ import annotations

from collections.abc import Iterable

from threadsafe_timeout._view.fields import mapping, number, place, text
from threadsafe_timeout._view.page import Html, cut, element, folded, table
from threadsafe_timeout._view.page_words import at, duration
from threadsafe_timeout._view.summary import PHASES, Loop, Summary, name_of
from threadsafe_timeout._view.timeline import OUTCOME_WORDS

__all__ = ["errors", "loops", "notable", "scopes", "slowest", "stuck"]

_ROWS = 50
_NAME, _MESSAGE = 120, 300  # characters


def stuck(summary: Summary) -> Iterable[Html]:
    """Frames that tasks did not leave at their deadline, the worst first."""
    groups = sorted(summary.stuck.items(), key=lambda one: (-one[1].abandoned, -one[1].interrupted, -one[1].now))
    if not groups:
        return
    yield element("p", "Tasks that did not end at their deadline, by the line of code they were in.")
    yield table("Where tasks were stuck", ("where", "given up", "interrupted", "still there", "longest", "such as"), [
        (at(where), group.abandoned or "", group.interrupted or "", group.now or "", duration(group.longest),
         cut(group.task, _NAME))
        for where, group in groups[:_ROWS]
    ], numbers=(1, 2, 3, 4))  # fmt: skip
    for where, group in groups[:_ROWS]:
        if group.stack:
            lines = "".join(f"{file}:{line}\n    {function}\n" for file, line, function in map(_visible, group.stack))
            yield folded(f"The stack at {at(where)}",
                         element("pre", element("code", Html(lines)), tabindex="0", aria_label="A stack"))
    yield from _rest(len(groups), summary.beyond["stuck"], "places")


def _visible(found: tuple[str, int, str]) -> tuple[Html, int, Html]:
    from threadsafe_timeout._view.page import text as escaped

    return escaped(found[0]), found[1], escaped(found[2])


def _rest(groups: int, beyond: int, what: str) -> Iterable[Html]:
    if groups > _ROWS or beyond:
        number_of_them = f"{groups - _ROWS:,} more" if groups > _ROWS else "more"
        more = f"{number_of_them} {what} are in events.jsonl"
        yield element("p", f"And {more}" + (f"; {beyond:,} events were not sorted into them" if beyond else "") + ".")


def loops(summary: Summary) -> Iterable[Html]:
    """How many loops of each kind, and the first ones with their queries."""
    if not summary.loop_kinds:
        return
    yield table("Loops by kind", ("kind", "how many"),
                [(kind, f"{count:,}") for kind, count in summary.loop_kinds.most_common(_ROWS)], numbers=(1,))
    for loop in summary.loops[:_ROWS]:
        yield folded(f"{cut(loop.task, _NAME) or 'a conversation'}: {cut(loop.loop, _NAME)} ({loop.action or 'stop'})",
                     *_loop(loop))
    yield from _rest(summary.loop_kinds.total(), 0, "loops")


def _loop(loop: Loop) -> Iterable[Html]:
    yield element("p", cut(loop.detail, _MESSAGE))
    if loop.queries:
        yield element("ol", *(element("li", element("code", cut(query, 200))) for query in loop.queries))


def errors(summary: Summary) -> Iterable[Html]:
    """By type and place; one message of each."""
    groups = sorted(summary.errors.items(), key=lambda one: -one[1].count)
    if not groups:
        return
    yield element("p", "Errors of one type from one place are one row. The message is that of the first.")
    yield table("Errors by type and place", ("type and place", "tasks", "ended as", "first message"), [
        (Html(element("strong", cut(kind, _NAME)) + element("small", at(where))), f"{group.count:,}",
         ", ".join(OUTCOME_WORDS[outcome] for outcome, _ in group.outcomes.most_common()),
         Html(element("code", cut(group.message, _MESSAGE)) + element("small", cut(group.task, _NAME))))
        for (kind, where), group in groups[:_ROWS]
    ], numbers=(1,))  # fmt: skip
    yield from _rest(len(groups), summary.beyond["errors"], "kinds of errors")


def slowest(summary: Summary) -> Iterable[Html]:
    rows = []
    for event in summary.slowest():
        spent = mapping(event.get("phases"))
        known = {name: number(spent.get(name)) or 0.0 for name in PHASES}
        most = max(known, key=lambda name: known[name])
        allowed = number(event.get("deadline"))
        rows.append((
            cut(name_of(event), _NAME), duration(number(event.get("took")) or 0.0),
            OUTCOME_WORDS.get(text(event.get("outcome")), ""), "none" if allowed is None else duration(allowed),
            f"{most} {duration(known[most])}" if known[most] else "",
            at(where) if (where := place(event.get("where"))) else "",
        ))  # fmt: skip
    if rows:
        yield table("The slowest tasks", ("task", "took", "ended as", "deadline", "mostly in", "was in"), rows,
                    numbers=(1, 3))


def scopes(summary: Summary) -> Iterable[Html]:
    """Deadlines of blocks that passed, by place."""
    if summary.scopes:
        yield table("Deadlines of blocks that passed", ("name and place", "how often"), [
            (Html(element("strong", cut(name or "a deadline", _NAME)) + element("small", at(where))), f"{count:,}")
            for (name, where), count in summary.scopes.most_common(_ROWS)
        ], numbers=(1,))  # fmt: skip
        yield from _rest(len(summary.scopes), summary.beyond["scopes"], "places")


def notable(summary: Summary, began: float) -> Iterable[Html]:
    """Workers that died, pools that ran out of threads, processes that were ended."""
    if summary.notable:
        yield table("What else happened", ("after", "event", "task", "why"), [
            (duration(max(t - began, 0.0)), kind, cut(task, _NAME), cut(reason, _MESSAGE))
            for t, kind, task, reason in summary.notable
        ], numbers=(0,))  # fmt: skip
        if summary.beyond["notable"]:
            yield element("p", f"And {summary.beyond['notable']:,} more, in events.jsonl.")
