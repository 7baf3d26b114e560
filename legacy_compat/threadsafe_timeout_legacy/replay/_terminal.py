"""The side-by-side table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from threadsafe_timeout_legacy.replay._analysis import SideResult
from threadsafe_timeout_legacy.replay._facts import FACTS, cell, conditions, notes
from threadsafe_timeout_legacy.replay._plan import Plan
from threadsafe_timeout_legacy.replay._promises import Promise
from threadsafe_timeout_legacy.replay._timeline import INCIDENT, rows
from threadsafe_timeout_legacy.replay._workspace import LINE

__all__ = ["print_results"]

_COLOURS = {"before": "dark_orange", "after": "green"}


def print_results(console: Console, plan: Plan, results: dict[str, SideResult], promises: list[Promise]) -> None:
    """Conditions, facts side by side, the incident's timeline, promises, and what to mind."""
    console.print()
    for label, value in conditions(plan):
        console.print(Text.assemble((f"{label}: ", "dim"), value))
    if "after" in results and plan.engine == "threads":
        console.print(Text.assemble(("the one line: ", "dim"), (LINE, "bold green")))
    console.print(_facts(plan, results))
    console.print(_timeline(results))
    for promise in promises:
        mark = ("  kept   ", "green") if promise.held else ("  BROKEN ", "bold red")
        console.print(Text.assemble(mark, promise.text, (f"   {promise.seen}", "dim")))
    for note in notes(plan, results):
        console.print(Text(f"note: {note}", style="yellow"))


def _facts(plan: Plan, results: dict[str, SideResult]) -> Table:
    table = Table(title="What the server and the files saw", title_justify="left", pad_edge=False)
    table.add_column("")
    for side in results:
        table.add_column(f"{side}: {plan.described(side)}", style=_COLOURS[side])
    for fact in FACTS:
        table.add_row(fact.label, *(fact.value(result) for result in results.values()))
    return table


def _timeline(results: dict[str, SideResult]) -> Table:
    table = Table(title="Minute by minute: finished / workers effective / saved, if killed then",
                  title_justify="left", pad_edge=False)
    table.add_column("legacy time", justify="right")
    table.add_column("the incident")
    for side in results:
        table.add_column(side, justify="right", style=_COLOURS[side])
    sides = [rows(result) for result in results.values()]
    for moment, *found in zip(INCIDENT, *sides, strict=True):
        cells = [" / ".join(cell(value, row) for value in (row.finished, row.effective, row.on_disk))
                 if row.finished is not None else "not watched" for row in found]
        table.add_row(moment.label, moment.text, *cells)
    return table
