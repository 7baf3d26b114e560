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
    journal = read_journal(_told(run, summary))
    totals = summary.totals(run.status)
    more = _raised(totals, journal)
    began = _first(number(summary.run.get("t")), number(run.status.get("started")), summary.last, run.since)
    starts = summary.tasks.start
    began = min(began, *starts) if starts else began
    ended = max(time for time in (began, summary.last, number(run.status.get("t"))) if time is not None)
    return Facts(run, summary, journal, totals, began, ended, tuple(_problems(run, summary, reader, journal)), more)


def _told(run: Run, summary: Summary) -> dict[str, Any]:
    """What the run says of itself: in its first event, else in its last status, which may know more."""
    return {**run.status, **{name: value for name, value in summary.run.items() if value is not None}}


def _first(*times: float | None) -> float:
    return next((time for time in times if time is not None), 0.0)


def _raised(totals: Counter[str], journal: Journal | None) -> int:
    """Raise each total to what the journal holds of the run; how many finished tasks only the journal has."""
    if journal is None:
        return 0
    more = max(journal.of_run.total() - totals["saved"], 0)
    if more:
        totals["saved"] += more
        held = Counter(journal.of_run)
        held["done"] += held["loops"]  # these have a result
        for name, count in held.items():
            totals[name] = max(totals[name], count)
    return more


def _problems(run: Run, summary: Summary, reader: EventReader, journal: Journal | None) -> Iterable[str]:
    if run.problem:
        yield run.problem
    if not summary.run:
        yield ("the file events.jsonl is missing or does not begin with the run: what follows is from the last "
               "snapshot alone")  # fmt: skip
    if reader.torn and run.state != "running":
        yield "the last line of events.jsonl is torn: the run was killed while it wrote it; it is left out"
    if reader.skipped:
        yield f"{reader.skipped:,} lines of events.jsonl are damaged and were left out"
    if summary.unknown:
        kinds = ", ".join(cut(name or "none", 40) for name, _ in summary.unknown.most_common(5))
        yield (f"{summary.unknown.total():,} task lines have no time, or an outcome that this version does not know "
               f"({kinds}), and were left out")  # fmt: skip
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
    of_tasks = (
        ("workers", "What each worker did", timeline(summary, status, facts.began, facts.ended)),
        ("time", "Effective workers and finished tasks", figures.over_time(summary, facts.began, facts.ended)),
        ("where-time-went", "Where the time went", figures.where_the_time_went(summary)),
        ("how-long", "How long the tasks took", figures.durations(summary)),
        ("stuck", "What was stuck, and where", details.stuck(summary)),
        ("loops", "Loops", details.loops(summary)),
        ("errors", "Errors", details.errors(summary)),
        ("slowest", "The slowest tasks", details.slowest(summary)),
    )
    candidates = (
        ("resume", "Starting it again", _resume(facts)),
        *(of_tasks if _has_tasks(facts) else ()),
        ("scopes", "Deadlines of blocks that passed", details.scopes(summary)),
        ("notable", "What else happened", details.notable(summary, facts.began)),
        ("settings", "Settings in force", _settings(facts)),
    )
    for name, heading, parts in candidates:
        inner = list(parts)
        if inner:
            yield name, heading, inner


def _has_tasks(facts: Facts) -> bool:
    """Else it is about a program without a pool, in which deadlines have passed."""
    return bool(facts.summary.pools or facts.summary.tasks or not facts.summary.scopes)


def _head(facts: Facts, program: str) -> Iterable[Html]:
    yield element("h1", cut(program, 120))
    yield element("p", _what_happened(facts), class_="lead")
    for problem in facts.problems:
        yield element("p", problem[:1].upper() + problem[1:] + ".", class_="note")
    if facts.more_in_journal:
        yield element("p", _journal_has_more(facts), class_="note")
    numbers = _numbers(facts) if _has_tasks(facts) else []
    if facts.totals["scopes"]:
        numbers.append(("deadlines of blocks passed", facts.totals["scopes"]))
    yield element("dl", *(
        element("div", element("dt", name), element("dd", f"{value:,}")) for name, value in numbers
    ), class_="big card")  # fmt: skip
    if _has_tasks(facts):
        yield element("p", "Each task that has ended is done, failed, timed out or was cancelled. Those that were "
                      "given up timed out. A guard may end loops in tasks of any kind: one that raises has failed.",
                      class_="soft")  # fmt: skip
    unlisted = facts.summary.unlisted()
    if unlisted:
        yield element("p", f"{unlisted:,} finished tasks have no line of their own, because they came too fast: they "
                      "are in the totals above and in the chart of finished tasks, and in nothing else below.",
                      class_="note", id="unlisted")  # fmt: skip


def _numbers(facts: Facts) -> list[tuple[str, int]]:
    run, totals = facts.run, facts.totals
    numbers = [("tasks done", totals["done"]), ("failed", totals["failed"]), ("timed out", totals["timed_out"]),
               ("cancelled", totals["cancelled"])]  # fmt: skip
    if run.state != "ended":
        numbers += [("not ended", totals["running"]), ("waiting", totals["pending"])]
    numbers += [("given up", totals["abandoned"]), ("saved", totals["saved"]), ("loops ended", totals["loops"])]
    if facts.summary.calls:
        numbers.append(("LLM calls", facts.summary.calls))
    return numbers


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
    status = f", exit status {code}" if isinstance(code, int) and not isinstance(code, bool) else ""
    return what + f"It ended {ways.get(how, how or 'by itself')} after {took}{status}."


def _journal_has_more(facts: Facts) -> str:
    assert facts.journal is not None
    held, more = facts.journal.of_run.total(), facts.more_in_journal
    when = "" if facts.run.state == "ended" else ": those finished in the last second before it was killed"
    return (f"The journal holds {held:,} finished tasks of this run, {more:,} more than the events say were "
            f"saved{when}. The totals here count the journal's.")  # fmt: skip


def _resume(facts: Facts) -> Iterable[Html]:
    status = _told(facts.run, facts.summary)
    command, cwd = text(status.get("resume")), text(status.get("cwd"))
    if not command:
        return
    journal = facts.journal
    if journal is None and facts.totals["saved"]:
        saved = "What was saved is in a journal that the run's files do not name."
    elif journal is None:
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
    status = _told(facts.run, facts.summary)
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
    widths = [(name, whole(pool.get("width"))) for name, pool in facts.summary.pools.items()]
    if widths:
        yield element("h3", "Pools")
        yield table("Pools", ("pool", "workers"), widths, numbers=(1,))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
