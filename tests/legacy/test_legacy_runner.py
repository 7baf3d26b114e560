"""The replica of the legacy runner, unmodified but for the one line, against a server that misbehaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from paces import PACES, at_some_pace
from threadsafe_timeout_legacy.replica import replica_path
from threadsafe_timeout_patches._legacy_database import DATABASE, Counted

from threadsafe_timeout.checkpoint import load_checkpoint
from threadsafe_timeout.testing.fake_llm import FakeLLM

MINUTE = 0.5  # seconds of one legacy minute: a task's ten minutes are five seconds
TASKS = 12
MIX = {"hang": 4, "trickle": 3, "search": 2, "good": 3}
LINE = "import threadsafe_timeout.auto\n"
STEADY = "import random\nrandom.random = lambda: 0.0  # the runner's tools fail at random: here never\n"


def prepare(work: Path, version: str, runner: str = "smart_batch_runner.py") -> Path:
    """A copy of the replica with the one line in it."""
    for directory in reversed(replica_path(version)):
        shutil.copytree(directory, work / "src", dirs_exist_ok=True)
    script = work / "src" / runner
    text = script.read_text()
    future = "from __future__ import annotations\n"
    script.write_text(text.replace(future, future + LINE, 1) if future in text else LINE + text)
    return script


def environment(server: FakeLLM, llm_timeout: float = 2 * MINUTE, minute: float = MINUTE) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("THREADSAFE_TIMEOUT_")},
        "LEGACY_MINUTE_SECONDS": str(minute),
        "LEGACY_BASE_URL": server.base_url,
        "LEGACY_API_KEY": "unused",
        "THREADSAFE_TIMEOUT_LLM_TIMEOUT": str(llm_timeout),
        "THREADSAFE_TIMEOUT_GRACE": "1",
        "PYTHONFAULTHANDLER": "1",
    }


@contextlib.contextmanager
def started(
    script: Path, work: Path, server: FakeLLM, *arguments: str,
    path: Path | None = None, llm_timeout: float | None = None, minute: float = MINUTE,
):  # fmt: skip
    command = [
        sys.executable, str(script), "--num-tasks", str(TASKS), "--workers", str(TASKS), "--qps", "0", "--seed", "3",
        *arguments,
    ]  # fmt: skip
    with (work / "out.txt").open("a") as out:
        env = environment(server, 2 * minute if llm_timeout is None else llm_timeout, minute)
        if path is not None:
            env["PYTHONPATH"] = str(path)
        process = subprocess.Popen(command, cwd=work, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(120)


def journal(work: Path) -> Path:
    return work / ".threadsafe_timeout" / "smart_batch_runner.jsonl"


def database(work: Path) -> dict:
    return json.loads((work / "pilot_bench_cumulative_results" / "master_database.json").read_text())


def finished_lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    lines = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):  # the last one may be half written
            event = json.loads(line)
            if event["event"] in {"done", "timeout", "loop", "failed"}:
                lines.append(event)
    return lines


def wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> None:
    pause, until = threading.Event(), time.monotonic() + 120
    while len(finished_lines(path)) < count and process.poll() is None:
        assert time.monotonic() < until, "the runner saved nothing"
        pause.wait(0.01)


@pytest.mark.parametrize("version", ["2025-08-16", "last"])
def test_one_line_makes_the_stalled_batch_end(version, tmp_path):
    """What does not hang has the time to be good, or to loop: how long a legacy minute must be for that depends on the
    machine."""

    def batch(pace):
        work = tmp_path / str(pace)
        work.mkdir()
        one_line_makes_the_stalled_batch_end(version, work, pace * MINUTE)

    at_some_pace(batch)


def one_line_makes_the_stalled_batch_end(version, work, minute):
    script = prepare(work, version)
    (work / "src" / "sitecustomize.py").write_text(STEADY)
    with FakeLLM(mix=MIX, seed=5, minute=minute, deadline=10 * minute) as server:
        with started(script, work, server, path=work / "src", minute=minute) as process:
            assert process.wait(240) == 0, (work / "out.txt").read_text()
        records = server.requests()
    assert database(work)["summary"]["total_tests"] == TASKS
    checkpoint = load_checkpoint(journal(work))
    assert len(checkpoint) == TASKS
    counts = checkpoint.counts()
    assert counts["loop"] == MIX["search"]
    # What hangs or trickles ends by the task's deadline, or by the client's own timeouts where those still work.
    assert counts["timeout"] + counts["done"] == TASKS - MIX["search"]
    assert not [record for record in records if record.late], "a request was begun after its task's deadline"
    assert sum(bool(record.result.get("success")) for record in checkpoint.values()) >= MIX["good"]
    loop = next(record.result for record in checkpoint.values() if record.status == "loop")
    assert loop["error_type"] == "search_loop"
    assert loop["tool_coverage_rate"] is not None, "the executor's own evaluation ran"


@pytest.mark.parametrize(("version", "kills"), [("2025-08-16", (2, 5)), ("last", (3,))])
def test_killed_and_started_again_nothing_finished_runs_twice(version, kills, tmp_path):
    script = prepare(tmp_path, version)
    with FakeLLM(mix={"good": 8, "hang": 2, "trickle": 2}, seed=5, minute=MINUTE, deadline=10 * MINUTE) as server:
        saved_before: set[str] = set()
        for count in kills:
            server.begin_run(f"killed at {count}")
            # What hangs outlasts the kill, on a busy machine too: a run that had ended would not be gone on with.
            with started(script, tmp_path, server, minute=100 * MINUTE) as process:
                wait_for_lines(journal(tmp_path), count, process)
                process.send_signal(signal.SIGKILL)
                process.wait(120)
            saved_before = {line["key"] for line in finished_lines(journal(tmp_path))}
            assert len(saved_before) >= count
        server.begin_run("resumed")
        with started(script, tmp_path, server) as process:
            assert process.wait(120) == 0, (tmp_path / "out.txt").read_text()
        asked = {record.task for record in server.requests() if record.run == "resumed"}
    assert database(tmp_path)["summary"]["total_tests"] == TASKS
    lines = finished_lines(journal(tmp_path))
    assert len(lines) == len({line["key"] for line in lines}) == TASKS, "a finished task was run again"
    assert len(asked) <= TASKS - len(saved_before), "a finished task made a request"


# (version, results between two updates of the database, legacy minute of the kill)
MINUTES = [("2025-08-16", minute % 3, minute) for minute in (1, 3, 5, 6)] + [("last", 2, 2), ("last", 1, 4)]


def without_times(value):
    """What a database says, but for when, and for how long each test took."""
    if isinstance(value, dict):
        times = ("created_at", "last_updated", "first_test_time", "last_test_time", "avg_execution_time")
        return {key: without_times(item) for key, item in value.items() if key not in times}
    return round(value, 9) if isinstance(value, float) else value  # sums depend on the order


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    runs = {}

    def of(version, pace):
        if (version, pace) not in runs:
            runs[version, pace] = killed_at(None, 0, version, tmp_path_factory.mktemp("undisturbed"), pace)
        return runs[version, pace]

    return of


def killed_at(minute, interval, version, work, pace):
    """The final database of a run that is killed at that legacy minute, and of the one that goes on; and how each task
    has ended."""
    one_minute = pace * MINUTE
    script = prepare(work, version)
    (work / "src" / "sitecustomize.py").write_text(STEADY)
    arguments = ("--checkpoint-interval", str(interval))
    # What is answered at all is to be waited for, on a busy machine too: two runs are compared.
    options = {"path": work / "src", "llm_timeout": 9 * one_minute, "minute": one_minute}
    with FakeLLM(mix={"good": 6, "search": 2, "hang": 2, "trickle": 2}, seed=5, minute=one_minute) as server:
        if minute is not None:
            with started(script, work, server, *arguments, **options) as process:
                until = time.monotonic() + 120
                while not server.requests() and time.monotonic() < until:
                    time.sleep(0.01)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(minute * one_minute)
                process.kill()
                process.wait(120)
            if journal(work).read_bytes().rsplit(b"\n", 2)[-2].startswith(b'{"v":1,"event":"closed"'):
                return without_times(database(work)), endings(work)  # it had ended: the next is another run
        server.begin_run("to the end")
        with started(script, work, server, *arguments, **options) as process:
            assert process.wait(240) == 0, (work / "out.txt").read_text()
    return without_times(database(work)), endings(work)


def endings(work):
    return {
        key: (record.status, record.result["success"], re.sub(r"[0-9]", "", str(record.result["error"])))
        for key, record in load_checkpoint(journal(work)).items()
    }


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("version", "interval", "minute"), MINUTES)
def test_killed_at_any_minute_the_database_is_that_of_an_undisturbed_run(
    version, interval, minute, tmp_path, undisturbed
):
    """A task ends by its own deadline, or by the client's, or as a loop, whichever comes first, which on a busy machine
    depends on that. So the runs are compared at a pace at which all tasks have ended in the same way in both."""
    for pace in PACES:
        expected, as_expected = undisturbed(version, pace)
        work = tmp_path / str(pace)
        work.mkdir()
        found, as_found = killed_at(minute, interval, version, work, pace)
        assert not list(work.glob("**/*.counted.jsonl")), "the run has ended"
        if as_found == as_expected:
            break
    assert as_found == as_expected
    assert expected["summary"]["total_tests"] == TASKS
    assert expected["summary"]["total_success"] > 0
    assert found == expected


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", ["before the database", "after the database", "after the note"])
def test_an_update_of_the_database_that_a_kill_interrupted_is_resolved_by_looking(when, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DATABASE.parent.mkdir()
    DATABASE.write_text('{"summary": {"total_tests": 7}}')

    def save():
        if when == "before the database":
            raise Killed
        DATABASE.write_text('{"summary": {"total_tests": 9}}')

    counted = Counted(tmp_path / "run.jsonl", "a run")
    if when == "after the database":
        writer = counted._open()
        original = writer.save
        monkeypatch.setattr(writer, "save", lambda key, update, status: original(key, update, _or_killed(status)))
    with contextlib.suppress(Killed):
        counted.saving(object(), ["one", "two"], True, save)
    counted.close(ended=False)
    again = Counted(tmp_path / "run.jsonl", "a run")
    assert again.keys == (set() if when == "before the database" else {"one", "two"})
    assert Counted(tmp_path / "run.jsonl", "another run").keys == set()
    again.close(ended=True)


def _or_killed(status):
    if status != "counting":
        raise Killed
    return status


def test_a_run_that_ended_is_kept_aside_and_the_next_starts_afresh(tmp_path):
    script = prepare(tmp_path, "last")
    with FakeLLM(mix={"good": 1}, minute=MINUTE) as server:
        for _ in range(2):
            # A minute in which all of them are done, on any machine.
            with started(script, tmp_path, server, "--num-tasks", "4", minute=60 * MINUTE) as process:
                assert process.wait(120) == 0, (tmp_path / "out.txt").read_text()
    journals = sorted((tmp_path / ".threadsafe_timeout").glob("*.jsonl"))
    assert len(journals) == 2
    assert [len(load_checkpoint(path)) for path in journals] == [4, 4]
    assert database(tmp_path)["summary"]["total_tests"] == 8


def test_adaptive_batches_end_too(tmp_path):
    script = prepare(tmp_path, "last")
    with FakeLLM(mix=MIX, seed=5, minute=MINUTE, deadline=10 * MINUTE) as server, started(
        script, tmp_path, server, "--adaptive"
    ) as process:
        assert process.wait(120) == 0, (tmp_path / "out.txt").read_text()
    assert len(load_checkpoint(journal(tmp_path))) == TASKS


@pytest.mark.parametrize("version", ["2025-08-16", "last"])
def test_a_hanging_classifier_does_not_hold_the_batch(version, tmp_path):
    script = prepare(tmp_path, version)
    (tmp_path / "src" / "sitecustomize.py").write_text(STEADY)
    with FakeLLM(mix={"good": 10, "error500": 2}, seed=5, minute=MINUTE, classifier="hang") as server:
        # The runner itself stops collecting after 14 of its minutes: the calls that hang are short beside that.
        with started(
            script, tmp_path, server, "--classifier", path=tmp_path / "src", minute=8 * MINUTE, llm_timeout=2 * MINUTE
        ) as process:
            assert process.wait(120) == 0, (tmp_path / "out.txt").read_text()
        assert any(record.task == "classifier" for record in server.requests()), "nobody asked the classifier"
    assert database(tmp_path)["summary"]["total_tests"] == TASKS


def test_the_runner_as_the_program_itself(tmp_path):
    """`batch_test_runner.py` is what is started: its classes are in __main__ and nothing imports them."""

    def batch(pace):
        work = tmp_path / str(pace)
        work.mkdir()
        the_runner_as_the_program_itself(work, pace * MINUTE)

    at_some_pace(batch)


def the_runner_as_the_program_itself(work, minute):
    script = prepare(work, "last", "batch_test_runner.py")
    with script.open("a") as program:
        program.write(
            "\n\nif __name__ == '__main__':\n"
            "    runner = BatchTestRunner(silent=True)\n"
            "    tasks = [TestTask('gpt-4o-mini', 'simple_task', 'baseline', required_tools=['a']) for _ in range(4)]\n"
            "    results = runner.run_concurrent_batch(tasks, workers=4, qps=0)\n"
            "    print('results', len(results), flush=True)\n"
        )
    with FakeLLM(mix={"trickle": 1}, minute=minute, deadline=10 * minute) as server, started(
        script, work, server, minute=minute
    ) as process:
        assert process.wait(280) == 0, (work / "out.txt").read_text()
    assert "results 4" in (work / "out.txt").read_text()
    checkpoint = load_checkpoint(work / ".threadsafe_timeout" / "batch_test_runner.jsonl")
    assert len(checkpoint) == 4, "equal tasks have keys of their own"


def test_uninstall_gives_the_runner_back(tmp_path):
    prepare(tmp_path, "last")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "src")!r})
import threadsafe_timeout as t, batch_test_runner as b, interactive_executor as i
before = [dict(vars(c)) for c in (b.BatchTestRunner, i.InteractiveExecutor)]
t.install()
t.uninstall()
after = [dict(vars(c)) for c in (b.BatchTestRunner, i.InteractiveExecutor)]
assert [sorted(x) for x in before] == [sorted(x) for x in after]
assert all(x[n] is y[n] for x, y in zip(before, after) for n in x)
from threadsafe_timeout._pool.executor import StandardThreadPoolExecutor
assert b.ThreadPoolExecutor is StandardThreadPoolExecutor
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
