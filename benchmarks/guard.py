"""What the guard costs, and what it is worth.

    python benchmarks/guard.py                  # per turn, beside what it would be compared with
    python benchmarks/guard.py FOLDER           # calls saved and runs harmed on the recorded runs in that folder

    python benchmarks/guard.py FOLDER --growth  # what learning adds with the number of tasks (takes minutes)
    python benchmarks/guard.py FOLDER --left    # what learning harms where some of the loops are left (takes minutes)

Cost: microseconds of this process's CPU per turn of 2 kB and a result of 2 kB, all detectors on, at turn 10 and at turn
1,000; and the conversations `guard check` reads and judges per second. Worth: by limit and together, with learning, and
for each model by itself. Then on records that had no part in the choice: limits chosen by the rule of `chosen` on one
half and judged on the other, both ways, and chosen on all models but one and judged on that one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from threadsafe_timeout._guard.check import Check
from threadsafe_timeout._guard.readers import Reader
from threadsafe_timeout._guard.transcripts import Transcript, read_transcripts
from threadsafe_timeout.guard import LoopGuard

SIZE = 2_000
WORDS = ["the", "tool", "returned", "a", "status", "completed", "reader", "output", "value", "path", "json", "none"]


def text(rng: random.Random, size: int = SIZE) -> str:
    words, length = [], 0
    while length < size:
        words.append(rng.choice(WORDS) + rng.choice(["", "", "", str(rng.randrange(100))]))
        length += len(words[-1]) + 1
    return " ".join(words)


def in_chat(rng: random.Random, number: int) -> tuple[Any, Any]:
    function = {"name": "read", "arguments": f'{{"path": "{number}.py"}}'}
    call = {"id": f"c{number}", "type": "function", "function": function}
    return (
        {"role": "assistant", "content": text(rng), "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": text(rng)},
    )


def in_tags(rng: random.Random, number: int) -> tuple[Any, Any]:
    said = f"{text(rng)}\n<tool_call>read_{number}</tool_call>"
    return {"role": "assistant", "content": said}, {"role": "user", "content": text(rng)}


def other_numbers(rng: random.Random, number: int) -> tuple[Any, Any]:
    """The same call again and again, and all the numbers in its result are others."""
    said, _ = in_chat(rng, 1)
    items = [{"id": number + place, "value": rng.random()} for place in range(80)]
    return said, {"role": "tool", "content": json.dumps(items)[:SIZE]}


def log_lines(rng: random.Random, number: int) -> tuple[Any, Any]:
    """The same call again and again, and its result has times and a counter in each line."""
    said, _ = in_chat(rng, 1)
    lines = [f"2026-01-01 10:{number % 60:02d}:{n:02d} worker {n} has {number} items, {number}.5 ms" for n in range(60)]
    return said, {"role": "tool", "content": "\n".join(lines)[:SIZE]}


def the_same_again(rng: random.Random, number: int) -> tuple[Any, Any]:
    """Every call is like the one before, and its result has to be looked at to the end."""
    said, _ = in_chat(rng, 1)
    return said, {"role": "tool", "content": text(random.Random(7)) + f" item {number}"}


def searches(rng: random.Random, number: int) -> tuple[Any, Any]:
    said, heard = in_chat(rng, number)
    said["tool_calls"][0]["function"] = {"name": "search", "arguments": f'{{"q": "{text(rng, 60)}"}}'}
    return said, heard


def cost(make: Callable[[random.Random, int], tuple[Any, Any]]) -> tuple[float, float]:
    """Microseconds per turn, near turn 10 and near turn 1,000: the least of several rounds."""
    early, late = [], []
    for seed in range(3):
        rng = random.Random(seed)
        turns = [make(rng, number) for number in range(1010)]
        guard, spent = LoopGuard(), []
        for said, heard in turns:
            started = time.perf_counter_ns()
            guard.say(said)
            guard.see(heard)
            guard.settle()
            spent.append((time.perf_counter_ns() - started) / 1000)
        assert guard.loop is None, guard.loop
        early.append(statistics.median(spent[5:20]))
        late.append(statistics.median(spent[990:]))
    return min(early), min(late)


def per_second() -> float:
    """Conversations of ten turns that are read from a file and judged, per second of CPU."""
    rng = random.Random(1)
    with TemporaryDirectory() as folder:
        path = Path(folder, "runs.jsonl")
        with path.open("w") as file:
            for number in range(1000):
                said = [in_tags(rng, n)[0]["content"][-400:] for n in range(10)]
                turns = [{"response": one, "feedback": text(rng, 700)} for one in said]
                file.write(json.dumps({"id": number, "success": True, "turns": turns}) + "\n")
        best = 0.0
        for _ in range(3):
            check, started = Check(), time.process_time()
            for transcript in read_transcripts(path):
                check.add(transcript)
            best = max(best, check.runs / (time.process_time() - started))
    return best


def transcripts_in(folder: Path) -> Iterator[Transcript]:
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz"), *folder.glob("*.json")]):
        yield from read_transcripts(path)


def judged(transcripts: list[Transcript], limits: dict[str, Any] | None = None, learn: bool = False) -> Check:
    check = Check(limits, learn=learn)
    for transcript in transcripts:
        check.add(transcript)
    return check


def line(name: str, check: Check) -> None:
    total = check.total
    print(f"| {name} | {total.ended} | {check.share_saved(total):.2f} % | {total.harmed} of {check.successful} "
          f"({check.share_harmed(total):.2f} %) |")  # fmt: skip


def worth(folder: Path) -> None:
    everything = list(transcripts_in(folder))
    if not everything:
        raise SystemExit(f"{folder} holds no recorded runs (*.jsonl, *.jsonl.gz, *.json)")
    names = [name for name, limit in Check().limits.items() if limit.stop is not None]
    print(f"{len(everything)} conversations, {sum(len(one.turns) for one in everything)} LLM calls\n")
    print("| limit | runs ended | calls saved | successful runs harmed |\n|---|---|---|---|")
    for name in names:
        line(f"{name} alone", judged(everything, {other: None for other in names if other != name}))
    line("all", judged(everything))
    line("all, every other record", judged(everything[::2]))
    line("all, the others", judged(everything[1::2]))
    line("all, with learning, as in the file", judged(everything, learn=True))
    for model in sorted({one.model for one in everything if one.model}):
        line(model, judged([one for one in everything if one.model == model]))
    unseen(everything)


TRIED = {"cut_tags": range(2, 8), "same_response": range(2, 8), "no_action": range(2, 8), "look_ups": range(4, 10)}
Outcome = tuple[int, bool]  # what one limit alone does to one record: calls saved, and whether it harms


def outcomes(everything: list[Transcript]) -> dict[tuple[str, int], list[Outcome]]:
    """For each limit and value that is tried, what it does by itself to each record."""
    found: dict[tuple[str, int], list[Outcome]] = {}
    for name, values in TRIED.items():
        for value in values:
            limits = {other: value if other == name else None for other in Check().limits}
            checks = [judged([one], limits) for one in everything]
            found[name, value] = [(check.total.saved, bool(check.total.harmed)) for check in checks]
    return found


def chosen(found: dict[tuple[str, int], list[Outcome]], places: list[int]) -> dict[str, int]:
    """The rule: of each limit the least value that, by itself, harms none of the successful runs at these places; and
    one more for a limit that saves less than one call in a hundred there."""
    limits = {}
    for name, values in TRIED.items():
        harmless = [value for value in values if not any(found[name, value][place][1] for place in places)]
        limits[name] = least = min(harmless, default=values[-1])
        calls_saved = sum(found[name, least][place][0] for place in places)
        limits[name] += calls_saved < 0.1 * len(places)  # of ten calls each
    return limits


def unseen(everything: list[Transcript]) -> None:
    """Limits chosen without the records they are judged on."""
    found = outcomes(everything)
    places = range(len(everything))
    halves = [place for place in places if place % 2 == 0], [place for place in places if place % 2]
    splits = [("half 1", halves[1], halves[0]), ("half 2", halves[0], halves[1])]
    for model in sorted({one.model for one in everything if one.model}):
        inside = [place for place in places if everything[place].model == model]
        splits.append((model, [place for place in places if everything[place].model != model], inside))
    print("\n| judged on, and chosen on all else | limits chosen | calls saved | harmed "
          "| the defaults there: calls saved | harmed |\n|---|---|---|---|---|---|")  # fmt: skip
    for name, learned_from, judged_on in splits:
        limits = chosen(found, learned_from)
        records = [everything[place] for place in judged_on]
        cells = []
        for check in (judged(records, dict(limits)), judged(records)):
            cells.append(f"{check.share_saved(check.total):.2f} % | {check.total.harmed} of {check.successful}")
        print(f"| {name} | {', '.join(f'{key} {value}' for key, value in limits.items())} | {' | '.join(cells)} |")


def growth(folder: Path) -> None:
    """With learning: so many runs, drawn from all records and from each half."""
    everything = list(transcripts_in(folder))
    print("| runs drawn | from | calls saved | successful runs harmed |\n|---|---|---|---|")
    for count in (1_500, 3_000, 6_000, 10_700, 20_000):
        for name, source in (("all", everything), ("half 1", everything[::2]), ("half 2", everything[1::2])):
            check = judged(random.Random(count).choices(source, k=count), learn=True)
            saved, harmed = check.share_saved(check.total), check.total.harmed
            print(f"| {count} | {name} | {saved:.2f} % | {harmed} of {check.successful} |", flush=True)


def left(one: Transcript, rng: random.Random) -> Transcript:
    """A run that ends in turns without a call, as if it had left them after one, two or three and succeeded."""
    reader, last = Reader(), 0
    for number, (said, _) in enumerate(one.turns, 1):
        answer = reader.answer(said)
        last = number if answer is not None and answer.actions else last
    place = last + rng.randrange(1, 4)
    if place >= len(one.turns):
        return one
    heard = {"role": "user", "content": "\u2705 done"}
    call = {"role": "assistant", "content": "<tool_call>a_tool</tool_call>"}, [heard]
    return replace(one, turns=[*one.turns[:place], call, *one.turns[place + 1 :]], success=True)


def where_some_are_left(folder: Path) -> None:
    """10,700 runs drawn from all; a share of those that end in turns without a call leave them, and succeed."""
    everything = list(transcripts_in(folder))
    print("| loops left | without learning: saved | harmed | with learning: saved | harmed |\n|---|---|---|---|---|")
    for share in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05):
        rng = random.Random(5)
        drawn = rng.choices(everything, k=10_700)
        drawn = [left(one, rng) if rng.random() < share else one for one in drawn]
        cells = [f"{100 * share:.1f} %"]
        for learn in (False, True):
            check = judged(drawn, learn=learn)
            cells.append(f"{check.share_saved(check.total):.2f} % | {check.total.harmed} of {check.successful}")
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="with recorded runs")
    parser.add_argument("--growth", action="store_true", help="what learning adds with the number of tasks")
    parser.add_argument("--left", action="store_true", help="what learning harms where some of the loops are left")
    args = parser.parse_args()
    if args.folder is not None:
        (growth if args.growth else where_some_are_left if args.left else worth)(args.folder)
        return
    print("| 2 kB answer, 2 kB result | µs at turn 10 | µs at turn 1,000 |\n|---|---|---|")
    for make in (in_chat, in_tags, searches, the_same_again, other_numbers, log_lines):
        early, late = cost(make)
        print(f"| {make.__name__.replace('_', ' ')} | {early:.0f} | {late:.0f} |")
    print(f"\nguard check: {per_second():.0f} conversations of ten turns per second")


if __name__ == "__main__":
    main()
