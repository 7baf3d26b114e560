"""The page: one self-contained HTML file. No script, no network; everything that is not ours is escaped."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterable
from html import escape
from pathlib import Path

from threadsafe_timeout_legacy.replay._analysis import Kind, SideResult
from threadsafe_timeout_legacy.replay._chart import chart
from threadsafe_timeout_legacy.replay._facts import FACTS, cell, conditions, legacy_time, notes
from threadsafe_timeout_legacy.replay._plan import Plan
from threadsafe_timeout_legacy.replay._promises import Promise
from threadsafe_timeout_legacy.replay._timeline import INCIDENT, Row, rows
from threadsafe_timeout_legacy.replay._workspace import LINE

__all__ = ["page"]

_CSS = Path(__file__).with_name("page.css")
_HEADINGS = {"before": ("Before", "the legacy runner as it is"), "after": ("After", "the same runner, one line added")}
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
    style = _CSS.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    parts = [
        *_header(plan, results), *_difference(results), *_chart(plan, results), *_timeline(results), *_facts(results),
        *_kinds(results), *_promises(promises), *_terms(plan, results),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>The eight-hour stall, replayed</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def _header(plan: Plan, results: dict[str, SideResult]) -> Iterable[str]:
    yield "<h1>The eight-hour stall, replayed</h1>"
    yield (f'<p class="lead">{plan.tasks} LLM tasks on {plan.workers} worker threads. Some of the model’s answers '
           "never come, some come a byte at a time, some ask for one more search for ever. The same runner, the same "
           "model, the same seed, twice: without the library, and with it.</p>")
    for note in notes(plan, results):
        yield f'<p class="note">{escape(note)}</p>'
    yield '<div class="cards">'
    for side, result in results.items():
        yield from _card(side, result)
    yield "</div>"


def _card(side: str, result: SideResult) -> Iterable[str]:
    title, subtitle = _HEADINGS[side]
    saved = max(result.database, result.journal)
    yield f'<section class="card {side}"><h3>{title} <span>· {subtitle}</span></h3><dl class="big">'
    numbers = ((result.finished, "tasks finished"), (saved, "results saved"))
    for value, label in numbers:
        yield f"<div><dt>{label}</dt><dd>{value}<small> of {result.tasks}</small></dd></div>"
    yield f"<div><dt>requests after a deadline</dt><dd>{result.late_requests}</dd></div></dl>"
    yield f"<p>{escape(_verdict(result))}</p></section>"


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


def _difference(results: dict[str, SideResult]) -> Iterable[str]:
    after = results.get("after")
    if after is None:
        return
    yield "<h2>The whole change</h2>"
    lines = []
    for line in after.difference.strip().splitlines():
        kind = "plus" if line.startswith("+") and not line.startswith("+++") else "soft"
        lines.append(f'<span class="{kind}">{escape(line)}</span>')
    yield "<pre>" + "\n".join(lines) + "</pre>"
    yield f"<p><code>{escape(LINE)}</code> is all that differs between the two copies of the runner.</p>"


def _swatch(kind: str) -> str:
    shape = {
        "incident": '<circle class="incident" cx="15" cy="6" r="4.5"/>',
        "deadline": '<line class="deadline" x1="2" y1="6" x2="28" y2="6"/>',
        "exit": '<circle class="exit after" cx="15" cy="6" r="5.5"/>',
    }.get(kind, f'<path class="line {kind}" d="M1 6H29"/>')
    return f'<svg viewBox="0 0 30 12" aria-hidden="true">{shape}</svg>'


def _chart(plan: Plan, results: dict[str, SideResult]) -> Iterable[str]:
    yield "<h2>What happened, minute by minute</h2>"
    entries = [(side, f"{side}: {_HEADINGS[side][1]}") for side in results]
    entries.append(("deadline", "the first tasks’ deadline; each has ten minutes of its own"))
    if any(result.ending == "exited" for result in results.values()):
        entries.append(("exit", "the process exited by itself"))
    if plan.workers == 100:
        entries.append(("incident", "as reported from the incident"))
    legend = "".join(f"<span>{_swatch(kind)}{escape(text)}</span>" for kind, text in entries)
    yield f'<p class="legend">{legend}</p>'
    yield f'<figure class="scroll">{chart(plan, results)}</figure>'


def _timeline(results: dict[str, SideResult]) -> Iterable[str]:
    yield "<h2>Next to the incident</h2>"
    yield "<p>“Saved” is what is left on disk if the process is killed at that minute.</p>"
    yield '<div class="scroll"><table><thead><tr><th rowspan="2">legacy time</th><th rowspan="2">the incident</th>'
    yield "".join(f'<th class="group {side}" colspan="3">{side}</th>' for side in results) + "</tr><tr>"
    yield _numbers("finished", "effective", "saved") * len(results)
    yield "</tr></thead><tbody>"
    sides = [rows(result) for result in results.values()]
    for moment, *found in zip(INCIDENT, *sides, strict=True):
        cells = "".join(_cells(row) for row in found)
        yield f'<tr><th class="number">{escape(moment.label)}</th><td>{escape(moment.text)}</td>{cells}</tr>'
    yield "</tbody></table></div>"


def _cells(row: Row) -> str:
    if row.finished is None:
        return '<td class="number none" colspan="3">not watched</td>'
    return "".join(f'<td class="number{" none" if value is None else ""}">{escape(cell(value, row))}</td>'
                   for value in (row.finished, row.effective, row.on_disk))


def _facts(results: dict[str, SideResult]) -> Iterable[str]:
    yield "<h2>What the server and the files saw</h2>"
    yield "<p>No number here comes from the runner’s own output.</p>"
    yield '<div class="scroll"><table><thead><tr><th></th>'
    yield "".join(f'<th class="{side}">{side}</th>' for side in results) + "</tr></thead><tbody>"
    for fact in FACTS:
        why = f"<small>{escape(fact.why)}</small>" if fact.why else ""
        cells = "".join(f"<td>{escape(fact.value(result))}</td>" for result in results.values())
        yield f"<tr><th>{escape(fact.label)}{why}</th>{cells}</tr>"
    yield "</tbody></table></div>"


def _numbers(*labels: str) -> str:
    return "".join(f'<th class="number">{label}</th>' for label in labels)


def _kind(kind: Kind | None) -> str:
    if kind is None:
        return '<td class="number none" colspan="3">not seen</td>'
    values = (f"{kind.finished} of {kind.tasks}", kind.requests, kind.late)
    return "".join(f'<td class="number">{value}</td>' for value in values)


def _kinds(results: dict[str, SideResult]) -> Iterable[str]:
    yield "<h2>By what the model did</h2>"
    yield '<div class="scroll"><table><thead><tr><th rowspan="2">the model</th>'
    yield "".join(f'<th class="group {side}" colspan="3">{side}</th>' for side in results) + "</tr><tr>"
    yield _numbers("finished", "requests", "late") * len(results)
    yield "</tr></thead><tbody>"
    for name in dict.fromkeys(name for result in results.values() for name in sorted(result.kinds)):
        row = f"<tr><th>{escape(name)}<small>{escape(_BEHAVIOUR.get(name, ''))}</small></th>"
        for result in results.values():
            row += _kind(result.kinds.get(name))
        yield row + "</tr>"
    yield "</tbody></table></div>"


def _promises(promises: list[Promise]) -> Iterable[str]:
    if not promises:
        return
    yield "<h2>Promises of the library, checked</h2>"
    yield '<ul class="promises">'
    for promise in promises:
        mark = '<b class="held">✓ kept</b>' if promise.held else '<b class="broken">✗ broken</b>'
        yield f"<li>{mark}<span>{escape(promise.text)}<small>{escape(promise.seen)}</small></span></li>"
    yield "</ul>"


def _terms(plan: Plan, results: dict[str, SideResult]) -> Iterable[str]:
    yield "<h2>How it was measured</h2><table><tbody>"
    for label, value in conditions(plan):
        yield f"<tr><th>{escape(label)}</th><td>{escape(value)}</td></tr>"
    yield '</tbody></table><h2>Words</h2><dl class="terms">'
    for word, meaning in _TERMS:
        yield f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>"
    yield "</dl><h2>Commands</h2>"
    for side, result in results.items():
        words = ["python", *(Path(word).name if word.endswith(".py") else word for word in result.command[1:])]
        yield f'<pre><span class="soft"># {side}</span>\n{escape(shlex.join(words))}</pre>'
    yield "<footer>Made by <code>threadsafe-timeout replay</code>. This page loads nothing and runs no script.</footer>"
