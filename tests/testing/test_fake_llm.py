"""The fake LLM server, through real clients and raw sockets; its log must say what happened."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from conditions import until

from threadsafe_timeout._errors import MissingExtraError
from threadsafe_timeout.testing.fake_llm import FakeLLM, RequestRecord, read_log
from threadsafe_timeout.testing.fake_llm._conversation import is_classification, required_tools, say
from threadsafe_timeout.testing.fake_llm._mix import Deck, parse_mix
from threadsafe_timeout.testing.fake_llm._options import ServerOptions

PROMPT = "case 3. Use <tool_search>. Required tools: csv_reader, row_validator"
BOUND = 120.0  # seconds any wait here may take on a busy machine


@contextlib.contextmanager
def openai_client(llm: FakeLLM, **options: object) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=llm.base_url, api_key="secret-key", max_retries=0, **options) as client:
        yield client


def ask(client: openai.OpenAI, text: str = PROMPT, **options: object) -> str:
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **options)
    return str(answer.choices[0].message.content)


def ended(llm: FakeLLM) -> RequestRecord | None:
    return next((request for request in llm.requests() if request.end is not None), None)


def raw_request(llm: FakeLLM, text: str, **body: object) -> socket.socket:
    payload = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **body}).encode()
    connection = socket.create_connection(("127.0.0.1", llm.port), timeout=BOUND)
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(payload))
    connection.sendall(payload)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def test_good_conversation_ends_after_its_required_tools(tmp_path: Path) -> None:
    with FakeLLM(log=tmp_path / "log.jsonl", minute=0.05) as llm, openai_client(llm) as client:
        messages = [{"role": "user", "content": PROMPT}]
        said = []
        for _ in range(6):
            answer = client.chat.completions.create(model="m", messages=messages)
            said.append(answer.choices[0].message.content)
            messages += [{"role": "assistant", "content": said[-1]}, {"role": "user", "content": "go on"}]
        assert "<tool_search>" in said[0]
        assert "<tool_info>csv_reader</tool_info>" in said[1]
        assert "<tool_call>csv_reader</tool_call>" in said[2]
        assert "<tool_call>row_validator</tool_call>" in said[3]
        assert "completed" in said[4]
        assert said[4] == said[5]
        assert answer.usage is not None
        assert {request.task for request in llm.requests()} == {"3"}
        assert [request.outcome for request in llm.requests()] == ["answered"] * 6
        assert [request.closing for request in llm.requests()] == [False] * 4 + [True] * 2


def test_streaming_says_what_the_plain_answer_says() -> None:
    with FakeLLM(minute=0.05) as llm, openai_client(llm) as client:
        chunks = list(client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": PROMPT}], stream=True,
            stream_options={"include_usage": True},
        ))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == ask(client)
        assert chunks[-1].usage is not None
        assert chunks[-2].choices[0].finish_reason == "stop"


def test_embeddings_are_unit_vectors_near_for_shared_words() -> None:
    with FakeLLM(minute=0.05) as llm, openai_client(llm) as client:
        ask(client, "case 8")
        texts = ["read a csv file", "read one csv file", "send mail"]
        a, b, c = (item.embedding for item in client.embeddings.create(model="e", input=texts).data)
        floats = client.embeddings.create(model="e", input=texts[0], encoding_format="float", dimensions=16)
        request = llm.requests()[1]

    def dot(x: list[float], y: list[float]) -> float:
        return sum(p * q for p, q in zip(x, y, strict=True))

    assert dot(a, a) == pytest.approx(1.0, abs=1e-5)
    assert dot(a, b) > dot(a, c)
    assert len(floats.data[0].embedding) == 16
    assert (request.path, request.task) == ("/v1/embeddings", "8"), "the connection's last known task"


def test_unknown_paths_methods_and_bodies_get_openai_shaped_errors() -> None:
    with FakeLLM() as llm, openai_client(llm) as client:
        with pytest.raises(openai.NotFoundError, match="Unknown request URL"):
            client.files.list()
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.chat.completions.create(model="m", messages=[])
        with pytest.raises(openai.APIStatusError, match="Not allowed"):
            client.get("/chat/completions", cast_to=object)
        assert next(model.id for model in client.models.list()) == "fake-llm"
        with socket.create_connection(("127.0.0.1", llm.port), timeout=BOUND) as connection:
            connection.sendall(b"not http at all\r\n\r\n")
            assert read_to_end(connection).startswith(b"HTTP/1.1 400")
        assert llm.requests() == []


def test_azure_paths_are_served() -> None:
    with FakeLLM(minute=0.05) as llm:
        endpoint = llm.base_url.removesuffix("/v1")
        with openai.AzureOpenAI(azure_endpoint=endpoint, api_key="k", api_version="2024-06-01", max_retries=0) as client:
            assert "<tool_search>" in ask(client)


def test_hang_holds_the_request_until_the_client_leaves() -> None:
    with FakeLLM(mix={"hang": 1}, deadline=0.01) as llm:
        connection = raw_request(llm, "case 1")
        until(llm.requests)
        held_from = llm.requests()[0].start
        connection.close()
        request = until(lambda: ended(llm))
        assert isinstance(request, RequestRecord)
        assert (request.outcome, request.status, request.bytes) == ("client_closed", None, 0)
        assert request.end is not None
        assert request.held_after_deadline == pytest.approx(max(0.0, request.end - held_from - 0.01), abs=1e-6)
        closed = until(lambda: [c for c in llm.log().connections if c.task == "1" and c.closed is not None])
        assert closed[0].by == "client"  # type: ignore[index]  # a list: wait_for returns what the lambda does


def test_trickle_sends_headers_then_a_byte_now_and_then() -> None:
    with FakeLLM(mix={"trickle": 1}, minute=0.4) as llm:
        with raw_request(llm, "case 1") as connection:
            received = b""
            while received.count(b"1\r\n ") < 3:
                received += connection.recv(4096)
        assert received.startswith(b"HTTP/1.1 200")
        request = until(lambda: ended(llm))
        assert isinstance(request, RequestRecord)
        assert request.bytes >= 3
        assert request.outcome == "client_closed"
        with openai_client(llm) as client:
            stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "case 1"}],
                                                    stream=True)
            stream.close()


@pytest.mark.parametrize("stream", [False, True])
def test_drop_closes_in_the_middle(stream: bool) -> None:
    with FakeLLM(mix={"drop": 1}, minute=0.05) as llm:
        with raw_request(llm, "case 1", stream=stream) as connection:
            received = read_to_end(connection)
        assert b"chatcmpl-fake" in received
        assert b"[DONE]" not in received
        assert [request.outcome for request in llm.requests()] == ["dropped"]
        with openai_client(llm) as client, pytest.raises(openai.APIConnectionError):
            ask(client)


def test_storm_ends_after_its_requests_and_begins_again_with_a_run() -> None:
    with FakeLLM(mix={"storm429": 1}, storm=2, minute=0.05) as llm, openai_client(llm) as client:
        for _ in range(2):
            with pytest.raises(openai.RateLimitError) as caught:
                ask(client)
            assert caught.value.response.headers["retry-after"] == "1"
            assert int(caught.value.response.headers["retry-after-ms"]) == 4
        assert "<tool_search>" in ask(client)
        llm.begin_run("again")
        with pytest.raises(openai.RateLimitError):
            ask(client)
        assert [request.run for request in llm.requests()] == ["run-1"] * 3 + ["again"]
        assert len(llm.requests("again")) == 1


def test_error_and_garbage() -> None:
    with FakeLLM(mix={"error500": 1}, minute=0.05) as llm, openai_client(llm) as client:
        with pytest.raises(openai.InternalServerError):
            ask(client)
    with FakeLLM(mix={"garbage": 1}, minute=0.05) as llm, openai_client(llm) as client:
        with pytest.raises(ValueError):  # noqa: PT011 - json's own error; its text is not ours
            ask(client)


def test_classifier_is_no_task_and_may_hang() -> None:
    text = "Classify the following error of case 5: timeout after 60 seconds"
    with FakeLLM(mix={"error500": 1}, minute=0.05, deadline=0.001) as llm, openai_client(llm) as client:
        first, second = ask(client, text), ask(client, text)
        assert json.loads(first)["category"] == json.loads(second)["category"]
        assert {(request.task, request.behaviour, request.late) for request in llm.requests()} == {
            ("classifier", "classifier", False)}
    with FakeLLM(classifier="hang", minute=0.05) as llm, openai_client(llm, timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            ask(client, text)


def test_log_marks_what_begins_after_the_deadline_of_its_task_and_run() -> None:
    with FakeLLM(minute=0.05, deadline=0.2) as llm, openai_client(llm) as client:
        ask(client, "case 1")
        first = llm.requests()[0]
        while time.monotonic() <= first.start + 0.2:
            time.sleep(0.01)
        ask(client, "case 1")
        ask(client, "case 2")
        llm.begin_run("second")
        ask(client, "case 1")
        one, late, other, again = llm.requests()
        assert [request.late for request in (one, late, other, again)] == [False, True, False, False]
        assert late.after_deadline == pytest.approx(late.start - one.start - 0.2, abs=1e-6)
        assert late.end is not None
        assert late.held_after_deadline == pytest.approx(late.end - one.start - 0.2, abs=1e-6)
        assert set(llm.log().runs) == {"run-1", "second"}


def test_log_holds_neither_keys_nor_messages_nor_headers() -> None:
    with FakeLLM(minute=0.05) as llm, openai_client(llm, default_headers={"x-private": "private-header"}) as client:
        ask(client, "case 1 with a very private sentence")
        ask(client, "no name but a very private sentence")
        written = llm.log_path.read_text()
        assert [request.task[:5] for request in llm.requests()] == ["1", "text:"]
    assert "chat/completions" in written
    for secret in ("secret-key", "private", "sentence"):
        assert secret not in written


def test_task_header_wins_and_the_pattern_can_be_changed() -> None:
    with FakeLLM(minute=0.05, task_pattern=r"job <(\w+)>") as llm, openai_client(llm) as client:
        ask(client, "this is job <left9> of case 4")
        ask(client, "this is job <left9>", extra_headers={"x-fake-llm-task": "by-header"})
        assert [request.task for request in llm.requests()] == ["left9", "by-header"]


def test_a_hundred_connections_at_once() -> None:
    mix = {"hang": 40, "trickle": 20, "search": 20, "good": 20}
    with FakeLLM(mix=mix, seed=3, minute=0.5) as llm, contextlib.ExitStack() as sockets:
        for number in range(100):
            sockets.enter_context(raw_request(llm, f"case {number}"))
        requests = until(lambda: llm.requests() if len(llm.requests()) == 100 else None)
        assert isinstance(requests, list)
        assert Counter(request.behaviour for request in requests) == mix
        assert all(request.behaviour == llm.behaviour(request.task) for request in requests)
        until(lambda: sum(request.outcome == "answered" for request in llm.requests()) == 40)


def test_stopping_the_server_closes_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with FakeLLM(mix={"hang": 1}, log=path) as llm, raw_request(llm, "case 1") as connection:
        until(llm.requests)
        llm.close()
        assert read_to_end(connection) == b""
        llm.close()
    log = read_log(path)
    assert [request.outcome for request in log.requests] == ["server_stopped"]
    assert log.stopped is not None
    assert log.connections[0].by == "server"


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"event":"run","run":"a","t":1.0,"wall":2.0}\n{"event":"start","id"')
    assert read_log(path).runs == {"a": 1.0}


PARENT = """
import sys
from threadsafe_timeout.testing.fake_llm import FakeLLM
llm = FakeLLM(mix={"hang": 1})
print(llm.pid, llm.port, flush=True)
sys.stdin.read()
"""


def test_the_server_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pid, port = map(int, parent.stdout.readline().split())
        with socket.create_connection(("127.0.0.1", port), timeout=BOUND) as connection:
            parent.kill()
            assert read_to_end(connection) == b"", "the server closes its connections as it ends"
    until(lambda: is_gone(pid))


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:  # FileNotFoundError, or ProcessLookupError if it ends while it is read
        return True


def test_by_hand_it_says_where_it_listens_and_ends_with_ctrl_c() -> None:
    command = [sys.executable, "-m", "threadsafe_timeout.testing.fake_llm", "--mix", "good", "--log", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "run"
        said = json.loads(process.stdout.readline())
        socket.create_connection(("127.0.0.1", said["port"]), timeout=BOUND).close()
        os.kill(said["pid"], signal.SIGINT)
        assert process.wait(BOUND) == 0


@pytest.mark.parametrize("arguments", [["--mix", "nice=1"], ["--minute", "0"], ["--port", "99999"],
                                       ["--task-pattern", "("], ["--mix", "good=x"], ["--storm", "0"],
                                       ["--task-pattern", "none"], ["--mix", "good,good"], ["--tasks", "0"]])
def test_options_that_make_no_sense_are_refused_in_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "threadsafe_timeout.testing.fake_llm", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fake-llm: ")


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RuntimeError, match="cannot listen on"):
        FakeLLM(port=taken.getsockname()[1])


def test_missing_h11_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h11.py").write_text("raise ModuleNotFoundError('no h11 here', name='h11')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="fake-llm"):
        FakeLLM()


def test_deck_deals_the_mix_exactly_and_always_the_same() -> None:
    mix = {"hang": 40, "trickle": 20, "search": 20, "good": 20}
    deck = Deck(mix, seed=5)
    assert Counter(deck.behaviour(f"case-{n}") for n in range(1, 101)) == mix
    assert Deck(mix, seed=5).cards == deck.cards != Deck(mix, seed=6).cards
    assert Counter(Deck(mix, 0, 7).cards) == {"hang": 3, "trickle": 2, "search": 1, "good": 1}
    assert deck.behaviour("a name without a number") == deck.behaviour("a name without a number")
    assert deck.behaviour("x7") == deck.behaviour("107")


def test_mix_is_parsed_and_checked() -> None:
    assert parse_mix("hang=2, good") == {"hang": 2, "good": 1}
    for wrong in ("", "hang=0", "nice=1", "hang=-1", "hang=1.5", "hang,hang"):
        with pytest.raises(ValueError, match=r"mix|behaviour"):
            parse_mix(wrong)
    with pytest.raises(ValueError, match="whole numbers"):
        FakeLLM(mix={"good": True})


def test_options_survive_their_command_line() -> None:
    import argparse

    from threadsafe_timeout.testing.fake_llm import _options

    options = ServerOptions(mix={"hang": 1, "good": 2}, seed=-3, minute=0.5, deadline=2.0, tasks=9, log="-x",
                            storm=4, classifier="hang", task_pattern=r"-(\d+)")
    parser = argparse.ArgumentParser()
    _options.add_arguments(parser)
    assert _options.from_arguments(parser.parse_args(options.to_arguments())) == options


def talk(behaviour: str, turns: int) -> list[str]:
    messages = [{"role": "user", "content": PROMPT}]
    for _ in range(turns):
        messages.append({"role": "assistant", "content": say(behaviour, "3", messages)})
    return [message["content"] for message in messages[1:]]


def test_loops_never_end_and_differ_in_kind() -> None:
    search, paraphrase, cycle = (talk(name, 12) for name in ("search", "paraphrase", "cycle"))
    assert len(set(search)) == 12
    assert len(set(paraphrase)) == 12
    words = [set(text.split("<tool_search>")[1].removesuffix("</tool_search>").split()) for text in paraphrase]
    assert all(len(a & b) / len(a | b) >= 0.85 for a, b in itertools.pairwise(words))
    assert cycle == cycle[:2] * 6
    assert all("<tool_search>" in text for text in search + paraphrase + cycle)


def test_required_tools_are_read_from_a_line_a_list_or_bullets() -> None:
    for text in ("Required tools: one_tool, two_tool", "required_tools = ['one_tool', 'two_tool']",
                 "**Required Tools:**\n- one_tool\n- two_tool: second\n\nother_tool"):
        assert required_tools([{"role": "user", "content": text}])[:2] == ["one_tool", "two_tool"]
    assert required_tools([{"role": "user", "content": "nothing is needed"}]) == []
    assert is_classification("m", [{"role": "user", "content": "classify the error"}])
    assert not is_classification("m", [{"role": "user", "content": PROMPT}])


def test_fixture_starts_servers_that_end_with_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(
        "def test_it(fake_llm):\n"
        "    llm = fake_llm(mix={'hang': 1}, minute=0.1)\n"
        "    open('pid', 'w').write(str(llm.pid))\n"
        "    assert llm.requests() == []\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_starting_and_closing_leaves_no_thread_and_no_file() -> None:
    threads = set(threading.enumerate())
    with FakeLLM() as llm:
        folder = llm.log_path.parent
        assert set(threading.enumerate()) <= threads
        assert "running" in repr(llm)
    assert not folder.exists()
    assert "ended" in repr(llm)
