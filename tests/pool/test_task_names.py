"""What a task is called: its name, its key, or its function and its arguments in short; never with a secret in it."""

from __future__ import annotations

import contextvars
import enum
import functools
import logging
import pathlib
import string
import threading

import pytest
import wrapt
from blocked import LONG
from hypothesis import given
from hypothesis import strategies as st

from threadsafe_timeout import DeadlineExceeded, ThreadPoolExecutor, sleep
from threadsafe_timeout._introspection.arguments import is_telling, short_arguments
from threadsafe_timeout._introspection.names import called
from threadsafe_timeout._introspection.secrets import is_name_of_secret, without_secrets
from threadsafe_timeout.checkpoint import CheckpointWriter

SECRET = "aB3dE5gH7jK9mN1pQ3sTuV"


def ask(question, *more, model="m", api_key=None, **others):
    pass


class Runner:
    def ask(self, question, api_key=None):
        pass

    @classmethod
    def of_class(cls, question):
        pass

    def __call__(self, question, token=None):
        pass

    def __repr__(self):
        raise AssertionError("it is not to be called")


class Colour(enum.Enum):
    RED = SECRET


class ApiKey(enum.Enum):
    LIVE = "live"


class Retrying:
    def __init__(self, func):
        self.func = func

    def __call__(self, *args):
        return self.func(*args)


@functools.wraps(ask)
def wrapping(*args, **kwargs):
    return ask(*args, **kwargs)


@wrapt.decorator
def decorated(wrapped, _instance, args, kwargs):
    return wrapped(*args, **kwargs)


# Names


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "name"),
    [
        (ask, ("q7",), {}, "ask('q7')"),
        (ask, ("q7",), {"model": "n"}, "ask('q7', model='n')"),
        (ask, (), {}, "ask #3"),
        (ask, (object(),), {}, "ask(<object>) #3"),
        (ask, (Runner(), 1), {}, "ask(<Runner>, 1) #3"),
        (ask, (1, 2.5, True, None, b"ab"), {}, "ask(1, 2.5, True, None, b'ab')"),
        (ask, (-7, float("nan"), 10**200), {}, "ask(-7, nan, <int>) #3"),
        (ask, ((1,), [2, "b"], {"id": 3}), {}, "ask((1,), [2, 'b'], {'id': 3})"),
        (ask, (([[1]]),), {}, "ask([[1]])"),
        (ask, ([[[1]]],), {}, "ask([[<list>]]) #3"),
        (ask, ((), [], {}, ""), {}, "ask((), [], {}, '')"),
        (ask, ({1, 2},), {}, "ask(<set>) #3"),
        (ask, ([1, 2, 3, 4, 5],), {}, "ask([1, 2, 3, 4, …]) #3"),
        (ask, (pathlib.PurePosixPath("a/b.json"),), {}, "ask('a/b.json')"),
        (ask, (Colour.RED,), {}, "ask(Colour.RED)"),
        (ask, ("What is the capital of France, and of Spain?",), {}, "ask('What is the capital of France, and of…') #3"),
        (Runner().ask, ("q7",), {}, "Runner.ask('q7')"),
        (Runner.ask, (Runner(), "q7"), {}, "Runner.ask(<Runner>, 'q7') #3"),
        (Runner.of_class, ("q7",), {}, "Runner.of_class('q7')"),
        (Runner(), ("q7",), {}, "Runner('q7')"),
        (Retrying(ask), ("q7",), {}, "Retrying(ask)('q7')"),
        (functools.partial(ask, "q7"), ("x",), {"model": 2}, "ask('q7', 'x', model=2)"),
        (functools.partial(ask, model=1), ("q7",), {"model": 2}, "ask('q7', model=2)"),
        (contextvars.copy_context().run, (ask, "q7"), {}, "ask('q7')"),
        (functools.partial(contextvars.copy_context().run, ask), ("q7",), {}, "ask('q7')"),
        (decorated(ask), ("q7",), {}, "ask('q7')"),
        (max, (1, 2), {}, "max(1, 2)"),
    ],
)
def test_a_call_is_told_from_others(function, args, kwargs, name):
    assert called(function, args, kwargs, 3) == name


def test_a_path_is_known_by_its_end():
    path = pathlib.PurePosixPath("/data/one/of/many/folders/in/many/folders/q7.json")
    assert called(ask, (path,), {}, 3).endswith("/folders/q7.json') #3")


# Secrets


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "shown"),
    [
        (ask, ("q7",), {"api_key": "hunter2"}, "'q7', api_key=***"),
        (ask, ("q7",), {"Authorization": "hunter2"}, "'q7', Authorization=***"),
        (ask, ({"id": 1, "password": "hunter2"},), {}, "{'id': 1, 'password': ***}"),
        (ask, ({"X-Api-Key": ["hunter2"]},), {}, "{'X-Api-Key': ***}"),
        (ask, ([("cookie", "hunter2")],), {}, "[('cookie', ***)]"),
        (ask, (ApiKey.LIVE,), {}, "<ApiKey>"),
        (Runner().ask, ("q7", "hunter2"), {}, "'q7', ***"),
        (Runner(), ("q7", "hunter2"), {}, "'q7', ***"),
        (Runner.ask, (None, "q7", "hunter2"), {}, "None, 'q7', ***"),
        (functools.partial(Runner().ask, "q7"), ("hunter2",), {}, "'q7', ***"),
        (contextvars.copy_context().run, (Runner().ask, "q7", "hunter2"), {}, "'q7', ***"),
        (Retrying(Runner().ask), ("q7", "hunter2"), {}, "'q7', ***"),
        (decorated(Runner().ask), ("q7", "hunter2"), {}, "'q7', ***"),
        (functools.wraps(Runner.ask)(lambda *args: None), (None, "q7", "hunter2"), {}, "None, 'q7', ***"),
        (lambda *keys: None, ("hunter2", "hunter2"), {}, "***, ***"),
        (lambda client, headers, session: None, (1, 2, 3), {}, "***, ***, ***"),
    ],
)
def test_what_is_called_like_a_secret_is_not_shown(function, args, kwargs, shown):
    name = called(function, args, kwargs, 3)
    assert f"({shown})" in name
    assert "hunter2" not in name
    assert name.endswith(" #3")


LOOKING_LIKE_SECRETS = [
    "sk-proj-abcdefgh", "sk-ant-api03-xyz-123", "pk-lf-12345678", "sk_live_abcdefgh", "ghp_abcdefghijkl", "github_pat_11ABCDEF", "glpat-abcdefgh",
    "xoxb-123456-abc", "AKIAIOSFODNN7EXAMPLE", "AIzaSyA1234567", "hf_abcdefgh", "gsk_abcdefgh", "Bearer abc", "bearer a.b-c",
    "Basic dXNlcjpwYXNz", "eyJhbGciOi.eyJzdWIi.SflKxw", SECRET, "deadbeefdeadbeefdeadbeef", "0123456789abcdef0123456789abcdef",
    "password=hunter2", "api_key: hunter2", "'token': 'hunter 2'", '{"secret": "hunter2"}', "Authorization: Basic aHVudGVyMg==",
    "Cookie: a=hunter2; b=hunter2", "https://user:hunter2@host/path", "postgres://u:p@ss/w@rd@host/db", "https://host/?token=hunter2&x=1",
    "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n",
]  # fmt: skip
SECRET_PARTS = ["hunter2", "p@ss", "w@rd", "dXNlcjpwYXNz", "MIIEvQ", "EXAMPLE", "abcdefgh", "SflKxw", "beef", "cdef", SECRET[:6]]


@pytest.mark.parametrize("secret", LOOKING_LIKE_SECRETS)
@pytest.mark.parametrize("around", ["{}", "my {} here", "\t{}\n", "x='{}'", "({})"])
def test_what_looks_like_a_secret_is_not_shown(secret, around):
    text = around.format(secret)
    for given_ in (text, text.encode(), [text], {"a": text}, {text: 1}, pathlib.PurePosixPath(text)):
        shown = short_arguments(ask, (given_,), {"more": given_})
        assert not any(part in shown for part in (secret, *SECRET_PARTS)), shown
    assert "***" in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "q7", "task-17", "What is the risk-free rate?", "gpt-4o-mini-2024-07-18", "claude-3-5-sonnet-20241022", "/data/2025/11/29/q7_final_v2.json",
        "https://example.org/a/b.html?page=2", "this_is_a_long_snake_case_identifier", "disk-usage", "a" * 19, "模型-1", "the basic question",
    ],
)  # fmt: skip
def test_what_does_not_is_shown(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize("name", ["key", "api_key", "API-KEY", "apikey", "auth", "x_token", "secrets", "Cookie", "http_client", "headers", "sessionId", "pwd"])
def test_names_of_secrets(name):
    assert is_name_of_secret(name)


@pytest.mark.parametrize("name", ["", "question", "model", "n", "id", "path", "x" * 200 + "key"])
def test_other_names(name):
    assert not is_name_of_secret(name)


# Any arguments


def hostile(*_):
    raise AssertionError("the program's code was called")


class Meta(type):
    __eq__ = hostile
    __hash__ = type.__hash__
    __instancecheck__ = __subclasscheck__ = __getattribute__ = __repr__ = hostile


class Hostile(metaclass=Meta):
    __repr__ = __str__ = __getattribute__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __class__ = hostile  # type: ignore[assignment]


class HostileText(str):
    __slots__ = ()
    __repr__ = __str__ = __len__ = __getitem__ = __getattribute__ = hostile  # type: ignore[assignment]


def hostile_objects():
    return [object.__new__(Hostile), str.__new__(HostileText, "x")]


def test_none_of_the_programs_code_is_called():
    for one in hostile_objects():
        for given_ in (one, [one], (one,), {1: one}):
            shown = short_arguments(ask, (given_,), {"more": given_})
            assert "<Hostile" in shown


alphabets = st.sampled_from([string.ascii_letters + string.digits, string.ascii_lowercase + string.digits, "0123456789abcdef", string.ascii_letters + string.digits + "+/"])
PREFIXES = ["sk-", "ghp_", "xoxb-", "AKIA", "Bearer ", "eyJ", "password=", "https://u:"]
SHORT = ["", *PREFIXES]


beside = st.text(" .,;:-/?'\"(){}=\n\té模", max_size=50)  # nothing that could be part of it


@st.composite
def secrets(draw):
    """Random, and known by its beginning or by its length."""
    prefix = draw(st.sampled_from(SHORT))
    letters = draw(alphabets)
    body = draw(st.text(letters, min_size=16 if prefix else 24, max_size=60).filter(lambda text: looks_random(text) or prefix))
    return prefix, body, prefix + body + ("@host" if prefix == "https://u:" else "")


def looks_random(text):
    """As one that is made at random does: the few that happen to look like a word cannot be told from one."""
    return without_secrets(text) == "***"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.sampled_from([Colour.RED, pathlib.Path("a"), object()]),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)  # fmt: skip


@given(st.lists(values, max_size=20), st.dictionaries(st.text(), values, max_size=5))
def test_any_arguments_are_shown_in_short(args, kwargs):
    shown = short_arguments(ask, args, kwargs)
    assert len(shown) <= 80
    assert shown.isprintable()
    assert is_telling(shown) in (True, False)
    for one in args:
        assert len(short_arguments(max, (one,), {})) <= 40


@given(secrets(), beside, beside, st.integers(0, 7))
def test_no_planted_secret_is_shown(secret, before, after, way):
    _, body, whole = secret
    text = f"{before} {whole} {after}"
    given_ = [text, whole, [whole], {"a": whole}, {whole: 1}, ("x", {"a": [whole]}), text.encode("utf-8", "replace"), {"n": 1, "text": text}][way]
    shown = short_arguments(ask, (given_, given_), {"more": given_})
    assert not any(body[at : at + 8] in shown for at in range(len(body) - 7)), shown


def test_a_list_that_changes_meanwhile_is_no_error():
    class Changing(dict):
        pass

    assert short_arguments(ask, (Changing(a=1),), {}) == "<Changing>"
    assert short_arguments(None, (1,), {}) == "1"
    assert short_arguments(ask, None, {}) == "…"  # type: ignore[arg-type]


# Pools


def expires(question, *, api_key=None):
    sleep(LONG)


def test_two_tasks_of_one_function_are_told_apart(caplog):
    with ThreadPoolExecutor(2, task_timeout=0.05, grace=LONG) as pool:
        pool.on_event((events := []).append)
        first, second = pool.submit(expires, "q7", api_key="hunter2"), pool.submit(expires, object())
        errors = [future.exception(LONG) for future in (first, second)]
    assert pool._crew.events.flush(LONG)
    assert [error.name for error in errors] == ["expires('q7', api_key=***) #1", "expires(<object>) #2"]
    assert {event.task for event in events} == {error.name for error in errors}
    assert {record.task for record in caplog.records} == {error.name for error in errors}
    assert "hunter2" not in caplog.text + repr(events) + repr(errors) + "".join(map(str, errors))


def test_a_name_and_a_key_win(tmp_path):
    gate = threading.Event()
    with CheckpointWriter(tmp_path / "run.jsonl") as writer, ThreadPoolExecutor(3, checkpoint=writer) as pool:
        begun = threading.Semaphore(0)

        def wait(_number):
            begun.release()
            gate.wait(LONG)

        pool.submit(wait, 1)
        pool.with_options(key="k2").submit(wait, 2)
        pool.with_options(key=lambda number: f"k{number}", name="the third").submit(wait, 3)
        for _ in range(3):
            assert begun.acquire(timeout=LONG)
        tasks = {worker.task.rpartition(".")[2] for worker in pool.health().workers}
        gate.set()
    assert tasks == {"wait(1)", "k2", "the third"}


def test_no_name_is_made_of_a_task_that_ends_well(monkeypatch):
    """`submit`, running and settling cost what they did."""
    from threadsafe_timeout._pool import task as module

    monkeypatch.setattr(module, "called", hostile)
    with ThreadPoolExecutor(2, task_timeout=LONG) as pool:
        assert [future.result(LONG) for future in [pool.submit(int, number) for number in range(20)]] == list(range(20))
        settled = pool.with_options(settle=lambda outcome: outcome.result).submit(int, 7)
        assert settled.result(LONG) == 7
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result(LONG)


def test_the_name_outlives_the_call(caplog):
    """It is needed once more when an abandoned thread ends after all."""
    caplog.set_level(logging.WARNING, "threadsafe_timeout")
    gate = threading.Event()

    def acquire(_number):  # the name says that no interrupt strikes in it
        gate.wait(LONG)

    with ThreadPoolExecutor(1, task_timeout=0.05, grace=0.05) as pool:
        future = pool.submit(acquire, 17)
        error = future.exception(LONG)
        assert isinstance(error, DeadlineExceeded)
        gate.set()
    assert error.name.endswith("acquire(17)")
    while not any(record.event == "late" for record in caplog.records):
        assert pool._crew.events.flush(LONG)
    assert {record.task for record in caplog.records} == {error.name}
