"""Wrong arguments, settings, options and files: an error at once that names what is wrong, and what is right."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Callable
from enum import Enum, IntEnum, StrEnum
from multiprocessing.pool import ThreadPool as StockThreadPool
from pathlib import Path
from typing import Any

import pytest

import threadsafe_timeout
from threadsafe_timeout import (
    CancelScope,
    CancelSource,
    SettingError,
    ThreadPoolExecutor,
    _settings,
    deadline,
    fail_at,
    guard_interactive,
    install,
    move_on_after,
    move_on_at,
    shield,
    sleep,
    uninstall,
)
from threadsafe_timeout._pool import multiprocessing_pool as _multiprocessing_pool
from threadsafe_timeout.checkpoint import (
    CheckpointUnavailable,
    CheckpointWriter,
    checkpointed,
    finished_records,
    iter_records,
    load_checkpoint,
    open_run,
    task_fingerprint,
)
from threadsafe_timeout.doctor import examine, report
from threadsafe_timeout.testing import MockClock
from threadsafe_timeout.testing.fake_llm import FakeLLM, parse_mix

COMMAND = [sys.executable, "-m", "threadsafe_timeout.cli"]


class Executor:
    def execute_interactive(self) -> None: ...

    def _get_llm_response(self) -> None: ...


def in_pool(call: Callable[[ThreadPoolExecutor, Any], object]) -> Callable[[Any], object]:
    def use(value: Any) -> object:
        with ThreadPoolExecutor(1) as pool:
            return call(pool, value)

    return use


DURATIONS: dict[str, Callable[[Any], object]] = {
    "deadline": deadline,
    "move_on_after": move_on_after,
    "shield": shield,
    "sleep": sleep,
    "task_timeout": lambda value: ThreadPoolExecutor(1, task_timeout=value),
    "grace": lambda value: ThreadPoolExecutor(1, grace=value),
    "with_options(timeout)": lambda value: ThreadPoolExecutor(1).with_options(timeout=value),
    "shutdown(timeout)": in_pool(lambda pool, value: pool.shutdown(timeout=value)),
    "result(timeout)": in_pool(lambda pool, value: pool.submit(int).result(value)),
    "exception(timeout)": in_pool(lambda pool, value: pool.submit(int).exception(value)),
    "map(timeout)": in_pool(lambda pool, value: list(pool.map(int, "1", timeout=value))),
    "token.wait": CancelSource().token.wait,
    "guard_interactive": lambda value: guard_interactive(Executor(), value),
    "lock_timeout": lambda value: CheckpointWriter("unused.jsonl", lock_timeout=value),
    "open_run(lock_timeout)": lambda value: open_run("unused.jsonl", lock_timeout=value),
    "checkpointed(lock_timeout)": lambda value: checkpointed("unused.jsonl", lock_timeout=value),
    "Timer": lambda value: threadsafe_timeout.Timer(value, print),
    "MockClock(autojump)": lambda value: MockClock(autojump=value),
    "MockClock.jump": lambda value: MockClock().jump(value),
    "FakeLLM(minute)": lambda value: FakeLLM(minute=value),
    "FakeLLM(deadline)": lambda value: FakeLLM(deadline=value),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("where", DURATIONS)
def test_a_duration_is_a_number_of_seconds(where: str) -> None:
    for wrong, said in (
        (True, "seconds, got True"), ("5m", "seconds, got '5m'; 5m is 300"), ("x", "seconds, got 'x'"), ([], r"seconds, got \[\]"),
        (datetime.timedelta(minutes=5), r"seconds, got .*; its total_seconds\(\) are 300"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=said):
            DURATIONS[where](wrong)
    assert os.listdir() == []


@pytest.mark.parametrize(("text", "seconds"), [("5m", "300"), ("1h30m", "5400"), ("90 sec", "90"), ("250ms", "0.25"), ("2 hours", "7200"), ("1d", "86400")])
def test_units_are_said_in_seconds(text: str, seconds: str) -> None:
    with pytest.raises(TypeError, match=f"; {text} is {seconds}$"):
        deadline(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [fail_at, move_on_at, lambda when: CancelScope(deadline=when), lambda when: ThreadPoolExecutor(1).with_options(deadline=when)])
@pytest.mark.parametrize("wrong", [True, "5m", datetime.datetime(2026, 1, 1), None])
def test_an_instant_is_a_number(make: Callable[[Any], object], wrong: Any) -> None:
    if wrong is None and "with_options" in make.__code__.co_names:
        return  # none
    with pytest.raises(TypeError, match="deadline must be a number of monotonic seconds"):
        make(wrong)


def returns(value: object) -> object:
    return value


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: ThreadPoolExecutor("8"), "max_workers must be a whole number, got '8'"),
        (lambda: ThreadPoolExecutor(2.5), "max_workers must be a whole number, got 2.5"),
        (lambda: ThreadPoolExecutor(0), "max_workers must be greater than 0"),
        (lambda: ThreadPoolExecutor(1, initializer=print, initargs=5), "initargs must be"),
        (lambda: ThreadPoolExecutor(1, max_abandoned="x"), "max_abandoned must be a whole number"),
        (lambda: ThreadPoolExecutor(1, max_abandoned=True), "max_abandoned must be a whole number"),
        (lambda: ThreadPoolExecutor(1, checkpoint=5), "checkpoint must be a CheckpointWriter, or the path"),
        (lambda: ThreadPoolExecutor(1).on_event(5), "callback must be callable, got 5"),
        (lambda: ThreadPoolExecutor(1).with_options(token=5), "token must be a CancelToken"),
        (lambda: ThreadPoolExecutor(1).with_options(token=CancelSource()), "its .token"),
        (lambda: ThreadPoolExecutor(1).with_options(name=5), "name must be a str"),
        (lambda: ThreadPoolExecutor(1).with_options(settle=5), "settle must be callable"),
        (lambda: ThreadPoolExecutor(1).with_options(key=True), "key must be a str, an int"),
        (lambda: ThreadPoolExecutor(1).with_options(key=["a"]), "key must be a str, an int"),
        (lambda: _multiprocessing_pool.ThreadPool(2.5), "processes must be a whole number, got 2.5"),
        (lambda: _multiprocessing_pool.ThreadPool("2"), "processes must be a whole number"),
        (lambda: CancelScope(token=5), "token must be a CancelToken"),
        (lambda: CancelSource().token.register(5), "callback must be callable"),
        (lambda: guard_interactive(Executor(), max_consecutive_searches="x"), "max_consecutive_searches must be a whole number, got 'x'"),
        (lambda: guard_interactive(Executor(), max_consecutive_searches=-1), "max_consecutive_searches must be 0 or more"),
        (lambda: guard_interactive(Executor(), is_search=5), "is_search must be callable"),
        (lambda: deadline(5)(Executor), "Executor is a class: decorate its methods"),
        (lambda: deadline(5)(classmethod(returns)), "below @classmethod"),
        (lambda: deadline(returns), r"as in @deadline\(30\)"),
        (lambda: checkpointed(returns), r"as in @checkpointed\('results.jsonl'\)"),
        (lambda: checkpointed("r.jsonl", key="id"), "key must be callable"),
        (lambda: checkpointed("r.jsonl", mode="durabel"), "did you mean 'durable'"),
        (lambda: checkpointed("r.jsonl", resume="allways"), "resume must be"),
        (lambda: checkpointed("r.jsonl", retry={"faild"}), "did you mean 'failed'"),
        (lambda: open_run("r.jsonl", retry={"faild"}), "the status 'faild'.*did you mean 'failed'"),
        (lambda: open_run("r.jsonl", retry={"time_out"}), "did you mean 'timeout'"),
        (lambda: open_run("r.jsonl", retry={"done"}), "'done', which never runs again"),
        (lambda: open_run("r.jsonl", retry=5), "retry is a collection of statuses"),
        (lambda: open_run("r.jsonl", retry=[5]), "retry is a collection of statuses"),
        (lambda: open_run("r.jsonl", resume="unfinised"), "did you mean 'unfinished'"),
        (lambda: open_run("r.jsonl", types=["x"]), "'x' is not a class"),
        (lambda: open_run("r.jsonl", default=5), "default must be callable"),
        (lambda: CheckpointWriter("r.jsonl", key="id"), "key must be callable"),
        (lambda: finished_records({}, {"faild"}), "did you mean 'failed'"),
        (lambda: load_checkpoint("r.jsonl", types=["x"]), "'x' is not a class"),
        (lambda: task_fingerprint({"a": 1}, ignore="a"), "ignore is a collection of names"),
        (lambda: task_fingerprint({"a": 1}, fields="a"), "fields is a collection of names"),
        (lambda: MockClock(rate="2"), "rate must be a finite number"),
        (lambda: FakeLLM(port="x"), "port must be a whole number"),
        (lambda: FakeLLM(storm=2.5), "storm must be a whole number"),
        (lambda: FakeLLM(mix={"god": 1}), "unknown behaviour 'god' in the mix; did you mean 'good'"),
        (lambda: parse_mix("hnag=1"), "did you mean 'hang'"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_at_once(call: Callable[[], object], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        call()
    assert not [name for name in os.listdir() if name != "r.jsonl" and not name.endswith(".lock")]


def test_what_worked_still_does(tmp_path: Path) -> None:
    assert ThreadPoolExecutor(2.0)._max_workers == 2
    assert ThreadPoolExecutor(True)._max_workers == 1
    assert deadline("5")._budget == 5  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(int)
        assert (future.result(-1) if future.exception(120) is None else None) == 0
        assert future.result(120) == 0
    pools = [_multiprocessing_pool.ThreadPool(processes) for processes in (True, 2.0)]
    with StockThreadPool(True) as stock, pools[0] as ours, pools[1] as two:
        assert len(stock._pool) == len(ours._pool) == 1
        assert len(two._pool) == 2
    writer, _ = open_run(tmp_path / "own.jsonl", retry={"fail", "counted", "started"})  # words of the program's own
    writer.close()
    with CheckpointWriter(os.fsencode(tmp_path / "bytes.jsonl")) as writer:
        writer.save(1, 1)
    assert list(load_checkpoint(os.fsencode(tmp_path / "bytes.jsonl"))) == [1]
    assert sorted(os.listdir()) == ["bytes.jsonl", "bytes.jsonl.lock", "own.jsonl", "own.jsonl.lock"]


def test_a_decorated_object_with_an_async_call_is_under_its_deadline() -> None:
    import asyncio

    class Ask:
        async def __call__(self) -> float:
            return threadsafe_timeout.time_remaining()

    assert asyncio.run(deadline(30)(Ask())()) <= 30  # type: ignore[arg-type]


def test_a_pool_opens_the_checkpoint_it_is_given_a_path_of(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for number in range(2):
        with ThreadPoolExecutor(2, checkpoint=str(path) if number else path) as pool:
            saved = pool.with_options(key=str)
            assert [saved.submit(int, n + 2 * number).result(120) for n in range(2)] == [2 * number, 2 * number + 1]
        assert pool._checkpoint is not None
        assert "closed" in repr(pool._checkpoint)
    assert list(load_checkpoint(path)) == ["0", "1", "2", "3"]
    with pytest.raises(CheckpointUnavailable, match="Is a directory"):
        ThreadPoolExecutor(1, checkpoint=tmp_path)


def test_a_key_is_looked_at_when_its_task_is_submitted(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1, checkpoint=tmp_path / "run.jsonl") as pool:
        with pytest.raises(TypeError, match="must give a str or an int"):
            pool.with_options(key=lambda _: None).submit(int, 1)
        assert pool.with_options(key=lambda n: n).submit(int, 1).result(120) == 1


def test_keys_and_statuses_of_enums_are_their_values(tmp_path: Path) -> None:
    class Number(IntEnum):
        ONE = 1

    class Word(StrEnum):
        DONE = "fine"

    class Old(str, Enum):  # noqa: UP042  # what programs older than StrEnum have
        KEY = "old"

    with CheckpointWriter(tmp_path / "run.jsonl") as writer:
        writer.save(Number.ONE, "a", Word.DONE)
        writer.save(Word.DONE, "b")
        writer.save(Old.KEY, "c")
        with pytest.raises(ValueError, match="thousands of digits"):
            writer.save(10**5000, "d")
    assert {key: (record.status, record.result) for key, record in load_checkpoint(tmp_path / "run.jsonl").items()} == {
        1: ("fine", "a"), "fine": ("done", "b"), "old": ("done", "c"),
    }  # fmt: skip


def test_what_is_no_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("a,b\n1,2\n")
    before = sorted(os.listdir())
    for name, said in (("directory", "Is a directory"), ("pipe", "regular file"), ("text/below", "text")):
        for use in (CheckpointWriter, open_run, load_checkpoint, lambda path: list(iter_records(path))):
            with pytest.raises(CheckpointUnavailable, match=said):
                use(name)
    for use in (CheckpointWriter, open_run, load_checkpoint, lambda path: list(iter_records(path))):
        with pytest.raises(ValueError, match=r"no checkpoint|not a threadsafe-timeout checkpoint"):
            use("text")
    assert [name for name in sorted(os.listdir()) if name != "text.lock"] == before
    assert Path("text").read_text() == "a,b\n1,2\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
def test_where_no_file_can_be_made_it_is_said() -> None:
    for use in (CheckpointWriter, open_run):
        with pytest.raises(CheckpointUnavailable, match=r"/proc/none.*Use a path where"):
            use("/proc/none/run.jsonl", lock_timeout=5)


# --- settings ---------------------------------------------------------------------------------------------------

WRONG_SETTINGS = [
    ("task_timeout", True, "must be a number of seconds >= 0, got True"),
    ("task_timeout", "5m", "5m is 300"),
    ("grace", False, "must be a number of seconds"),
    ("grace", "inf", "must be a number of seconds"),
    ("llm_timeout", datetime.timedelta(seconds=5), "its total_seconds"),
    ("max_abandoned", float("inf"), "must be a whole number"),
    ("max_abandoned", True, "must be a whole number"),
    ("max_consecutive_searches", "x", "must be a whole number >= 0, got 'x'"),
    ("loop_guard", "obsrve", "did you mean 'observe'"),
    ("resume", True, "must be one of"),
    ("retry", {"faild"}, "did you mean 'failed'"),
    ("retry", "timeouts", "did you mean 'timeout'"),
    ("checkpoint", 5, "must be the path of a file"),
    ("checkpoint", ".", "is a directory"),
    ("checkpoint", "text/run.jsonl", "cannot be written: .*text is no directory"),
    ("summary", "yes", "must be one of auto, on, off, got 'yes'"),
    ("progress", "bar", "must be one of auto, lines, off, got 'bar'"),
    ("keep_runs", -1, "must be a whole number"),
    ("stall_after", 0, "must be more than 0 seconds, or off; got 0"),
    ("stall_after", "soon", "must be a number of seconds >= 0, got 'soon'"),
    ("patches", "-htpx", "did you mean 'httpx'"),
    ("patches", 5, "must be names"),
    ("task_timout", 5, "no such setting; did you mean 'task_timeout'"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG_SETTINGS)
def test_a_wrong_setting_is_named_with_its_source(name: str, value: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text").write_text("")
    with pytest.raises(SettingError, match=rf"install\(\): {name}: .*{said}"):
        install(**{name: value})
    if isinstance(value, str):
        monkeypatch.setenv(f"THREADSAFE_TIMEOUT_{name.upper()}", value)
        with pytest.raises(SettingError, match=f"THREADSAFE_TIMEOUT_{name.upper()}: {name}: .*{said}"):
            install()
        monkeypatch.delenv(f"THREADSAFE_TIMEOUT_{name.upper()}")
    if isinstance(value, (str, bool)):
        written = f'"{value}"' if isinstance(value, str) else str(value).lower()
        Path("pyproject.toml").write_text(f"[tool.threadsafe-timeout]\n{name} = {written}\n")
        with pytest.raises(SettingError, match=f"pyproject.toml.*{name}: .*{said}"):
            install()
    assert threadsafe_timeout._patching.install.installed() is None
    assert sorted(os.listdir()) in (["text"], ["pyproject.toml", "text"])


@pytest.mark.parametrize("table", ["tool.threadsafe_timeout", "tool.Threadsafe-Timeout", "threadsafe-timeout", "threadsafe_timeout"])
def test_a_table_that_nobody_reads_is_an_error(table: str) -> None:
    Path("pyproject.toml").write_text(f"[{table}]\ngrace = 5\n")
    with pytest.raises(SettingError, match=r"is not read; write \[tool\.threadsafe-timeout\]"):
        install()


def test_what_only_mentions_the_library_is_left_alone() -> None:
    for text in ('[tool.coverage]\nsource = ["threadsafe_timeout"]\n', "threadsafe_timeout is = not [TOML", "[tool.threadsafe-timeout-extras]\ngrace = 1\n"):
        Path("pyproject.toml").write_text(text)
        assert _settings.load()[0].grace == 2.0


def test_doctor_lists_no_file_that_will_not_be_written(tmp_path: Path) -> None:
    install()
    try:
        assert examine()["settings"]["checkpoint"]["value"] == ".threadsafe_timeout/<runner>.jsonl"
        Path(".threadsafe_timeout").write_text("in the way")
        found = examine()["settings"]["checkpoint"]
        assert found["value"] is None
        assert "no directory" in found["problem"]
        told = report()
        assert "checkpoint = none" in told
        assert "nothing is saved" in told
    finally:
        uninstall()
    install(patches="-legacy_runner")
    try:
        assert examine()["settings"]["checkpoint"]["value"] is None
    finally:
        uninstall()


# --- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chekpoint", "show", "x"], "did you mean 'checkpoint'"),
        (["checkpoint", "shwo", "x"], "did you mean 'show'"),
        (["checkpoint", "export", "x", "--to", "jsno"], "did you mean 'json'"),
        (["checkpoint", "export", "run.jsonl", "--to", "json", "--status", "faild"], "did you mean 'failed'"),
        (["checkpoint", "show", "x", "-n", "-1"], "not a whole number"),
        (["checkpoint", "repair", "x", "--lock-timeout", "5m"], "5m is 300"),
        (["checkpoint", "repair", "x", "--lock-timeout", "-1"], "not a number of seconds"),
        (["checkpoint", "import", "x", "--from", "legacy", "y", "--set", "model"], "--set takes FIELD=VALUE"),
        (["doctor", "--jsno"], "did you mean '--json'"),
        (["run", "no.py"], "can't open file"),
        (["fake-llm", "--log", "none/log.jsonl"], "--log: none/log.jsonl cannot be written"),
        (["fake-llm", "--log", "."], "--log: . cannot be written: Is a directory"),
        (["fake-llm", "--mix", "hnag=1"], "did you mean 'hang'"),
        (["replay", "--html", "none/page.html"], "--html: none/page.html cannot be written"),
        (["replay", "--html", "."], "--html: . cannot be written: Is a directory"),
        (["replay", "--json", "none/n.json"], "--json: none/n.json cannot be written"),
        (["replay", "--html", "a", "--json", "a"], "name one file"),
        (["replay", "--from", ".", "--minute", "1"], "--minute does nothing with it"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    CheckpointWriter("run.jsonl").close()
    before = sorted(os.listdir())
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr.replace("maybe you meant", "did you mean")  # which argparse says itself, from 3.15 on
    assert "Traceback" not in ended.stderr
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("command", [["doctor"], ["run", "program.py"]])
def test_a_bad_setting_is_one_line_and_status_2(command: list[str]) -> None:
    Path("program.py").write_text("print('ran')")
    environment = {**os.environ, "THREADSAFE_TIMEOUT_TASK_TIMOUT": "5"}
    ended = subprocess.run([*COMMAND, *command], capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "did you mean 'task_timeout'" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("action", ["show", "compact", "repair", "export"])
def test_what_is_no_journal_is_said_and_left_alone(action: str) -> None:
    for content in (b"a,b\n1,2\n", b'{"a": 1}', os.urandom(200) + b"\n" + os.urandom(200), b"PK\x03\x04\n\n"):
        Path("file").write_bytes(content)
        options = ["--to", "json"] if action == "export" else []
        ended = subprocess.run([*COMMAND, "checkpoint", action, "file", *options], capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 1
        assert "no checkpoint" in ended.stderr or "not a threadsafe-timeout checkpoint" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert Path("file").read_bytes() == content
