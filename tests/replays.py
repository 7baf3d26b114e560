"""The files that a replay leaves, written one fact at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from threadsafe_timeout_legacy.replay._observe import Observation, Sample
from threadsafe_timeout_legacy.replay._plan import Plan, save_plan

ZERO = 1000.0  # the monotonic instant of the first request of every recorded run


class Recorder:
    """Writes the files a replay leaves, one fact at a time."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.ids = 0
        self.lines: list[dict[str, object]] = []
        save_plan(plan, folder)

    def request(
        self, run: str, task: str, start: float, end: float | None, outcome: str = "answered",
        behaviour: str = "good", closing: bool = False,
    ) -> None:
        self.ids += 1
        common = {"connection": self.ids, "run": run, "task": task, "behaviour": behaviour, "path": "/v1/x"}
        self.lines.append({"event": "start", "id": self.ids, "t": ZERO + start, "wall": 0.0, "late": False,
                           "after_deadline": None, **common})
        if end is not None:
            self.lines.append({"event": "end", "id": self.ids, "t": ZERO + end, "outcome": outcome, "status": 200,
                               "bytes": 1, "closing": closing, "held_after_deadline": 0.0})

    def ran(self, side: str, stopped: float, samples: list[tuple[float, int, int]], **facts: object) -> None:
        """One process; `samples` are instant, results in the database, tasks in the journal."""
        run = str(facts.pop("run", side))
        ending = str(facts.get("ending", "exited"))
        seen = Observation(run, ZERO - 1, ZERO + stopped, exit_code=0 if ending == "exited" else None)
        seen = replace(seen, samples=[Sample(ZERO + t, database, journal, journal, 5) for t, database, journal in samples])
        seen = replace(seen, **facts)  # type: ignore[arg-type]  # a test names the fields it sets
        (self.folder / side).mkdir(exist_ok=True)
        seen.save(self.folder / side)
        self.flush()

    def flush(self) -> None:
        (self.folder / "server.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))


def record_before(recorder: Recorder) -> None:
    for task in ("a1", "a2"):
        recorder.request("before", task, 0.0, 1.0)
        recorder.request("before", task, 1.5, 2.0, closing=True)
    recorder.request("before", "a3", 0.0, 12.0, "client_closed", "hang")
    recorder.request("before", "a3", 13.0, 14.0, "client_closed", "hang")
    recorder.request("before", "a4", 1.0, 60.01, "client_closed", "hang")
    recorder.ran("before", 60.0, [], ending="limit", threads_at_end=9)


def record_after(recorder: Recorder) -> None:
    for task in ("a1", "a2"):
        recorder.request("after", task, 0.0, 2.0, closing=True)
    recorder.request("after", "a3", 0.0, 10.2, "client_closed", "hang")
    recorder.request("after", "a4", 1.0, 11.1, "client_closed", "hang")
    recorder.ran("after", 11.6, [(2.1, 0, 2), (10.3, 0, 3), (11.2, 0, 4), (11.3, 4, 4)])
