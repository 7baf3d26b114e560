"""The report of a run: what its files say, as one page."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from threadsafe_timeout._view import details, figures
from threadsafe_timeout._view.fields import mapping, number, objects, text, whole
from threadsafe_timeout._view.journal import Journal, read_journal
from threadsafe_timeout._view.page import Html, cut, document, element, section, table
from threadsafe_timeout._view.page_words import duration, moment
from threadsafe_timeout._view.reading import EventReader, Run
from threadsafe_timeout._view.summary import Summary
from threadsafe_timeout._view.timeline import timeline

__all__ = ["Facts", "gather", "report"]


@dataclass(frozen=True)
class Facts:
    """All that the page is made of. `totals` are the run's own, raised to what the journal holds."""

    run: Run
    summary: Summary
    journal: Journal | None
    totals: Counter[str]
    began: float
    ended: float
    problems: tuple[str, ...]
    more_in_journal: int


def gather(run: Run) -> Facts:
    """Reads the events and the journal of `run`. Raises PermissionError if the events may not be read."""
    summary, reader = Summary(), EventReader(run.folder)
    for event in reader.new():
        summary.add(event)
    summary.add_stuck_now(objects(run.status.get("workers")))
    journal = read_journal({**run.status, **summary.run})
    totals = summary.totals(run.status)
    more = _raised(totals, journal)
    began = _first(number(summary.run.get("t")), number(run.status.get("started")), summary.last, run.since)
    starts = summary.tasks.start
    began = min(began, *starts) if starts else began
    ended = max(time for time in (began, summary.last, number(run.status.get("t"))) if time is not None)
    return Facts(run, summary, journal, totals, began, ended, tuple(_problems(run, summary, reader, journal)), more)


def _first(*times: float | None) -> float:
    return next((time for time in times if time is not None), 0.0)


def _raised(totals: Counter[str], journal: Journal | None) -> int:
    """Raise each total to what the journal holds of the run; how many finished tasks only the journal has."""
    if journal is None:
        return 0
    more = max(journal.of_run.total() - totals["saved"], 0)
    if more:
        totals["saved"] += more
        for name, count in journal.of_run.items():
            totals[name] = max(totals[name], count)
    return more


def _problems(run: Run, summary: Summary, reader: EventReader, journal: Journal | None) -> Iterable[str]:
    if run.problem:
        yield run.problem
    if not summary.run:
        yield "events.jsonl is missing or does not begin with the run: what follows is from the last snapshot alone"
    if reader.torn and run.state != "running":
        yield "the last line of events.jsonl is torn: the run was killed while it wrote it; it is left out"
    if reader.skipped:
        yield f"{reader.skipped:,} lines of events.jsonl are damaged and were left out"
    if journal is not None and journal.problem:
        yield f"the journal could not be read: {journal.problem}"
    if journal is not None and journal.torn:
        yield "the last line of the journal is torn: that task was never reported as done, and runs again"


def report(run: Run) -> Html:
    """The whole page."""
    facts = gather(run)
    program = text(facts.run.status.get("program")) or run.folder.name
    parts = list(_sections(facts))
    links = element("nav", element("ul", *(
        element("li", element("a", heading, href=f"#{name}")) for name, heading, _ in parts
    )), aria_label="Sections")  # fmt: skip
    body = [*_head(facts, program), links, *(section(name, heading, *inner) for name, heading, inner in parts)]
    made_by = element("code", "threadsafe-timeout report")
    body.append(element("footer", "Made by ", made_by, f" from {run.folder}. It loads nothing and runs no script."))
    return document(f"{cut(program, 80)}: a run's report", body)


def _sections(facts: Facts) -> Iterable[tuple[str, str, list[Html]]]:
    summary, status = facts.summary, facts.run.status
    candidates = (
        ("resume", "Starting it again", _resume(facts)),
        ("workers", "What each worker did", timeline(summary, status, facts.began, facts.ended)),
        ("time", "Effective workers and finished tasks", figures.over_time(summary, facts.began, facts.ended)),
        ("where-time-went", "Where the time went", figures.where_the_time_went(summary)),
        ("how-long", "How long the tasks took", figures.durations(summary)),
        ("stuck", "What was stuck, and where", details.stuck(summary)),
        ("loops", "Loops", details.loops(summary)),
        ("errors", "Errors", details.errors(summary)),
        ("slowest", "The slowest tasks", details.slowest(summary)),
        ("scopes", "Deadlines outside of tasks", details.scopes(summary)),
        ("notable", "What else happened", details.notable(summary, facts.began)),
        ("settings", "Settings in force", _settings(facts)),
    )
    for name, heading, parts in candidates:
        inner = list(parts)
        if inner:
            yield name, heading, inner


def _head(facts: Facts, program: str) -> Iterable[Html]:
    run, totals = facts.run, facts.totals
    yield element("h1", cut(program, 120))
    yield element("p", _what_happened(facts), class_="lead")
    for problem in facts.problems:
        yield element("p", problem[:1].upper() + problem[1:] + ".", class_="note")
    if facts.more_in_journal:
        yield element("p", _journal_has_more(facts), class_="note")
    numbers = [("tasks done", totals["done"]), ("timed out", totals["timed_out"]), ("loops ended", totals["loops"]),
               ("failed", totals["failed"]), ("given up", totals["abandoned"]), ("cancelled", totals["cancelled"]),
               ("saved", totals["saved"])]  # fmt: skip
    if run.state != "ended":
        numbers += [("not ended", totals["running"]), ("waiting", totals["pending"])]
    if facts.summary.calls:
        numbers.append(("LLM calls", facts.summary.calls))
    yield element("dl", *(
        element("div", element("dt", name), element("dd", f"{value:,}")) for name, value in numbers
    ), class_="big card")  # fmt: skip
    unlisted = facts.summary.unlisted()
    if unlisted:
        yield element("p", f"{unlisted:,} finished tasks have no line of their own, because they came too fast: they "
                      "are in the totals above and in the chart of finished tasks, and in nothing else below.",
                      class_="note", id="unlisted")  # fmt: skip


def _what_happened(facts: Facts) -> str:
    run, end = facts.run, facts.summary.end or {}
    pools = [f"{whole(pool.get('width'))} workers" for pool in facts.summary.pools.values()]
    what = f"Started {moment(facts.began)}" + (f" with {' and '.join(pools)}. " if 0 < len(pools) <= 3 else ". ")
    took = duration(facts.ended - facts.began)
    if run.state == "running":
        return what + f"It was still running when this page was made, {took} after its start."
    if run.state == "dead":
        return what + (f"It died: its process is gone, and it did not say that it ended. It last wrote "
                       f"{took} after its start, {moment(facts.ended)}. It was killed, or crashed.")  # fmt: skip
    code, how = end.get("exit"), text(end.get("how"))
    ways = {"exit": "by itself", "exception": "with an exception that nothing caught", "signal": "by a signal"}
    status = f", exit status {code}" if isinstance(code, int) else ""
    return what + f"It ended {ways.get(how, how or 'by itself')} after {took}{status}."


def _journal_has_more(facts: Facts) -> str:
    assert facts.journal is not None
    held, more = facts.journal.of_run.total(), facts.more_in_journal
    return (f"The journal holds {held:,} finished tasks of this run, {more:,} more than the events say were saved: "
            "those finished in the last second before it was killed. The totals here count the journal's.")  # fmt: skip


def _resume(facts: Facts) -> Iterable[Html]:
    status = {**facts.run.status, **facts.summary.run}
    command, cwd = text(status.get("resume")), text(status.get("cwd"))
    if not command:
        return
    journal = facts.journal
    if journal is None:
        saved = "This run saved nothing: if it is started again, it begins anew."
    elif journal.problem:
        saved = "What was saved is in the journal, which could not be read."
    else:
        saved = (f"{journal.finished:,} finished tasks are in the journal {journal.path}"
                 + (f", and {journal.in_flight:,} that were running" if journal.in_flight else "")
                 + (". Started again, the run does not repeat the finished ones." if facts.run.state != "ended" else
                    ". The run has ended, so this command begins a new one."))  # fmt: skip
    yield element("p", saved)
    yield element("pre", element("code", command), tabindex="0", aria_label="The command")
    yield element("p", "in the folder ", element("code", cwd), class_="soft")


def _settings(facts: Facts) -> Iterable[Html]:
    status = {**facts.run.status, **facts.summary.run}
    settings, sources = mapping(status.get("settings")), mapping(status.get("sources"))
    if settings:
        yield table("Settings that are not the default", ("setting", "value", "from"), [
            (name, cut(_value(value), 400), text(sources.get(name)) or "not known") for name, value in settings.items()
        ])  # fmt: skip
        yield element("p", "All other settings have their defaults.")
    else:
        yield element("p", "All settings have their defaults.")
    facts_ = [("pid", status.get("pid")), ("Python", status.get("python")),
              ("threadsafe-timeout", status.get("version")), ("executable", status.get("executable")),
              ("folder of the run", os.fspath(facts.run.folder))]  # fmt: skip
    yield element("h3", "The process")
    yield table("The process", ("what", "value"), [(name, value) for name, value in facts_ if value is not None])
    limits = [(name, whole(pool.get("width")), _limit(pool)) for name, pool in facts.summary.pools.items()]
    if limits:
        yield element("h3", "Pools")
        yield table("Pools", ("pool", "workers", "task_timeout"), limits, numbers=(1, 2))


def _limit(pool: dict[str, Any]) -> str:
    seconds = number(pool.get("task_timeout"))
    return "none" if seconds is None else duration(seconds)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
