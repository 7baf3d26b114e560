"""`threadsafe-timeout guard check`: what the guard would have done to recorded runs, from any kind of file."""

from __future__ import annotations

import gzip
import json
import sys

import pytest
from guard_conversations import HONEST, LOOPS, READ, Call, Say, Script, as_anthropic, as_chat, as_responses, as_tags

from threadsafe_timeout._guard.check import Check
from threadsafe_timeout._guard.transcripts import TranscriptError, read_transcripts
from threadsafe_timeout.cli import main

OK = "\u2705 reader executed successfully."
FORMAT = "NO ACTION DETECTED: please use <tool_call>name</tool_call>."


def legacy(responses, feedbacks, **about):
    turns = [{"response": one, "feedback": told} for one, told in zip(responses, feedbacks, strict=True)]
    return {"id": "r1", "model": "m", "success": False, "turns": turns, **about}


CUT = legacy(["<tool_call>reader"] * 10, ["", FORMAT] * 5, id="cut")
HARMED = legacy(["<tool_call>reader"] * 5 + ["<tool_call>reader</tool_call>"], [FORMAT] * 5 + [OK], id="harmed", success=True)
UNHARMED = legacy(["<tool_call>reader</tool_call>"] + ["<tool_call>writer"] * 9, [OK] + [FORMAT] * 9, id="unharmed", success=True)
FINE = legacy(["<tool_call>reader</tool_call>", "Task completed"], [OK, ""], id="fine", success=True)


def lines(path, *records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def check(capsys, *arguments):
    status = main(["guard", "check", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_what_would_have_been_ended_saved_and_harmed(tmp_path, capsys):
    path = lines(tmp_path / "runs.jsonl", CUT, HARMED, UNHARMED, FINE)
    status, out, err = check(capsys, "--json", path)
    assert (status, err) == (0, "")
    found = json.loads(out)["without_memory"]
    assert (found["runs"], found["calls"], found["successful"]) == (4, 28, 3)
    assert found["all"]["runs_ended"] == 3
    assert found["all"]["calls_saved"] == 7 + 3 + 6
    assert found["all"]["successful_runs_harmed"] == 1
    assert found["all"]["successful_runs_harmed_percent"] == pytest.approx(33.333)
    row = found["by_limit"]["cut_tags"]
    assert row["kind"] == "no_action_loop"
    assert row["examples"][0].startswith("cut: 3 answers in a row")
    assert found["limits"]["repeats"] == "warn:3+stop:5"
    assert "with_learning" in json.loads(out)


def test_the_table_without_a_terminal_and_without_rich(tmp_path, capsys, monkeypatch):
    path = lines(tmp_path / "runs.jsonl", CUT, {**HARMED, "id": "evil\x1b[31m"})
    status, out, _ = check(capsys, path)
    assert status == 0
    assert "no_action_loop" in out
    assert "10 (62.5 %)" in out
    assert "limits: searches=stop:4" in out
    assert "\x1b" not in out
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setitem(sys.modules, "rich.table", None)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    status, plain, _ = check(capsys, path)
    assert status == 0
    assert "no_action_loop" in plain
    assert "10 (62.5 %)" in plain


def test_other_limits(tmp_path, capsys):
    path = lines(tmp_path / "runs.jsonl", CUT)
    _, out, _ = check(capsys, "--json", "--no-learn", "--limits", "cut_tags=off, no_action=off, same_response=9", path)
    found = json.loads(out)
    assert list(found) == ["without_memory"]
    assert found["without_memory"]["all"]["calls_saved"] == 1
    with pytest.raises(SystemExit):
        main(["guard", "check", "--limits", "cut_tag=4", str(path)])
    assert "no limit 'cut_tag'" in capsys.readouterr().err


def test_what_the_run_teaches_saves_more(tmp_path, capsys):
    path = lines(tmp_path / "runs.jsonl", *[legacy(["<tool_call>reader"] * 10, [FORMAT] * 10)] * 200)
    _, out, _ = check(capsys, "--json", path)
    found = json.loads(out)
    assert found["with_learning"]["all"]["calls_saved"] > found["without_memory"]["all"]["calls_saved"]
    assert found["with_learning"]["by_limit"]["cut_tags"]["runs_ended_early"] == 90


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("runs.jsonl", lambda path, records: lines(path, *records)),
        ("runs.json", lambda path, records: path.write_text(json.dumps(records))),
        ("indented.json", lambda path, records: path.write_text(json.dumps(records, indent=2))),
        ("runs.jsonl.gz", lambda path, records: path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in records).encode()))),
    ],
)
def test_files_of_each_kind(name, write, tmp_path):
    path = tmp_path / name
    write(path, [CUT, FINE])
    found = list(read_transcripts(path))
    assert [one.name for one in found] == ["cut", "fine"]
    assert [len(one.turns) for one in found] == [10, 2]
    assert found[1].success
    assert found[0].model == "m"


@pytest.mark.parametrize("form", [as_chat, as_anthropic, as_tags, as_responses])
@pytest.mark.parametrize("key", ["messages", "conversation_history", "traj", None])
def test_conversations_in_each_form(form, key, tmp_path):
    script = Script("s", [READ] * 7)
    record = form(script) if key is None else {key: form(script), "reward": 1.0}
    path = lines(tmp_path / "one.jsonl", record)
    check = Check()
    for one in read_transcripts(path):
        check.add(one)
    assert check.calls == 7
    assert check.rows["repeats"].ended == 1
    assert check.rows["repeats"].saved == 2
    assert check.successful == (key is not None)


def test_the_journal_of_the_legacy_runner(tmp_path):
    result = {"success": True, "conversation_history": as_tags(Script("s", [READ, Say("done")]))}
    path = lines(tmp_path / "j.jsonl", {"event": "done", "key": "k1", "result": result})
    (found,) = read_transcripts(path)
    assert (found.name, len(found.turns), found.success) == ("k1", 2, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"turns": []}\n{"turns": [', r"bad.jsonl, line 2: is not JSON"),
        (b"not json\n", r"line 1: is not JSON"),
        (b'{"other": 1}\n', r"line 1: holds no conversation"),
        (b"\xff\xfe", r"not UTF-8"),
        (gzip.compress(b'{"turns": []}\n' * 50, mtime=0)[:-9], r"cannot be read"),
    ],
    ids=["half a line", "no JSON", "no conversation", "no UTF-8", "half a gzip file"],
)
def test_a_bad_file_is_named_with_its_line(content, words, tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(TranscriptError, match=words):
        list(read_transcripts(path))
    status, _, err = check(capsys, path)
    assert status == 2
    assert err.startswith("threadsafe-timeout guard check: ")
    assert check(capsys, tmp_path / "missing.jsonl")[0] == 2


def test_an_empty_file_is_said_to_be_empty(tmp_path, capsys):
    assert check(capsys, lines(tmp_path / "none.jsonl"))[0::2] == (
        2, "threadsafe-timeout guard check: the files hold no conversation\n",
    )  # fmt: skip


def test_a_stop_at_the_last_turn_changes_nothing(tmp_path, capsys):
    record = legacy(["<tool_call>reader"] * 3, [FORMAT] * 3)
    _, out, _ = check(capsys, "--json", lines(tmp_path / "r.jsonl", record))
    assert json.loads(out)["without_memory"]["all"]["runs_ended"] == 0


def test_all_our_conversations_at_once(tmp_path, capsys):
    loops = [{"messages": as_chat(one), "success": False} for one in LOOPS if "chat" in one.forms]
    honest = [{"messages": as_chat(one), "success": True} for one in HONEST if "chat" in one.forms]
    path = lines(tmp_path / "all.jsonl", *loops, *honest)
    _, out, _ = check(capsys, "--json", path)
    found = json.loads(out)["without_memory"]
    assert found["all"]["runs_ended"] >= len(loops) - 2, "two may end with their loop"
    assert found["all"]["successful_runs_harmed"] == 0
    assert found["unread_messages"] == 0


def test_harm_where_no_feedback_has_a_mark(tmp_path, capsys):
    going_on = [READ] * 6 + [Call("write", {"n": 1}, "ok")]
    record = {"messages": as_chat(Script("s", going_on)), "success": True}
    _, out, _ = check(capsys, "--json", lines(tmp_path / "r.jsonl", record))
    assert json.loads(out)["without_memory"]["all"]["successful_runs_harmed"] == 1
